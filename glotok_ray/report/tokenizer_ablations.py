"""The paper's Tables 4 and 5, and the two systems of Table 1, with small-scale numbers beside the published ones.

Read next: glotok_ray/stages/ablations.py
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from glotok_ray.report.markdown import shown_number, titled_table
from glotok_ray.report.published import published_numbers


class Row(NamedTuple):
    """One line of a published table."""

    cells: tuple[str, ...]
    """What stands before its numbers."""
    table: int
    place: int
    """Of the paper's numbers: the table, and the row in it, from 1, as in published.csv."""
    row: str
    """Name of `glotok_ray.recipes.tokenizer_rows.ROWS`."""


TABLES = {
    "Table 4: effect of the histogram relation (without residual learning)": (
        ("histogram relation", "weight"),
        (
            Row(("no", "-"), 4, 1, "vanilla_dual"),
            Row(("yes", "0.1"), 4, 2, "relation_weight_01"),
            Row(("yes", "0.01"), 4, 3, "relation_only"),
        ),
    ),
    "Table 5: effect of the components": (
        ("histogram relation", "residual"),
        (
            Row(("no", "no"), 5, 1, "vanilla_dual"),
            Row(("yes", "no"), 5, 2, "relation_only"),
            Row(("yes", "yes"), 5, 3, "glotok"),
        ),
    ),
    "Table 1: the systems compared with": (
        ("system",),
        (
            Row(("VQ-VAE of LlamaGen, one codebook",), 1, 5, "single_codebook"),
            Row(("FQGAN-Dual, local contrast",), 1, 13, "local_contrast"),
            Row(("GloTok",), 1, 14, "glotok"),
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
    published = {
        (number.table, number.row, number.column): number.printed for number in published_numbers()
    }
    for title, (columns, rows) in TABLES.items():
        shown = [row for row in rows if row.row in measured]
        if shown:
            cells = [_cells(row, published, measured[row.row]) for row in shown]
            blocks.append(titled_table(title, (*columns, *_HEADS), cells))
    return "\n\n".join(blocks)


def _cells(
    row: Row, published: Mapping[tuple[int, int, str], str], metrics: Mapping[str, Any]
) -> tuple[str, ...]:
    paper = (published[row.table, row.place, column] for column in ("rFID", "PSNR"))
    measured = (shown_number(metrics.get(name)) for name in _METRICS)
    return (*row.cells, *paper, *measured)
