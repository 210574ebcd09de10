"""Sets of evaluations that belong into one report.

Read next: jobs/report_results.py
"""

from collections.abc import Callable

from glotok_ray.config.report import ReportRun
from glotok_ray.recipes import evaluate_images

_SMALL = ("quickstart", "quickstart_far")


def paper() -> ReportRun:
    """All evaluations of full size that are finished: both tokenizers, and the generators of Table 2."""
    return ReportRun(
        evaluations=tuple(
            make().output_path
            for name, make in evaluate_images.RECIPES.items()
            if name not in _SMALL
        ),
        skip_missing=True,
        output_path="runs/report",
    )


def quickstart() -> ReportRun:
    """The evaluations of a finished quickstart: tokenizer, twin, xAR and FAR."""
    return ReportRun(evaluations=("runs/quickstart",), output_path="runs/quickstart_report")


RECIPES: dict[str, Callable[[], ReportRun]] = {"paper": paper, "quickstart": quickstart}
