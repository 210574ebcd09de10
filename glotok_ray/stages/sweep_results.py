"""What a sweep leaves: tables, the page, a plot and the best recipe as a file.

Read next: glotok_ray/report/sweep_summary.py
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from glotok_ray.config.overrides import to_dict
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.recipes import sweep_parts
from glotok_ray.report.plots import plot_sweep
from glotok_ray.report.sweep_charts import points_of
from glotok_ray.report.sweep_page import render_sweep
from glotok_ray.report.sweep_summary import (
    FinalistSummary,
    finalists_frame,
    label,
    ranked_finalists,
    ranked_trials,
    trials_frame,
)
from glotok_ray.report.sweep_table import finalists_table, sweep_table
from glotok_ray.stages.failed_rows import FAILED
from glotok_ray.stages.sweep_finalists import Finalist
from glotok_ray.storage import artefact
from glotok_ray.training.trials import Trial, TrialRecord

BEST_FILE = "best_recipe.json"


def write_results(
    config: SweepRun,
    records: Sequence[TrialRecord],
    finalists: Sequence[Finalist],
    measured: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> str:
    """Write everything from the trials and from the finalists' metrics by name; returns the best trial's name."""
    ranked = ranked_trials(config, records)
    summaries = ranked_finalists(config, summarized(finalists, measured))
    best = best_trial(ranked, summaries)
    frame = trials_frame(ranked)
    _write_csv(folder / "results.csv", frame)
    if summaries:
        _write_csv(folder / "finalists.csv", finalists_frame(summaries))
    tables = sweep_table(frame) + finalists_table(config, summaries)
    (folder / "table.md").write_text(tables + "\n")
    page = render_sweep(config, ranked, frame, summaries, best.changes)
    (folder / "sweep.html").write_text(page)
    shown = [
        (point.record.trial.name, point.distance, point.value)
        for point in points_of(config, ranked)
    ]
    plot_sweep(shown, label(config.judged_by), folder / "sweep.png")
    artefact.write_json(folder / BEST_FILE, to_dict(sweep_parts.best(config, best.changes)))
    return best.name


def _write_csv(path: Path, frame: pandas.DataFrame) -> None:
    # By a stream: the path may be an object's, of which pandas knows nothing.
    with path.open("w", newline="", encoding="utf-8") as stream:
        frame.to_csv(stream, index=False)


def best_trial(ranked: Sequence[TrialRecord], finalists: Sequence[FinalistSummary]) -> Trial:
    """That of the best finalist, or where there are none the best trial."""
    whole = [item for item in finalists if item.rows]
    return whole[0].trial if whole else ranked[0].trial


def summarized(
    finalists: Sequence[Finalist], measured: Mapping[str, Mapping[str, Any]]
) -> list[FinalistSummary]:
    """The finalists' metrics by trial and seed."""
    by_trial: dict[str, list[Finalist]] = {}
    for item in finalists:
        by_trial.setdefault(item.trial.name, []).append(item)
    return [
        FinalistSummary(
            trial=items[0].trial,
            rows={
                item.seed: {k: v for k, v in measured[item.name].items() if k != FAILED}
                for item in items
                if not measured[item.name].get(FAILED)
            },
            failed={
                item.seed: str(measured[item.name][FAILED])
                for item in items
                if measured[item.name].get(FAILED)
            },
        )
        for items in by_trial.values()
    ]
