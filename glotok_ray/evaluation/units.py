"""Units of work of an evaluation: an actor measures the blocks of one and writes the parts that they become.

Read next: glotok_ray/evaluation/parts.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.devices import chosen_device
from glotok_ray.evaluation.array_names import LABELS, is_of_network
from glotok_ray.evaluation.extractors import build_extractors, build_lpips
from glotok_ray.evaluation.measure import BlockMeasurement
from glotok_ray.evaluation.parts import MeasuredBlock, PlannedPart, Receipt, write_part
from glotok_ray.evaluation.plan import Block
from glotok_ray.storage.places import to_path
from glotok_ray.storage.retries import patiently


class KeptPart(NamedTuple):
    """A part with the features of one network alone, which later evaluations read too."""

    network: str
    """Its key."""
    folder: str
    part: PlannedPart


class Unit(NamedTuple):
    """A unit of work, and the parts that it becomes."""

    blocks: Sequence[Block]
    part: PlannedPart | None
    """Of the evaluation itself; None where all that is measured is kept."""
    kept: tuple[KeptPart, ...] = ()
    """Further parts, of which those of `done` lie there already."""
    done: frozenset[str] = frozenset()
    """Networks whose features of these images are not computed again."""


class PartMeasurement:
    """Measures units on the device of this process and writes their parts into `folder`."""

    def __init__(self, config: EvaluateRun, *, image_size: int, folder: str) -> None:
        self._folder, self._minutes = to_path(folder), config.pool.storage_retry_minutes
        self._measure = build_measurement(config, image_size=image_size, folder=self._folder)

    def __call__(self, unit: Unit) -> list[Receipt]:
        """The receipts of the written parts."""
        measured = self._measure(unit.blocks, done=unit.done)
        receipts = [
            self._write(
                to_path(kept.folder),
                kept.part,
                [_of_network(kept.network, one) for one in measured],
            )
            for kept in unit.kept
            if kept.network not in unit.done
        ]
        if unit.part is not None:
            elsewhere = [kept.network for kept in unit.kept]
            own = [_without_networks(elsewhere, one) for one in measured]
            receipts.append(self._write(self._folder, unit.part, own))
        return receipts

    def _write(self, folder: Path, part: PlannedPart, blocks: Sequence[MeasuredBlock]) -> Receipt:
        return patiently(
            lambda: write_part(folder, part, blocks),
            folder / part.name,
            minutes=self._minutes,
            doing="writing",
        )


def _of_network(network: str, block: MeasuredBlock) -> MeasuredBlock:
    """The features of one network, and the labels, without which they say nothing of classes."""
    arrays = {
        name: values
        for name, values in block.arrays.items()
        if name == LABELS or is_of_network(name, network)
    }
    return MeasuredBlock(block.kind, arrays, {})


def _without_networks(networks: Sequence[str], block: MeasuredBlock) -> MeasuredBlock:
    arrays = {
        name: values
        for name, values in block.arrays.items()
        if not any(is_of_network(name, network) for network in networks)
    }
    return block._replace(arrays=arrays)


def build_measurement(config: EvaluateRun, *, image_size: int, folder: Path) -> BlockMeasurement:
    """The measurement of a run on the device of this process; `folder` holds the counts that baselines are drawn from,
    where there are such.
    """
    device = chosen_device(use_gpu=config.pool.use_gpu)
    return BlockMeasurement(
        config,
        build_extractors(config, device),
        image_size=image_size,
        folder=folder,
        lpips=build_lpips(config, device),
    )
