"""Pictures in a tree with one folder per class: the listing and the split into training and validation.

Read next: glotok_ray/data/pictures.py
"""

import hashlib
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from glotok_ray.config import ShardRun
from glotok_ray.data.pictures import StoredPicture, UnreadablePictureError, stored_picture
from glotok_ray.data.shard_plan import seeded_generator

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

_OTHER_SOURCES = {
    "source": "'photographs' for the embedded set",
    "validation_source": "leave it empty, which takes a share of source",
}
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test"})


class Picture(NamedTuple):
    """One picture file; the key is its path inside the tree."""

    key: str
    label: int
    path: str

    def encode(self, run: ShardRun) -> StoredPicture:
        """What to store; raises UnreadablePictureError."""
        try:
            original = Path(self.path).read_bytes()
        except OSError as error:
            raise UnreadablePictureError(error.strerror or str(error)) from error
        return stored_picture(original, image_size=run.image_size, upright=run.upright)


class PictureTree(NamedTuple):
    """The listing of a tree."""

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    """Sorted by key."""
    ignored_files: int
    """Files of other suffixes, and files outside of the class folders."""
    digest: str
    """Changes when a picture's path, size or modification time does."""


def list_pictures(source: Path, *, field: str = "source", key_prefix: str = "") -> PictureTree:
    """List a tree; the class is the first-level folder, deeper folders belong to it.

    Keys begin with `key_prefix`. Hidden entries are skipped and links to folders are not followed. Raises ValueError,
    in the name of the config's `field`.
    """
    if not source.is_dir():
        raise ValueError(
            f"{field} = {str(source)!r}: no such folder; give a folder with one sub-folder per class, or "
            + _OTHER_SOURCES[field]
        )
    entries = _entries(source)
    folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    _check_classes(source, [folder.name for folder in folders], field)
    pictures, ignored = [], len([entry for entry in entries if entry.is_file()])
    digest = hashlib.sha256()
    for label, folder in enumerate(folders):
        for file in _files(Path(folder.path)):
            if Path(file.name).suffix.lower() not in SUFFIXES:
                ignored += 1
                continue
            key = key_prefix + _text(Path(file.path).relative_to(source).as_posix())
            status = file.stat(follow_symlinks=file.is_file())
            digest.update(repr((key, status.st_size, status.st_mtime_ns)).encode())
            pictures.append(Picture(key, label, file.path))
    if not pictures:
        raise ValueError(
            f"{field} = {str(source)!r}: no pictures in its {len(folders)} class folders; files "
            f"must end in {', '.join(sorted(SUFFIXES))}"
        )
    classes = tuple(_text(folder.name) for folder in folders)
    pictures.sort(key=lambda picture: picture.key)
    return PictureTree(classes, tuple(pictures), ignored, digest.hexdigest())


def split_pictures(
    tree: PictureTree, unreadable: Mapping[str, str], *, fraction: float, seed: int
) -> dict[str, list[Picture]]:
    """Training and validation pictures, without the `unreadable` (key to reason).

    Each class gives `fraction` of its sorted pictures, at least one, drawn by the seed and its name.
    Raises ValueError for a class with fewer than two readable pictures.
    """
    by_class: list[list[Picture]] = [[] for _ in tree.classes]
    for picture in _without(tree, unreadable):
        by_class[picture.label].append(picture)
    splits: dict[str, list[Picture]] = {"train": [], "validation": []}
    for name, pictures in zip(tree.classes, by_class, strict=True):
        if len(pictures) < 2:
            raise ValueError(_too_few(name, len(pictures), unreadable))
        number = min(max(1, round(fraction * len(pictures))), len(pictures) - 1)
        order = seeded_generator("validation", seed, name).permutation(len(pictures))
        chosen = set(order[:number].tolist())
        for index, picture in enumerate(pictures):
            splits["validation" if index in chosen else "train"].append(picture)
    return splits


def readable_pictures(
    tree: PictureTree, unreadable: Mapping[str, str], *, field: str
) -> list[Picture]:
    """The pictures of a split with a tree of its own, the config's `field`, without the `unreadable` (key to reason).

    Raises ValueError for a class without any.
    """
    pictures = _without(tree, unreadable)
    found = {picture.label for picture in pictures}
    for label, name in enumerate(tree.classes):
        if label not in found:
            damaged = [item for item in tree.pictures if item.label == label]
            first = f" ({damaged[0].path}: {unreadable[damaged[0].key]})" if damaged else ""
            raise ValueError(
                f"{field}: class {name!r} has no readable picture{first}; add one, or move the class's folder out of "
                "source and validation_source"
            )
    return pictures


def _without(tree: PictureTree, unreadable: Mapping[str, str]) -> list[Picture]:
    return [picture for picture in tree.pictures if picture.key not in unreadable]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be listed ({error.strerror}); correct its permissions"
        ) from error
    for entry in visible:
        if entry.is_symlink() and entry.is_dir():
            logger.warning("%s: links to folders are not followed", entry.path)
    return sorted(visible, key=lambda entry: entry.name)


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Regular files and broken links (which count as unreadable) below a folder."""
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file() or not Path(entry.path).exists():
            yield entry


def _check_classes(source: Path, names: Collection[str], field: str) -> None:
    if not names:
        raise ValueError(
            f"{field} = {str(source)!r}: no class folders; put the pictures of each class into a "
            "sub-folder of its own"
        )
    if _SPLIT_NAMES.issuperset(name.lower() for name in names):
        raise ValueError(
            f"{field} = {str(source)!r}: its folders ({', '.join(sorted(names))}) look like splits, "
            f"not classes; give one of them, such as {str(source / sorted(names)[0])!r}"
        )


def _too_few(name: str, readable: int, unreadable: Mapping[str, str]) -> str:
    damaged = [f"{key}: {text}" for key, text in unreadable.items() if key.split("/")[0] == name]
    found = f" ({len(damaged)} unreadable, e.g. {damaged[0]})" if damaged else ""
    return (
        f"class {name!r} has {readable} readable pictures{found}: training and validation need at "
        "least one each; add pictures, or move the folder out of the source"
    )


def _text(name: str) -> str:
    # File names may hold bytes that are no UTF-8, which neither Parquet nor JSON can store.
    return name.encode("utf-8", "backslashreplace").decode()
