"""From what archives hold to a listing: classes sorted, keys as in a tree of class folders, the same for every kind.

Read next: glotok_ray/data/tar_listings.py, glotok_ray/data/parquet_images.py
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.image_files import FORMATS
from glotok_ray.data.left_out import OtherFile, among
from glotok_ray.data.listing import Listing
from glotok_ray.data.row_columns import Rows
from glotok_ray.storage.places import version_of
from glotok_ray.storage.retries import patiently

UNLABELLED = "images without a usable label"
_NAMED_ARCHIVES = 3


class Request(NamedTuple):
    """What is listed: a path, in the name of the config's `field`; keys begin with `key_prefix`."""

    run: ShardRun
    path: Path
    field: str
    key_prefix: str
    as_found: bool

    @property
    def minutes(self) -> float:
        """For which storage that does not answer is tried again."""
        return self.run.storage_retry_minutes


class Found(NamedTuple):
    """An image in an archive: its class as the archive calls it, its file's name there, and its place."""

    own_class: int | str
    name: str
    place: tuple[Any, ...]
    """What makes a row of it, beside key and label."""


class FoundArchive(NamedTuple):
    """What one archive holds; `stamp` changes when its file does, `damage` says why it could not be listed."""

    name: str
    classes: tuple[int | str, ...]
    """Of its images, as the archive calls them."""
    images: Rows[Any]
    """Their keys are the files' names in the archive, and labels are indices into its own classes."""
    left_out: list[OtherFile]
    stamp: str
    damage: str = ""


def found_archive(
    name: str,
    found: Iterable[Found],
    make: Callable[..., Any],
    left_out: list[OtherFile],
    stamp: str,
    damage: str = "",
) -> FoundArchive:
    """An archive of these images; `make` makes a row of key, label and place."""
    classes: dict[int | str, int] = {}
    rows = [
        make(image.name, classes.setdefault(image.own_class, len(classes)), *image.place)
        for image in found
    ]
    return FoundArchive(name, tuple(classes), Rows.of(rows), left_out, stamp, damage)


def stamp_of(path: Path, minutes: float) -> str:
    """A file's name, size and time (of an object its tag, where the store has one), as a text."""
    status = patiently(path.stat, path, minutes=minutes)
    return repr((path.name, status.st_size, version_of(status)))


def listing_of(
    request: Request,
    archives: Sequence[FoundArchive],
    *,
    classes: Iterable[int | str] = (),
    names: Mapping[str, str] | None = None,
    class_in_names: bool = False,
    whole_keys: bool = False,
) -> Listing[Any]:
    """One listing of all archives.

    Classes are those of the images and `classes`, sorted: as text, or as numbers where all are. `names` gives them
    other names. With `class_in_names` files are called NAME_CLASS, as in Hugging Face's ImageNet, and their keys are
    without the class; with `whole_keys` they are called by their keys, prefix included. Raises ValueError.
    """
    _check_whole(request, archives)
    own = {each for archive in archives for each in archive.classes} | set(classes)
    named = _named(request, own, names)
    # A number says an order, which names of many digits lack.
    ordered = (
        sorted(own, key=_number)
        if _are_numbers(own) and names is None
        else sorted(own, key=named.__getitem__)
    )
    labels: dict[str, int] = {}
    for each in ordered:
        labels.setdefault(named[each], len(labels))
    left_out = [file for archive in archives for file in archive.left_out]
    if not any(len(archive.images) for archive in archives):
        raise ValueError(
            f"{request.field} = {str(request.path)!r}: no images of a format that is read ({', '.join(FORMATS)}) in "
            f"its {len(archives)} archives{among(left_out)}"
        )
    keys = _Keys(request, named, class_in_names, whole_keys)
    images = keys.rows_of(archives, labels).sorted_by_key()
    if not whole_keys and (twice := images.repeated_keys()):
        keys.twice = {key.removeprefix(request.key_prefix) for key in twice}
        images = keys.rows_of(archives, labels).sorted_by_key()
    digest = hashlib.sha256(repr(list(labels)).encode())
    for archive in archives:
        digest.update(archive.stamp.encode())
    for image in images:
        digest.update(repr((image.key, image.size)).encode())
    return Listing(tuple(labels), images, tuple(left_out), digest.hexdigest())


def _check_whole(request: Request, archives: Sequence[FoundArchive]) -> None:
    damaged = [archive.damage for archive in archives if archive.damage]
    if damaged:
        more = len(damaged) - _NAMED_ARCHIVES
        raise ValueError(
            f"{request.field} = {str(request.path)!r}: {'; '.join(damaged[:_NAMED_ARCHIVES])}"
            f"{f'; and {more} more archives' if more > 0 else ''}"
        )


def _are_numbers(own: Iterable[int | str]) -> bool:
    return all(isinstance(each, int) for each in own)


def _number(own: int | str) -> int:
    return int(own)


def _named(
    request: Request, own: Iterable[int | str], names: Mapping[str, str] | None
) -> dict[int | str, str]:
    if names is None:
        return {each: str(each) for each in own}
    missing = sorted(str(each) for each in own if str(each) not in names)
    if missing:
        raise ValueError(
            f"class_names_path = {request.run.class_names_path!r}: has no name for class {missing[0]!r} of "
            f"{request.path}; add it"
        )
    return {each: names[str(each)] for each in own}


@dataclass
class _Keys:
    """Keys CLASS/FILE; those of one name in a class have their archive's name between."""

    request: Request
    named: Mapping[int | str, str]
    class_in_names: bool
    whole_keys: bool
    twice: set[str] = field(default_factory=set)
    """Keys that several images would have."""

    def rows_of(self, archives: Iterable[FoundArchive], labels: Mapping[str, int]) -> Rows[Any]:
        """The images of all archives, one archive after another: a million are never held as Python's objects."""
        seen: set[str] = set()
        return Rows.joined(Rows.of(self._rows(archive, labels, seen)) for archive in archives)

    def _rows(
        self, archive: FoundArchive, labels: Mapping[str, int], seen: set[str]
    ) -> Iterator[Any]:
        classes = [self.named[own] for own in archive.classes]
        for image in archive.images:
            name = classes[image.label]
            key = image.key if self.whole_keys else self._key(archive, name, image.key, seen)
            yield image._replace(key=key, label=labels[name])

    def _key(self, archive: FoundArchive, class_name: str, name: str, seen: set[str]) -> str:
        key = _key(class_name, name, self.class_in_names)
        if key in self.twice:
            folder, _, rest = key.partition("/")
            key = f"{folder}/{PurePosixPath(archive.name).stem}/{rest}"
            if key in seen:
                raise ValueError(
                    f"{self.request.field} = {str(self.request.path)!r}: {archive.name} has two images {name!r} of "
                    f"class {folder!r}; rename one"
                )
            seen.add(key)
        return self.request.key_prefix + key


def _key(class_name: str, name: str, class_in_names: bool) -> str:
    file = PurePosixPath(name)
    bare = file.stem.removesuffix(f"_{class_name}") if class_in_names else ""
    return f"{class_name}/{file.with_name(bare + file.suffix) if bare else name}"
