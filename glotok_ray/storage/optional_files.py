"""Files that a folder holds or lacks, such as averaged weights, and whether one that lies there belongs to it.

Read next: glotok_ray/storage/artefact.py
"""

from pathlib import Path

from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError


def optional_file(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder; None where there is none.

    Raises ArtefactError where the folder has a manifest that does not list the file: it would stand for what the
    manifest tells of.
    """
    path = folder / name
    if not path.is_file():
        return None
    if not artefact.is_finished(folder):
        return path
    if name not in artefact.stated_manifest(folder)["files"]:
        raise ArtefactError(
            f"{path}: is not listed in the folder's {artefact.MANIFEST}, so it does not belong to it; move it away"
        )
    return path
