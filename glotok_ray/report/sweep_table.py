"""The ranked trials of a sweep as a table.

Read next: glotok_ray/stages/sweep_tokenizer.py
"""

import pandas


def sweep_table(ranked: pandas.DataFrame) -> str:
    """The ranked trials as a Markdown table."""
    heads = [
        "trial",
        "lambda_hist",
        "bins",
        "alpha",
        "PSNR (dB)",
        "FD-EffNet",
        "semantic usage",
        "visual usage",
        "mean rank",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in ranked.itertuples(index=False):
        cells = [
            "-"
            if not isinstance(value, str) and pandas.isna(value)
            else value
            if isinstance(value, str)
            else f"{value:.4g}"
            for value in row
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
