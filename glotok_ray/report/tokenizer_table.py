"""Tokenizers side by side: published numbers with their source, ours, the rate, size and speed; as Markdown and CSV.

Read next: glotok_ray/report/tokenizer_footnotes.py
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glotok_ray.evaluation.crop_protocols import CROP_TEXTS
from glotok_ray.peers.released import CropProtocol
from glotok_ray.report.markdown import markdown_table, shown_number
from glotok_ray.report.tokenizer_footnotes import FOOTNOTES

_METRICS = {
    "frechet_inception": "rFID",
    "own_frechet_inception": "rFID, own protocol",
    "psnr": "PSNR",
    "own_psnr": "PSNR, own protocol",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "frechet_effnet": "FD-EffNet",
    "encode_images_per_second": "encode images/s",
    "decode_images_per_second": "decode images/s",
}
"""Names of measured values, in the order of the columns, and their heads."""


@dataclass(frozen=True, kw_only=True)
class TokenizerRow:
    """One tokenizer of a comparison."""

    name: str
    """Of its folder, or of the released file."""
    system: str
    """A name of `glotok_ray.peers.systems`, or the layout of a file of our own kind; empty for ours."""
    image_size: int
    """Side of the crops, pixels."""
    indices: int
    """Per image of that side."""
    bits: float
    """Per image of that side."""
    parameters: int
    published_rfid: float | None
    published_psnr: float | None
    published_in: str
    """Source of the published numbers, and what keeps them from being compared."""
    psnr_protocol: str
    """How the authors take PSNR."""
    crop_protocol: CropProtocol = "adm"
    """How the authors cut validation images."""
    feature_pixels: str = "rounded"
    """What the authors' feature network gets."""
    licence: str
    metrics: Mapping[str, float]


def columns(rows: Sequence[TokenizerRow]) -> list[str]:
    """Heads of the table; of metrics those that were measured."""
    measured = [head for name, head in _METRICS.items() if any(name in row.metrics for row in rows)]
    fixed = ["tokenizer", "side", "indices", "bits per image", "bits per pixel", "parameters"]
    return [*fixed, "published rFID", "published PSNR", *measured]


def cells(row: TokenizerRow, heads: Sequence[str]) -> list[str]:
    """The row under these heads."""
    values: dict[str, Any] = {
        "tokenizer": row.name,
        "side": str(row.image_size),
        "indices": f"{row.indices:,}",
        "bits per image": f"{row.bits:,.0f}",
        "bits per pixel": f"{row.bits / row.image_size**2:.4f}",
        "parameters": f"{row.parameters / 1e6:.1f} M",
        "published rFID": _printed(row.published_rfid),
        "published PSNR": _printed(row.published_psnr),
    }
    values |= {head: shown_number(row.metrics.get(name)) for name, head in _METRICS.items()}
    return [values[head] for head in heads]


def markdown(rows: Sequence[TokenizerRow], *, title: str, protocol: str) -> str:
    """The table with its protocol, the sources of published numbers, and footnotes to the paper's Table 1."""
    heads = columns(rows)
    table = markdown_table(heads, [cells(row, heads) for row in rows])
    parts = [f"# {title}", protocol, table]
    if sources := sources_of(rows):
        parts.append("## Sources\n\n" + "\n".join(f"- {line}" for line in sources))
    if notes := notes_of(rows):
        heading = "## What the paper's Table 1 says of them\n\n"
        parts.append(heading + "\n".join(f"- {line}" for line in notes))
    return "\n\n".join(parts) + "\n"


def sources_of(rows: Sequence[TokenizerRow]) -> list[str]:
    """Where published numbers are from, how their authors measure, and licences; one sentence or more per row."""
    return [
        f"{row.name}: published numbers: {row.published_in or 'none'}; {_own_protocol(row)}."
        f"{f' Licence: {row.licence}.' if row.licence else ''}"
        for row in rows
        if row.published_in or row.licence
    ]


def _own_protocol(row: TokenizerRow) -> str:
    nearest = " (here of the nearest 8-bit ones)" if row.feature_pixels == "unrounded" else ""
    return (
        f"own protocol: {CROP_TEXTS[row.crop_protocol]}, PSNR of {row.psnr_protocol} pixels, features of "
        f"{row.feature_pixels} ones{nearest}"
    )


def notes_of(rows: Sequence[TokenizerRow]) -> list[str]:
    """Footnotes to the paper's Table 1, one per system that needs one."""
    systems = dict.fromkeys(row.system for row in rows)
    return [FOOTNOTES[system] for system in systems if system in FOOTNOTES]


def comma_separated(rows: Sequence[TokenizerRow]) -> str:
    """All values of all rows as CSV, unrounded."""
    names = [name for name in _METRICS if any(name in row.metrics for row in rows)]
    facts = ("name", "system", "image_size", "indices", "bits", "parameters", "published_rfid")
    facts = (*facts, "published_psnr", "published_in", "psnr_protocol", "crop_protocol")
    facts = (*facts, "feature_pixels", "licence")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*facts, *names])
    for row in rows:
        writer.writerow(
            [*(getattr(row, fact) for fact in facts), *(row.metrics.get(name) for name in names)]
        )
    return text.getvalue()


def _printed(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
