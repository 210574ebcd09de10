"""One rank of tests/training/test_other_workers.py: a training that goes on with other workers and ZeRO stages.

python tests/training/other_workers.py FOLDER PHASE      with RANK and WORLD_SIZE set
"""

import sys
from pathlib import Path

import torch
import two_generator_workers
import two_workers
from small_tokenizer import write_snapshot
from two_workers import ADVERSARIAL, RUN, all_images, end_group, start_group

from glotok_ray.config import override
from glotok_ray.training.schedule import seed_step
from glotok_ray.training.worker import Worker

SAVED, MOVED, STEPS = 2, 4, 6
# Stages that one worker takes up what two have left at stage 2; and two again what one has left at its stage.
ALONE = (3, 1, 0)
TOGETHER = ((3, 2), (1, 3), (0, 2))
TOKENIZER = override(RUN, {**ADVERSARIAL, "loss.restart_every_steps": 5})


class Tokenizer:
    """A tokenizer's training, whose batch of eight is two passes of four wherever it is learned."""

    def __init__(self, stage: int, worker: Worker) -> None:
        run = override(
            TOKENIZER, {"scaling.zero_stage": stage, "scaling.num_workers": worker.world_size}
        )
        self._training = two_workers.build(run, worker, accumulation_steps=2 // worker.world_size)
        self.state, self._worker = self._training.state, worker

    def learn(self, steps: range) -> list[float]:
        """The loss of each step, the mean over workers."""
        worker, losses = self._worker, []
        passes = [{"image": all_images()[part::2]} for part in range(2)]
        for number in steps:
            seed_step(0, number, worker.rank)
            own = passes[worker.rank :: worker.world_size]
            total = self._training.step.learn(own, number)["total"]
            losses.append(float(worker.all_sum(total)) / worker.world_size)
        return losses


class Generator:
    """An xAR's training."""

    def __init__(self, stage: int, worker: Worker) -> None:
        scaling = override(
            two_generator_workers.SCALING,
            {"zero_stage": stage, "num_workers": worker.world_size},
        )
        self._training = two_generator_workers.build("xar", scaling, worker)
        self.state, self._worker = self._training.state, worker

    def learn(self, steps: range) -> list[float]:
        """The loss of each step, the mean over workers."""
        return two_generator_workers.learn(self._training, self._worker, steps)


KINDS = {"tokenizer": Tokenizer, "generator": Generator}


def undisturbed(worker: Worker, folder: Path) -> dict[str, list[float]]:
    """Two workers at stage 2 to the end; what they have after SAVED steps is kept."""
    curves = {}
    for name, kind in KINDS.items():
        training = kind(2, worker)
        curves[name] = training.learn(range(SAVED))
        write_snapshot(training.state, folder / f"{name}-start")
        curves[name] += training.learn(range(SAVED, STEPS))
    return curves


def alone(worker: Worker, folder: Path) -> dict[str, list[float]]:
    """One worker goes on to MOVED; what it took up is written again at once, and what it has at the end."""
    curves = {}
    for name, kind in KINDS.items():
        for stage in ALONE:
            training = kind(stage, worker)
            training.state.load(folder / f"{name}-start")
            write_snapshot(training.state, folder / f"{name}-taken-{stage}")
            curves[f"{name}-{stage}"] = training.learn(range(SAVED, MOVED))
            write_snapshot(training.state, folder / f"{name}-alone-{stage}")
    return curves


def together(worker: Worker, folder: Path) -> dict[str, list[float]]:
    """Two workers again, to the end."""
    curves = {}
    for name, kind in KINDS.items():
        for stage, later in TOGETHER:
            training = kind(later, worker)
            training.state.load(folder / f"{name}-alone-{stage}")
            write_snapshot(training.state, folder / f"{name}-again-{stage}-{later}")
            curves[f"{name}-{stage}-{later}"] = training.learn(range(MOVED, STEPS))
    return curves


def main(folder: Path, phase: str) -> None:
    """One phase, whose curves rank 0 writes."""
    worker = start_group(folder)
    phases = {"undisturbed": undisturbed, "alone": alone, "together": together}
    curves = phases[phase](worker, folder)
    if worker.rank == 0:
        torch.save(curves, folder / f"{phase}.pt")
    end_group(worker)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
