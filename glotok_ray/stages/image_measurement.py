"""The images of an evaluation on an actor pool: each unit's blocks become a part on disk.

Read next: glotok_ray/evaluation/measure.py
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.baseline_images import count_training_codes, write_counts
from glotok_ray.evaluation.files import BASELINES
from glotok_ray.evaluation.inputs import measured_tokenizer
from glotok_ray.evaluation.measure import PartMeasurement, Unit
from glotok_ray.evaluation.parts import finished_parts, planned_part
from glotok_ray.evaluation.plan import REFERENCE, SAMPLES, Block, units_of
from glotok_ray.evaluation.sample_files import unpacked
from glotok_ray.evaluation.sample_inputs import unpack_samples
from glotok_ray.evaluation.streams import MeasuredImages, open_measured
from glotok_ray.on_ray.actor_pool import map_shards

logger = logging.getLogger(__name__)


def measure_images(
    blocks: Sequence[Block],
    config: EvaluateRun,
    image_size: int,
    *,
    folder: Path,
    fingerprint: str,
) -> dict[str, MeasuredImages]:
    """The images of each kind, from parts in `folder`; those that are finished already are not measured again.

    `fingerprint` is that of the evaluation's settings and inputs.
    """
    folder.mkdir(exist_ok=True)
    units = [Unit(unit, planned_part(unit, fingerprint)) for unit in units_of(blocks)]
    parts = [unit.part for unit in units]
    finished = finished_parts(folder, parts)
    if finished:
        logger.info("%d of %d parts are finished already", len(finished), len(parts))
    missing = [unit for unit in units if unit.part.name not in finished]
    model = measured_tokenizer(config)
    if model and any(unit.part.kind in BASELINES for unit in missing):
        write_counts(folder, count_training_codes(config, model), model)
    if any(unit.part.kind == REFERENCE for unit in missing):
        unpacked(Path(config.reference_path), folder)  # once, before actors ask for it
    if any(unit.part.kind == SAMPLES for unit in missing):
        unpack_samples(config, folder)
    arguments = {"config": config, "image_size": image_size, "folder": str(folder)}
    sizes = [unit.part.stop - unit.part.start for unit in missing]
    for _ in map_shards(
        missing, PartMeasurement, arguments, config.pool, stage="evaluate", sizes=sizes
    ):
        pass  # What was measured lies on disk; receipts say that it does.
    return open_measured(folder, parts)
