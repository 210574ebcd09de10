"""ImageNet as Kaggle has it: class folders of training images, and validation images in one folder with a table.

Read next: glotok_ray/data/folders.py
"""

import hashlib
from pathlib import Path

from glotok_ray.data.archive_listing import UNLABELLED, Request
from glotok_ray.data.class_names import read_image_classes
from glotok_ray.data.folders import ImageFile, list_flat_folder, list_image_files
from glotok_ray.data.left_out import OtherFile
from glotok_ray.data.listing import Listing
from glotok_ray.data.row_columns import Rows

_TABLE = "LOC_val_solution.csv"
_PLACES = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "")


def images_folder(path: Path) -> Path | None:
    """The folder of train/ and val/ in what Kaggle gives, or in a part of it; None where there is none."""
    found = (path / place for place in _PLACES)
    return next((place for place in found if place.name == "CLS-LOC" and _is_whole(place)), None)


def _is_whole(place: Path) -> bool:
    return (place / "train").is_dir() or (place / "val").is_dir()


def list_kaggle(request: Request, part: str) -> Listing[ImageFile]:
    """The training images, or those of validation; raises ValueError."""
    folder = images_folder(request.path)
    if folder is None:
        raise ValueError(
            f"{request.field} = {str(request.path)!r}: holds no ILSVRC/Data/CLS-LOC; give the folder in which Kaggle's "
            "archive was unpacked"
        )
    if part == "validation":
        return _validation(request, folder / "val")
    return list_image_files(folder / "train", field=request.field, minutes=request.minutes)


def _validation(request: Request, folder: Path) -> Listing[ImageFile]:
    table = request.run.ground_truth_path or _table(request.path)
    classes = read_image_classes(table, images=str(folder))
    files, left_out, stamps = list_flat_folder(folder, minutes=request.minutes)
    named = [(classes.of(file.key), file) for file in files]
    names = sorted({name for name, _ in named if name})
    labels = {name: label for label, name in enumerate(names)}
    images = [
        file._replace(key=f"{request.key_prefix}{name}/{file.key}", label=labels[name])
        for name, file in named
        if name
    ]
    left_out += [OtherFile(file.key, "", UNLABELLED) for name, file in named if not name]
    if not images:
        raise ValueError(
            f"{request.field} = {str(request.path)!r}: {table} knows none of the {len(files)} images in {folder}; give "
            "the ground truth of these images as ground_truth_path"
        )
    images.sort(key=lambda image: image.key)
    digest = hashlib.sha256(stamps + repr([image.key for image in images]).encode())
    return Listing(tuple(names), Rows.of(images), tuple(left_out), digest.hexdigest())


def _table(path: Path) -> str:
    """The table in Kaggle's folder, or in one of those around a part of it; empty where there is none."""
    places = (path, *path.absolute().parents[:3])
    return next((str(place / _TABLE) for place in places if (place / _TABLE).is_file()), "")
