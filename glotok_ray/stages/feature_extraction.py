"""Features for a teacher on an actor pool: each shard's drawn images become a part on disk.

Read next: glotok_ray/teacher/extraction.py
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from glotok_ray.config.jobs import TeacherRun
from glotok_ray.data.drawing import DrawnRows
from glotok_ray.on_ray.actor_pool import map_shards
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.teacher.extraction import FeatureActor, part_path
from glotok_ray.teacher.feature_parts import Part, finished_part

logger = logging.getLogger(__name__)


def extract(units: Sequence[DrawnRows], config: TeacherRun, folder: Path) -> list[Part]:
    """The parts of all units, in order; those that are finished already are not made again.

    Raises ArtefactError when more than half of the images cannot be decoded.
    """
    found = {unit.shard.file: finished_part(part_path(folder, unit.shard)) for unit in units}
    missing = [unit for unit in units if found[unit.shard.file] is None]
    if len(missing) < len(units):
        logger.info(
            "features: %d of %d parts are finished already", len(units) - len(missing), len(units)
        )
    arguments = {
        "network": config.network,
        "data_path": config.data_path,
        "folder": str(folder.absolute()),
        "vectors_per_image": config.vectors_per_image,
        "seed": config.seed,
        "pool": config.pool,
    }
    sizes = [len(unit.rows) for unit in missing]
    made = map_shards(missing, FeatureActor, arguments, config.pool, stage="features", sizes=sizes)
    for unit, part in zip(missing, made, strict=True):
        found[unit.shard.file] = part
    parts = [part for part in found.values() if part is not None]
    _check_broken(parts, config.data_path)
    return parts


def _check_broken(parts: Sequence[Part], data_path: str) -> None:
    """Warn of images that cannot be decoded; raise ArtefactError when they are more than half."""
    broken = [key for part in parts for key in part.broken]
    if not broken:
        return
    images = sum(part.images for part in parts) + len(broken)
    message = f"{len(broken)} of {images} drawn images cannot be decoded, {broken[0]!r} first"
    if 2 * len(broken) > images:
        raise ArtefactError(f"{data_path}: {message}; shard the images again with --fresh")
    logger.warning("%s; they are left out", message)
