"""The ablation tables of xAR, with small-scale distances beside the published FID and IS.

Read next: glotok_ray/stages/ablations.py
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from glotok_ray.report.markdown import shown_number, titled_table


class Row(NamedTuple):
    """One line of a published table."""

    shown: str
    """What the paper prints before its numbers."""
    fid: str
    inception_score: str
    row: str
    """Name of `glotok_ray.recipes.generator_ablations.ROWS`."""


# Ren et al. 2025: xAR-B, ImageNet at 256 pixels, KL latents, 400 epochs.
_CELL_8 = ("2.48", "269.2", "cell_8")
TABLES = {
    "What is predicted at once": (
        "entity",
        (
            Row("token", "3.51", "251.4", "token"),
            Row("subsample", "3.58", "231.5", "subsample"),
            Row("whole image", "3.13", "253.4", "image"),
            Row("scale", "2.90", "262.8", "scale"),
            Row("cell", *_CELL_8),
        ),
    ),
    "Size of a cell": (
        "k",
        (
            Row("1", "3.51", "251.4", "token"),
            Row("2", "3.04", "-", "cell_2"),
            Row("4", "2.61", "-", "cell_4"),
            Row("8", *_CELL_8),
            Row("16", "3.13", "253.4", "image"),
        ),
    ),
    "Context in training (xAR, Table 5)": (
        "context",
        (
            Row("clean (teacher forcing)", "3.45", "243.5", "clean"),
            Row("increasing noise", "2.95", "258.8", "increasing"),
            Row("decreasing noise", "2.78", "262.1", "decreasing"),
            Row("random noise", *_CELL_8),
        ),
    ),
}
_HEADS = ("FID (paper)", "IS (paper)", "FD-EffNet (here)", "evaluations per image (here)")
_METRICS = ("fd_effnet", "evaluations_per_image")


def ablation_tables(measured: Mapping[str, Mapping[str, Any]], *, scale: str) -> str:
    """Markdown; `measured` holds the metrics of each row that was trained, `scale` says at which size."""
    blocks = [
        f"Small scale: {scale}. The paper's columns are xAR-B on KL latents of ImageNet at 256 pixels, 400 epochs; "
        "they stand beside ours for the layout alone. FD-EffNet is not FID, and each row is one training: small "
        "differences say nothing. All rows take equal steps per entity, so rows of more entities evaluate the network "
        "more often per image, on fewer tokens each time."
    ]
    for title, (column, rows) in TABLES.items():
        shown = [row for row in rows if row.row in measured]
        if shown:
            cells = [_cells(row, measured[row.row]) for row in shown]
            blocks.append(titled_table(title, (column, *_HEADS), cells))
    return "\n\n".join(blocks)


def _cells(row: Row, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    here = (shown_number(metrics.get(name)) for name in _METRICS)
    return (row.shown, row.fid, row.inception_score, *here)
