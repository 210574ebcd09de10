"""The ranked trials of a sweep as a table.

Read next: glotok_ray/stages/sweep_tokenizer.py
"""

from typing import Any

import pandas

from glotok_ray.report.markdown import markdown_table, shown_number

_HEADS = (
    "trial",
    "lambda_hist",
    "bins",
    "alpha",
    "PSNR (dB)",
    "FD-EffNet",
    "semantic usage",
    "visual usage",
    "mean rank",
)


def sweep_table(ranked: pandas.DataFrame) -> str:
    """The ranked trials as a Markdown table."""
    rows = ranked.itertuples(index=False)
    return markdown_table(_HEADS, ([_cell(value) for value in row] for row in rows))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else shown_number(value)
