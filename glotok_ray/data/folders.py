"""Images in a tree with one folder per class: the listing and the split into training and validation.

Read next: glotok_ray/data/image_files.py
"""

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.image_files import (
    FORMATS,
    StoredImage,
    UnreadableImageError,
    stored_image,
)
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.storage.retries import StorageError, patiently

logger = logging.getLogger(__name__)

# Files of these suffixes are taken for images as they are listed; others are opened, and their first bytes decide.
_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
)
_OUTSIDE = "outside of the class folders"
_EXAMPLES = 20
_SNIFFED_BYTES = 64

VALIDATION_PREFIX = "validation/"
"""Begins the keys of a validation folder of its own: images of one name in both folders must not get one key."""
# The file itself is at fault, if the folder around it is there.
_OWN_ERRORS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR)
_MISSING = (errno.ENOENT, errno.ELOOP)

_OTHER_SOURCES = {
    "source": "'photographs' for the embedded set",
    "validation_source": "leave it empty, which takes a share of source",
}
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test"})


class ImageFile(NamedTuple):
    """One image file; the key is its path inside the tree, the size its bytes."""

    key: str
    label: int
    path: str
    size: int

    def encode(self, run: ShardRun) -> StoredImage:
        """What to store; raises UnreadableImageError."""
        original = read_image_file(Path(self.path), run.storage_retry_minutes)
        return stored_image(original, image_size=run.image_size, upright=run.upright)


class LeftOut(NamedTuple):
    """Files of one kind that are no images of ours: a suffix, or files outside of the class folders."""

    kind: str
    files: int
    examples: list[str]
    """The first ones' keys, 20 at most."""


class OtherFile(NamedTuple):
    """A file that holds no image of a known format, or lies outside of the class folders (no class)."""

    key: str
    class_name: str


class ImageTree(NamedTuple):
    """The listing of a tree."""

    classes: tuple[str, ...]
    images: tuple[ImageFile, ...]
    """Sorted by key."""
    left_out: tuple[OtherFile, ...]
    digest: str
    """Changes when an image's path, size or modification time does."""


def list_image_files(
    source: Path, *, field: str = "source", key_prefix: str = "", minutes: float = 0.0
) -> ImageTree:
    """List a tree; the class is the first-level folder, deeper folders belong to it.

    Keys begin with `key_prefix`. Hidden entries are skipped and links to folders are not followed. What storage does
    not give is tried again for `minutes`. Raises ValueError, in the name of the config's `field`, and StorageError.
    """
    if not source.is_dir():
        raise ValueError(
            f"{field} = {str(source)!r}: no such folder; give a folder with one sub-folder per class, or "
            + _OTHER_SOURCES[field]
        )
    entries = _entries(source, minutes)
    folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    _check_classes(source, [folder.name for folder in folders], field)
    images = []
    classes = tuple(_text(folder.name) for folder in folders)
    left_out = [
        OtherFile(key_prefix + _text(entry.name), "")
        for entry in entries
        if os.path.isfile(entry.path)
    ]
    digest = hashlib.sha256()
    for label, folder in enumerate(folders):
        for file in _files(Path(folder.path), minutes):
            key = key_prefix + _text(Path(file.path).relative_to(source).as_posix())
            known = Path(file.name).suffix.lower() in _SUFFIXES
            if not known and not begins_as_image(file.path, minutes=minutes):
                left_out.append(OtherFile(key, classes[label]))
                continue
            status = patiently(partial(_status, file), Path(file.path), minutes=minutes)
            digest.update(repr((key, status.st_size, status.st_mtime_ns)).encode())
            images.append(ImageFile(key, label, file.path, status.st_size))
    if not images:
        raise ValueError(
            f"{field} = {str(source)!r}: no images of a format that is read ({', '.join(FORMATS)}) in its "
            f"{len(folders)} class folders{_among(left_out)}"
        )
    images.sort(key=lambda image: image.key)
    return ImageTree(classes, tuple(images), tuple(left_out), digest.hexdigest())


def left_out_by_kind(files: Iterable[OtherFile]) -> list[LeftOut]:
    """The files that were left out, most frequent kinds first."""
    kinds: dict[str, list[str]] = {}
    for key, class_name in sorted(files):
        kind = Path(key).suffix.lower() or "without suffix"
        kinds.setdefault(kind if class_name else _OUTSIDE, []).append(key)
    order = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    return [LeftOut(kind, len(found), found[:_EXAMPLES]) for kind, found in order]


def left_out_text(left_out: Sequence[LeftOut]) -> str:
    """Numbers and an example of each kind, for one line of a log."""
    return ", ".join(f"{item.files} {item.kind} (e.g. {item.examples[0]})" for item in left_out)


def begins_as_image(path: str, *, minutes: float) -> bool:
    """Whether a file's first bytes are those of a format that is read, as Pillow measures; a broken link's are not.

    A file that is there and cannot be read, after `minutes` of trying if storage is at fault, counts as one: sharding
    reads it again, and names it if it still cannot. Raises StorageError when its folder is away too.
    """

    def read() -> bytes:
        with open(path, "rb") as stream:
            return stream.read(_SNIFFED_BYTES)

    try:
        start = _read_patiently(read, Path(path), minutes)
    except UnreadableImageError as error:
        cause = error.__cause__
        return not (isinstance(cause, OSError) and cause.errno in _MISSING)
    Image.init()
    accepts = [Image.OPEN[name][1] for name in FORMATS]
    # A plugin that cannot read what it knows answers with a text.
    return any(accept is not None and accept(start) is True for accept in accepts)


def split_image_files(tree: ImageTree, *, fraction: float, seed: int) -> dict[str, list[ImageFile]]:
    """Training and validation images, from the listing alone.

    Each class gives `fraction` of its sorted images, at least one, drawn by the seed and its name.
    Raises ValueError for a class with fewer than two images.
    """
    by_class: list[list[ImageFile]] = [[] for _ in tree.classes]
    for image in tree.images:
        by_class[image.label].append(image)
    splits: dict[str, list[ImageFile]] = {"train": [], "validation": []}
    for name, images in zip(tree.classes, by_class, strict=True):
        if len(images) < 2:
            raise ValueError(
                f"class {name!r} has {len(images)} images{_among_class(tree, name)}: training and validation need "
                "at least one each; add images, or move the folder out of the source"
            )
        number = min(max(1, round(fraction * len(images))), len(images) - 1)
        order = seeded_generator("validation", seed, name).permutation(len(images))
        chosen = set(order[:number].tolist())
        for index, image in enumerate(images):
            splits["validation" if index in chosen else "train"].append(image)
    return splits


def whole_tree(tree: ImageTree, *, field: str) -> list[ImageFile]:
    """The images of a split with a tree of its own, the config's `field`; raises ValueError for a class of none."""
    found = {image.label for image in tree.images}
    for label, name in enumerate(tree.classes):
        if label not in found:
            raise ValueError(
                f"{field}: class {name!r} has no images{_among_class(tree, name)}; add one, or move the class's "
                "folder out of source and validation_source"
            )
    return list(tree.images)


def read_image_file(path: Path, minutes: float) -> bytes:
    """A file's bytes; one that storage does not give is tried again for `minutes`.

    Raises UnreadableImageError for a file that cannot be read, and StorageError when its folder is away too.
    """
    return _read_patiently(path.read_bytes, path, minutes)


def _read_patiently(read: Callable[[], bytes], path: Path, minutes: float) -> bytes:
    def attempt() -> bytes:
        try:
            return read()
        except OSError as error:
            if error.errno in _OWN_ERRORS and os.path.isdir(path.parent):
                raise UnreadableImageError(error.strerror or str(error)) from error
            raise

    try:
        return patiently(attempt, path, minutes=minutes)
    except StorageError as error:
        if not os.path.isdir(path.parent):
            raise
        raise UnreadableImageError(str(error.__cause__)) from error


def _among(left_out: Iterable[OtherFile]) -> str:
    found = left_out_by_kind(left_out)
    return f" (left out: {left_out_text(found)})" if found else ""


def _among_class(tree: ImageTree, name: str) -> str:
    """What was left out of a class."""
    return _among(file for file in tree.left_out if file.class_name == name)


def _entries(folder: Path, minutes: float) -> list[os.DirEntry[str]]:
    def read() -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return [entry for entry in entries if not entry.name.startswith(".")]
        except PermissionError as error:
            raise ValueError(
                f"{folder}: cannot be listed ({error.strerror}); correct its permissions"
            ) from error

    visible = patiently(read, folder, minutes=minutes, doing="listing")
    for entry in visible:
        if entry.is_symlink() and os.path.isdir(entry.path):
            logger.warning("%s: links to folders are not followed", entry.path)
    return sorted(visible, key=lambda entry: entry.name)


def _files(folder: Path, minutes: float) -> Iterator[os.DirEntry[str]]:
    """Regular files and broken links (which count as unreadable) below a folder."""
    for entry in _entries(folder, minutes):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), minutes)
        # A listing knows regular files; what else there is costs a fingerprint to the storage.
        elif entry.is_file(follow_symlinks=False) or _is_file_or_missing(entry.path):
            yield entry


def _is_file_or_missing(path: str) -> bool:
    return os.path.isfile(path) or not os.path.exists(path)


def _status(file: os.DirEntry[str]) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        if error.errno not in _MISSING:
            raise
        # A broken link's own.
        return file.stat(follow_symlinks=False)


def _check_classes(source: Path, names: Collection[str], field: str) -> None:
    if not names:
        raise ValueError(
            f"{field} = {str(source)!r}: no class folders; put the images of each class into a "
            "sub-folder of its own"
        )
    if _SPLIT_NAMES.issuperset(name.lower() for name in names):
        raise ValueError(
            f"{field} = {str(source)!r}: its folders ({', '.join(sorted(names))}) look like splits, "
            f"not classes; give one of them, such as {str(source / sorted(names)[0])!r}"
        )


def _text(name: str) -> str:
    # File names may hold bytes that are no UTF-8, which neither Parquet nor JSON can store.
    return name.encode("utf-8", "backslashreplace").decode()
