"""The paper's Tables 4 and 5, and the two systems of Table 1, with small-scale numbers beside the published ones.

Read next: glotok_ray/stages/ablations.py
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from glotok_ray.report.markdown import shown_number, titled_table


class Row(NamedTuple):
    """One line of a published table."""

    cells: tuple[str, ...]
    """What the paper prints before its numbers."""
    rfid: str
    psnr: str
    row: str
    """Name of `glotok_ray.recipes.tokenizer_rows.ROWS`."""


TABLES = {
    "Table 4: effect of the histogram relation (without residual learning)": (
        ("histogram relation", "weight"),
        (
            Row(("no", "-"), "1.43", "22.06", "vanilla_dual"),
            Row(("yes", "0.1"), "1.27", "21.97", "relation_weight_01"),
            Row(("yes", "0.01"), "1.21", "22.23", "relation_only"),
        ),
    ),
    "Table 5: effect of the components": (
        ("histogram relation", "residual"),
        (
            Row(("no", "no"), "1.43", "22.06", "vanilla_dual"),
            Row(("yes", "no"), "0.97", "22.30", "relation_only"),
            Row(("yes", "yes"), "0.92", "22.44", "glotok"),
        ),
    ),
    "Table 1: the systems compared with": (
        ("system",),
        (
            Row(("VQ-VAE of LlamaGen, one codebook",), "2.19", "20.7", "single_codebook"),
            Row(("FQGAN-Dual, local contrast",), "0.94", "22.0", "local_contrast"),
            Row(("GloTok",), "0.92", "22.4", "glotok"),
        ),
    ),
}
_HEADS = ("rFID (paper)", "PSNR (paper)", "FD-EffNet (here)", "PSNR (here)", "relation KL (here)")
_METRICS = ("fd_effnet", "psnr", "relation_kl")


def ablation_tables(measured: Mapping[str, Mapping[str, Any]], *, scale: str) -> str:
    """Markdown; `measured` holds the metrics of each row that was trained, `scale` says at which size."""
    blocks = [
        f"Small scale: {scale}. The two columns of the paper are ImageNet at 256 pixels and full length; they stand "
        "beside ours for the layout alone. FD-EffNet is not FID. All rows have the small recipe's loss weights, its "
        "entropy term included; the paper's first row of Table 5 seems to be Table 4's, of 40 epochs."
    ]
    for title, (columns, rows) in TABLES.items():
        shown = [row for row in rows if row.row in measured]
        if shown:
            cells = [_cells(row, measured[row.row]) for row in shown]
            blocks.append(titled_table(title, (*columns, *_HEADS), cells))
    return "\n\n".join(blocks)


def _cells(row: Row, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    measured = (shown_number(metrics.get(name)) for name in _METRICS)
    return (*row.cells, row.rfid, row.psnr, *measured)
