"""What a sweep found, in order: trials by how far they came and how good they are, finalists by mean and spread.

Read next: glotok_ray/report/sweep_page.py
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas

from glotok_ray.config.sweeps import SweepRun
from glotok_ray.training.trials import STEP, Trial, TrialRecord

LABELS = {
    "loss.relation_weight": "lambda_hist",
    "loss.relation.num_bins": "bins",
    "loss.relation.alpha": "alpha",
    "fid": "rFID",
    "fd_effnet": "FD-EffNet",
    "psnr": "PSNR (dB)",
    "cosine_distance": "cosine distance to the teacher",
    "semantic_usage": "semantic usage",
    "visual_usage": "visual usage",
    "relation_kl": "relation KL",
    "images_per_s": "images/s",
}
"""Names of columns for people; others keep their dotted names."""
METRICS = ("fid", "fd_effnet", "psnr", "cosine_distance")
_ORDER = {"finished": 0, "stopped": 1, "": 2, "failed": 3}


def label(name: str) -> str:
    """A column's name for people."""
    return LABELS.get(name, name)


def loss_of(config: SweepRun, row: Mapping[str, Any]) -> float:
    """What a sweep minimises, of one evaluation; infinite where it was not measured."""
    value = row.get(config.judged_by)
    if value is None or math.isnan(value):
        return math.inf
    return -value if config.higher_is_better else value


def ranked_trials(config: SweepRun, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Best first: those that came to the end, then those that were stopped, the later the better, then those that
    failed.
    """
    return sorted(
        records,
        key=lambda record: (
            _ORDER[record.status],
            -record.last.get(STEP, 0),
            loss_of(config, record.last),
        ),
    )


def trials_frame(ranked: Sequence[TrialRecord]) -> pandas.DataFrame:
    """A row per trial: what was changed, where it ended, and its last evaluation."""
    rows = [
        {
            "trial": record.trial.name,
            "status": record.status,
            **record.trial.changes,
            **{name: value for name, value in record.last.items() if name != "unix_s"},
            "starts": record.starts,
            "failed": record.reason,
        }
        for record in ranked
    ]
    frame = pandas.DataFrame(rows)
    changed = [name for record in ranked for name in record.trial.changes]
    first = ["trial", "status", STEP, *dict.fromkeys(changed), *METRICS]
    first = [name for name in first if name in frame]
    rest = [name for name in frame if name not in first and name not in ("starts", "failed")]
    return frame.reindex(columns=[*first, *rest, "starts", "failed"])


class Spread(NamedTuple):
    """A metric over seeds."""

    mean: float
    std: float
    """Of the sample; NaN for one seed."""


@dataclass(frozen=True)
class FinalistSummary:
    """A finalist's settings over its seeds."""

    trial: Trial
    rows: Mapping[int, Mapping[str, Any]]
    """Metrics by seed."""
    failed: Mapping[int, str]
    """Reasons by seed."""

    def spread(self, name: str) -> Spread | None:
        """Mean and standard deviation over the seeds that have the metric; None where none has."""
        found = [row[name] for row in self.rows.values() if row.get(name) is not None]
        found = [value for value in found if not math.isnan(value)]
        if not found:
            return None
        return Spread(
            statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else math.nan
        )


def ranked_finalists(
    config: SweepRun, finalists: Sequence[FinalistSummary]
) -> list[FinalistSummary]:
    """Best mean first, the smaller spread first where means are equal; those of which a seed failed are last."""

    def key(item: FinalistSummary) -> tuple[int, float, float]:
        found = item.spread(config.judged_by)
        if found is None:
            return (len(item.failed), math.inf, math.inf)
        mean = -found.mean if config.higher_is_better else found.mean
        return (len(item.failed), mean, 0.0 if math.isnan(found.std) else found.std)

    return sorted(finalists, key=key)


def finalists_frame(ranked: Sequence[FinalistSummary]) -> pandas.DataFrame:
    """A row per finalist and seed."""
    rows = [
        {"trial": item.trial.name, "seed": seed, **item.trial.changes, **metrics}
        for item in ranked
        for seed, metrics in (
            *item.rows.items(),
            *((seed, {"failed": why}) for seed, why in item.failed.items()),
        )
    ]
    return pandas.DataFrame(rows)
