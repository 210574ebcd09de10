"""How many workers a training gets where their number may change: what the cluster has, as far as it divides the batch.

Ray Train's elastic policy asks for the most workers, begins when there are enough, and starts the group again, from the
newest checkpoint, when there is room for another number. Read next: glotok_ray/on_ray/train.py
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

from glotok_ray.config.scaling import ScalingConfig
from glotok_ray.on_ray.interruption import AbortedWithDriver
from glotok_ray.training.checkpoint import CHECKPOINT_FOLDER, checkpoint_step, newest_checkpoint
from glotok_ray.training.plan import RunPlan

# Steps after a checkpoint that a larger group does again are those of one look, at most.
LOOK_EVERY_S = 10.0


class DividingPolicy(ElasticScalingPolicy):
    """Ray Train's policy, that counts no node which is drained, takes allowed numbers of workers alone, and changes a
    group that runs only when a checkpoint has just been committed.
    """

    def __init__(self, scaling: Any, allowed: tuple[int, ...], checkpoints: Path) -> None:
        super().__init__(scaling)
        self._allowed, self._checkpoints = allowed, checkpoints
        self._saved: int | None = None

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        draining = _draining_nodes()
        left = {node: found for node, found in reserved_resources.items() if node not in draining}
        return fitting(super()._count_possible_workers(left), self._allowed)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """As Ray Train's, once a checkpoint has been committed since a look that would have changed the group."""
        decision = super().make_decision_for_running_worker_group(
            worker_group_state, worker_group_status
        )
        if not isinstance(decision, ResizeDecision):
            return decision
        saved = checkpoint_step(newest_checkpoint(self._checkpoints, verify=False))
        before, self._saved = self._saved, saved
        if before is None or saved <= before:
            return NoopDecision()
        self._saved = None
        return decision


class ElasticTrainer(AbortedWithDriver):
    """Ray Train's trainer under a `DividingPolicy`."""

    def __init__(self, *arguments: Any, allowed: tuple[int, ...], folder: Path, **named: Any):
        super().__init__(*arguments, **named)
        self._allowed, self._checkpoints = allowed, folder

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        policy = DividingPolicy(self.scaling_config, self._allowed, self._checkpoints)
        return super()._initialize_and_run_controller(**settings | {"scaling_policy": policy})


def trainer_of(plan: RunPlan) -> tuple[Callable[..., AbortedWithDriver], int | tuple[int, int]]:
    """What makes the trainer of a run, and Ray Train's `num_workers`."""
    scaling = plan.scaling
    if not scaling.is_elastic:
        return AbortedWithDriver, scaling.num_workers
    allowed = allowed_workers(scaling, plan.schedule.global_batch_size)
    folder = plan.folder / CHECKPOINT_FOLDER
    return functools.partial(ElasticTrainer, allowed=allowed, folder=folder), scaling.worker_range


def allowed_workers(scaling: ScalingConfig, global_batch_size: int) -> tuple[int, ...]:
    """The numbers of workers in the range of `scaling` that divide the global batch, in ascending order."""
    least, most = scaling.worker_range
    return tuple(count for count in range(least, most + 1) if global_batch_size % count == 0)


def fitting(possible: int, allowed: tuple[int, ...]) -> int:
    """The most workers that are allowed and possible; 0 where none are."""
    return max((count for count in allowed if count <= possible), default=0)


def _draining_nodes() -> set[str]:
    """Ids of nodes that are being taken back; Ray counts them among those that live."""
    state: Any = ray._private.state.state  # type: ignore[attr-defined]
    return set(state.get_draining_nodes() or {})
