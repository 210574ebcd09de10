"""Which of the folders that are to be compared are there.

Read next: glotok_ray/report/compared_tokenizers.py
"""

import logging

from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.output import check_finished
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)


def folders_there(
    paths: tuple[str, ...], field: str, *, skip_missing: bool, remedy: str
) -> tuple[str, ...]:
    """The paths, without those of missing folders where `skip_missing` allows some; all are finished.

    Raises ArtefactError, which names the config's `field`, for a folder that comes twice, is missing or is none of
    ours, and with the `remedy` where none is there.
    """
    if len(set(paths)) < len(paths):
        raise ArtefactError(f"{field}: one folder is given twice; name each once")
    missing = [path for path in paths if not to_path(path).is_dir()]
    if skip_missing and missing:
        logger.info("left out, since they are not there: %s", ", ".join(missing))
        paths = tuple(path for path in paths if path not in missing)
    if not paths:
        raise ArtefactError(f"{field}: none of {', '.join(missing)} is there; {remedy}")
    check_finished(paths)
    return paths
