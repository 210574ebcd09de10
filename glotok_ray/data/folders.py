"""Images in a tree with one folder per class: the listing and the split into training and validation.

Read next: glotok_ray/data/image_files.py
"""

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.folder_entries import (
    MISSING,
    FolderEntry,
    entries_of,
    files_below,
    is_file,
    status_of_entry,
)
from glotok_ray.data.image_files import FORMATS, StoredImage, UnreadableImageError
from glotok_ray.data.left_out import OtherFile, among, first
from glotok_ray.data.listing import Listing, listed_in_threads, printable
from glotok_ray.data.reduction import stored_for
from glotok_ray.data.row_columns import Rows
from glotok_ray.data.split_names import check_filled_folders, check_folders
from glotok_ray.storage.places import is_remote, to_path, version_of
from glotok_ray.storage.retries import StorageError, patiently
from glotok_ray.storage.stretches import numbered, read_stretch

logger = logging.getLogger(__name__)

# Files of these suffixes are taken for images as they are listed; others are opened, and their first bytes decide.
_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
)
_SNIFFED_BYTES = 64

# The file itself is at fault, if the folder around it is there.
_OWN_ERRORS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR)

_OTHER_SOURCES = {
    "source": "'photographs' for the embedded set",
    "validation_source": "leave it empty, which takes a share of source",
}


class ImageFile(NamedTuple):
    """One image file; the key is its path inside the tree, the size its bytes."""

    key: str
    label: int
    path: str
    size: int

    def encode(self, run: ShardRun) -> StoredImage:
        """What to store; raises UnreadableImageError."""
        original = read_image_file(to_path(self.path), run.storage_retry_minutes)
        return stored_for(run, original)


def list_image_files(
    source: Path,
    *,
    field: str = "source",
    key_prefix: str = "",
    minutes: float = 0.0,
    as_found: bool = False,
) -> Listing[ImageFile]:
    """List a tree; the class is the first-level folder, deeper folders belong to it.

    Keys begin with `key_prefix`. Hidden entries are skipped and links to folders are not followed. What storage does
    not give is tried again for `minutes`. With `as_found` folders without images are no classes, and images beside the
    class folders are a class of the tree's name where they are more than those within. Raises ValueError, in the name
    of the config's `field`, and StorageError.
    """
    if not source.is_dir():
        raise ValueError(
            f"{field} = {str(source)!r}: no such folder; give a folder with one sub-folder per class, or "
            + _OTHER_SOURCES[field]
        )
    entries = entries_of(source, minutes)
    folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    files = [entry for entry in entries if is_file(entry)]
    if folders or not (as_found and files):
        check_folders(source, [folder.name for folder in folders], field)
    listing = _Listing(source, key_prefix, minutes)

    def classes() -> dict[str, Iterable[FolderEntry]]:
        return {
            printable(folder.name): files_below(to_path(folder.path), minutes) for folder in folders
        }

    tree = listing.tree(classes(), files)
    filled = np.unique(tree.images.labels)
    check_filled_folders(source, [tree.classes[label] for label in filled], field)
    if as_found and files:
        tree = _with_loose(tree, files, classes, listing)
    if not tree.images:
        raise ValueError(
            f"{field} = {str(source)!r}: no images of a format that is read ({', '.join(FORMATS)}) in its "
            f"{len(folders)} class folders{among(tree.left_out)}"
        )
    return _without_empty_classes(tree) if as_found else tree


def list_flat_folder(
    folder: Path, *, minutes: float
) -> tuple[list[ImageFile], list[OtherFile], bytes]:
    """The images of a folder that says no classes: keys are their names, labels 0; what was left out; and bytes that
    change when an image's name, size or time does.
    """
    files = _Listing(folder, "", minutes).of_class((0, ("", files_below(folder, minutes))))
    return files.images, files.left_out, files.stamps


class _Listing(NamedTuple):
    """How the files of a tree are listed."""

    source: Path
    key_prefix: str
    minutes: float

    def tree(
        self,
        classes: Mapping[str, Iterable[FolderEntry]],
        outside: Iterable[FolderEntry],
    ) -> Listing[ImageFile]:
        """The tree of these classes' files, in order; files `outside` of classes are left out."""
        found = listed_in_threads(self._columns, list(enumerate(classes.items())), unit="classes")
        left_out = [OtherFile(self.key_prefix + printable(entry.name), "") for entry in outside]
        digest = hashlib.sha256()

        def images() -> Iterator[Rows[ImageFile]]:
            for rows, beside, stamps in found:
                left_out.extend(beside)
                digest.update(stamps)
                yield rows

        # Of a class that is passed its columns stay alone.
        joined = Rows.joined(images()).sorted_by_key()
        return Listing(tuple(classes), joined, tuple(left_out), digest.hexdigest())

    def _columns(
        self, item: tuple[int, tuple[str, Iterable[FolderEntry]]]
    ) -> tuple[Rows[ImageFile], list[OtherFile], bytes]:
        found = self.of_class(item)
        return Rows.of(found.images), found.left_out, found.stamps

    def of_class(self, item: tuple[int, tuple[str, Iterable[FolderEntry]]]) -> "_ClassFiles":
        """The files of (label, (class, its entries))."""
        label, (name, files) = item
        images: list[ImageFile] = []
        left_out: list[OtherFile] = []
        stamps: list[str] = []
        for file in files:
            key = self.key_prefix + printable(file.path.removeprefix(str(self.source)).lstrip("/"))
            known = Path(file.name).suffix.lower() in _SUFFIXES
            if not known and not begins_as_image(file.path, minutes=self.minutes):
                left_out.append(OtherFile(key, name))
                continue
            read = partial(status_of_entry, file)
            status = patiently(read, Path(file.path), minutes=self.minutes)
            stamps.append(repr((key, status.st_size, version_of(status))))
            images.append(ImageFile(key, label, file.path, status.st_size))
        return _ClassFiles(images, left_out, "".join(stamps).encode())


class _ClassFiles(NamedTuple):
    """The files of one class; `stamps` tell when an image's path, size or modification time changes."""

    images: list[ImageFile]
    left_out: list[OtherFile]
    stamps: bytes


def _with_loose(
    tree: Listing[ImageFile],
    files: list[FolderEntry],
    classes: Callable[[], dict[str, Iterable[FolderEntry]]],
    listing: _Listing,
) -> Listing[ImageFile]:
    """The tree with its loose `files` as a class, where they hold more images than all class folders; else as it is."""
    name = printable(listing.source.resolve().name)
    loose = listing.tree({name: files}, [])
    if len(loose.images) <= len(tree.images):
        return tree
    if not tree.images:
        return loose
    while name in tree.classes:
        name += "_"
    logger.warning(
        "%d images beside the class folders, which hold %d, are a class of their own, %s",
        *(len(loose.images), len(tree.images), name),
    )
    return listing.tree(dict(sorted({**classes(), name: files}.items())), [])


def _without_empty_classes(tree: Listing[ImageFile]) -> Listing[ImageFile]:
    found, labels = np.unique(tree.images.labels, return_inverse=True)
    if len(found) == len(tree.classes):
        return tree
    empty = [name for label, name in enumerate(tree.classes) if label not in found]
    logger.warning("folders without images, which are no classes: %d, %s", len(empty), first(empty))
    return tree._replace(
        classes=tuple(tree.classes[label] for label in found),
        images=tree.images.with_labels(labels),
    )


def begins_as_image(path: str, *, minutes: float) -> bool:
    """Whether a file's first bytes are those of a format that is read, as Pillow measures; a broken link's are not.

    A file that is there and cannot be read, after `minutes` of trying if storage is at fault, counts as one: sharding
    reads it again, and names it if it still cannot. Raises StorageError when its folder is away too.
    """

    place = to_path(path)

    def read() -> bytes:
        return read_stretch(place, 0, _SNIFFED_BYTES)

    try:
        start = read_patiently(read, place, minutes)
    except UnreadableImageError as error:
        cause = error.__cause__
        return not (isinstance(cause, OSError) and cause.errno in MISSING)
    return is_image_start(start)


def may_be_image(name: str, read_start: Callable[[int], bytes]) -> bool:
    """Whether a file's name says that it is an image, or else its first bytes, of which `read_start` reads so many."""
    return Path(name).suffix.lower() in _SUFFIXES or is_image_start(read_start(_SNIFFED_BYTES))


def is_image_start(start: bytes) -> bool:
    """Whether a file that begins so is of a format that is read."""
    Image.init()
    accepts = [Image.OPEN[name][1] for name in FORMATS]
    # A plugin that cannot read what it knows answers with a text.
    return any(accept is not None and accept(start) is True for accept in accepts)


def read_image_file(path: Path, minutes: float) -> bytes:
    """A file's bytes; one that storage does not give is tried again for `minutes`.

    Raises UnreadableImageError for a file that cannot be read, and StorageError when its folder is away too.
    """

    def read() -> bytes:
        with numbered():
            return path.read_bytes()

    return read_patiently(read, path, minutes)


def read_patiently(read: Callable[[], bytes], path: Path, minutes: float) -> bytes:
    """What `read` reads of a file; what storage does not give is tried again for `minutes`.

    Raises UnreadableImageError for a file that cannot be read, and StorageError when its folder is away too.
    """

    def attempt() -> bytes:
        try:
            return read()
        except OSError as error:
            if error.errno in _OWN_ERRORS and _storage_answers(path):
                raise UnreadableImageError(error.strerror or str(error)) from error
            raise

    try:
        return patiently(attempt, path, minutes=minutes)
    except StorageError as error:
        if not _storage_answers(path):
            raise
        raise UnreadableImageError(str(error.__cause__)) from error


def _storage_answers(path: Path) -> bool:
    """Whether the folder around a file is there; of objects one of those above it, since an empty one is nowhere."""
    if not is_remote(path):
        return os.path.isdir(path.parent)
    try:
        return any(folder.is_dir() for folder in path.parents)
    except OSError:
        return False
