"""Which points of the search space a sweep over lambda_hist, bin count and alpha tries.

Read next: glotok_ray/recipes/sweep_parts.py
"""

import itertools
from dataclasses import dataclass
from typing import Any

from glotok_ray.config.losses import RelationConfig
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.data.shard_plan import seeded_generator


@dataclass(frozen=True)
class Trial:
    """One point of the search space, in the dotted names of the command line."""

    name: str
    """The trial's run folder."""
    changes: dict[str, Any]


def draw_trials(config: SweepRun) -> list[Trial]:
    """The baseline (relation weight 0) first, then points of the grid in an order drawn by the seed, none twice.

    With weight 0, bins and alpha change nothing, so the grid holds one such point.
    """
    baseline = {"loss.relation_weight": 0.0}
    points = [
        {
            "loss.relation_weight": weight,
            "loss.relation.num_bins": bins,
            "loss.relation.alpha": factor * RelationConfig(num_bins=bins).sharpness,
        }
        for weight, bins, factor in itertools.product(
            config.relation_weights, config.bins, config.alpha_factors
        )
        if weight > 0
    ]
    order = seeded_generator("sweep", config.seed).permutation(len(points))
    chosen = ([baseline] if 0.0 in config.relation_weights else []) + [
        points[index] for index in order
    ]
    if len(chosen) < config.num_trials:
        raise ValueError(
            f"num_trials = {config.num_trials}: the search space holds only {len(chosen)} "
            "points; lower it, or add values to relation_weights, bins or alpha_factors"
        )
    return [
        Trial(f"trial_{number:02d}", changes)
        for number, changes in enumerate(chosen[: config.num_trials])
    ]
