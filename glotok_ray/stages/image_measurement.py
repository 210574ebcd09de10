"""The images of an evaluation on an actor pool: each unit's blocks become a part on disk.

Read next: glotok_ray/evaluation/units.py
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.baseline_images import count_training_codes, write_counts
from glotok_ray.evaluation.files import BASELINES
from glotok_ray.evaluation.kept_features import KeptNetwork, kept_sets, missing_units, with_kept
from glotok_ray.evaluation.parts import finished_parts
from glotok_ray.evaluation.plan import REFERENCE, SAMPLES, Block, units_of
from glotok_ray.evaluation.sample_files import unpacked
from glotok_ray.evaluation.sample_inputs import unpack_samples
from glotok_ray.evaluation.streams import MeasuredImages, open_measured
from glotok_ray.evaluation.units import PartMeasurement, Unit
from glotok_ray.on_ray.actor_pool import map_shards
from glotok_ray.pretrained.tokenizer import code_layout
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)


def measure_images(
    blocks: Sequence[Block],
    config: EvaluateRun,
    image_size: int,
    *,
    folder: Path,
    fingerprint: str,
    kept: Sequence[KeptNetwork] = (),
) -> dict[str, MeasuredImages]:
    """The images of each kind, from parts in `folder`; those that are finished already are not measured again.

    `fingerprint` is that of the evaluation's settings and inputs. Features of `kept` networks lie in folders of their
    own, where later evaluations find them.
    """
    folder.mkdir(exist_ok=True)
    units = with_kept(units_of(blocks), kept, config, fingerprint)
    parts = [unit.part for unit in units if unit.part is not None]
    finished = finished_parts(folder, parts)
    if finished:
        logger.info("%d of %d parts are finished already", len(finished), len(parts))
    sets = kept_sets(units, kept)
    missing = missing_units(units, finished, sets)
    _prepare(missing, config, folder)
    arguments = {"config": config, "image_size": image_size, "folder": str(folder)}
    sizes = [sum(block.stop - block.start for block in unit.blocks) for unit in missing]
    for _ in map_shards(
        missing, PartMeasurement, arguments, config.pool, stage="evaluate", sizes=sizes
    ):
        pass  # What was measured lies on disk; receipts say that it does.
    return open_measured(folder, parts, sets)


def _prepare(missing: Sequence[Unit], config: EvaluateRun, folder: Path) -> None:
    """Write what all actors read, once, before they ask for it."""
    kinds = {unit.blocks[0].kind for unit in missing}
    if not kinds.isdisjoint(BASELINES):
        layout = code_layout(to_path(config.tokenizer_path))
        write_counts(folder, count_training_codes(config, layout), layout)
    if REFERENCE in kinds:
        unpacked(to_path(config.reference_path), folder)
    if SAMPLES in kinds:
        unpack_samples(config, folder)
