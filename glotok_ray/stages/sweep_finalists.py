"""The finalists of a sweep: its best trials, and the baseline, trained again with other seeds.

One seed's luck chose them, so their own results do not count. Read next: glotok_ray/stages/sweep_results.py
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.on_ray.tune import TrialProcess, driver_resources
from glotok_ray.recipes import sweep_parts
from glotok_ray.stages import tokenizer_trials
from glotok_ray.stages.rows import run_rows
from glotok_ray.stages.sweep_trials import DISTANCE
from glotok_ray.storage.places import to_path
from glotok_ray.training.search_space import baseline
from glotok_ray.training.trials import Trial, TrialRecord

FINALISTS_FOLDER = "finalists"


class Finalist(NamedTuple):
    """A trial's settings and one seed."""

    name: str
    trial: Trial
    seed: int


def chosen_finalists(config: SweepRun, ranked: Sequence[TrialRecord]) -> list[Finalist]:
    """Of trials in the order of their rank, the best that came to the end, and the baseline, though it was stopped
    early: seeds train to the end. One for each seed.
    """
    chosen = [record.trial for record in ranked if record.status == "finished"]
    chosen = chosen[: config.num_finalists]
    if chosen:
        first = baseline(config)
        whole = [record.trial for record in ranked if record.status in ("finished", "stopped")]
        chosen += [trial for trial in whole if trial.changes == first and trial not in chosen]
    return [
        Finalist(f"{trial.name}_seed_{seed}", trial, seed)
        for trial in chosen
        for seed in config.finalist_seeds
    ]


def run_finalists(config: SweepRun, finalists: Sequence[Finalist]) -> dict[str, dict[str, Any]]:
    """The metrics of every finalist by name, or the reason why it has none."""
    if not finalists:
        return {}
    folder = to_path(config.output_path) / FINALISTS_FOLDER
    by_name = {item.name: item for item in finalists}

    def recipe_of(item: Finalist) -> TokenizerRun:
        return sweep_parts.finalist(config, folder, item.name, item.trial.changes, item.seed)

    def measure(name: str) -> Mapping[str, Any]:
        recipe = recipe_of(by_name[name])
        metrics = tokenizer_trials.train_and_measure(recipe, config.evaluation)
        return {**metrics, DISTANCE: tokenizer_trials.cosine_distance_of(recipe)}

    return run_rows(
        list(by_name),
        measure,
        folder=folder,
        retry_failed=config.retry_failed,
        max_concurrent=config.max_concurrent_trials,
        shown=tokenizer_trials.shown_metrics,
        shown_as=("sweep", "finalists"),
        process=TrialProcess(driver_resources(config.tokenizer), config.trial_restarts),
    )
