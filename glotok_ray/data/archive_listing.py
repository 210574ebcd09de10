"""From what archives hold to a listing: classes sorted, keys as in a tree of class folders, the same for every kind.

Read next: glotok_ray/data/tar_listings.py, glotok_ray/data/parquet_images.py
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.image_files import FORMATS
from glotok_ray.data.left_out import OtherFile, among
from glotok_ray.data.listing import Listing, Row
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
    images: list[Found]
    left_out: list[OtherFile]
    stamp: str
    damage: str = ""


def stamp_of(path: Path, minutes: float) -> str:
    """A file's name, size and time (of an object its tag, where the store has one), as a text."""
    status = patiently(path.stat, path, minutes=minutes)
    return repr((path.name, status.st_size, version_of(status)))


def listing_of(
    request: Request,
    archives: Sequence[FoundArchive],
    make: Callable[..., Row],
    *,
    classes: Iterable[int | str] = (),
    names: Mapping[str, str] | None = None,
    class_in_names: bool = False,
    whole_keys: bool = False,
) -> Listing[Row]:
    """One listing of all archives; `make` makes a row of key, label and place.

    Classes are those of the images and `classes`, sorted: as text, or as numbers where all are. `names` gives them
    other names. With `class_in_names` files are called NAME_CLASS, as in Hugging Face's ImageNet, and their keys are
    without the class; with `whole_keys` they are called by their keys, prefix included. Raises ValueError.
    """
    _check_whole(request, archives)
    own = {image.own_class for archive in archives for image in archive.images} | set(classes)
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
    if not any(archive.images for archive in archives):
        raise ValueError(
            f"{request.field} = {str(request.path)!r}: no images of a format that is read ({', '.join(FORMATS)}) in "
            f"its {len(archives)} archives{among(left_out)}"
        )
    keyed = (
        _by_name(archives) if whole_keys else _with_keys(request, archives, named, class_in_names)
    )
    images = [make(key, labels[named[image.own_class]], *image.place) for key, image in keyed]
    images.sort(key=lambda image: image.key)
    digest = hashlib.sha256(repr(list(labels)).encode())
    for archive in archives:
        digest.update(archive.stamp.encode())
    for image in images:
        digest.update(repr((image.key, image.size)).encode())
    return Listing(tuple(labels), tuple(images), tuple(left_out), digest.hexdigest())


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


def _with_keys(
    request: Request,
    archives: Sequence[FoundArchive],
    named: Mapping[int | str, str],
    class_in_names: bool,
) -> Iterator[tuple[str, Found]]:
    """Images with keys CLASS/FILE; those of one name in a class have their archive's name between.

    Archives are emptied on the way: a million images need not be held twice.
    """
    keys = [
        [_key(named[image.own_class], image.name, class_in_names) for image in archive.images]
        for archive in archives
    ]
    counts = Counter(key for each in keys for key in each)
    twice = {key for key, number in counts.items() if number > 1}
    del counts
    seen: set[str] = set()
    for archive, each in zip(archives, keys, strict=True):
        for key, image in zip(each, archive.images, strict=True):
            if key in twice:
                folder, _, name = key.partition("/")
                key = f"{folder}/{PurePosixPath(archive.name).stem}/{name}"
                if key in seen:
                    raise ValueError(
                        f"{request.field} = {str(request.path)!r}: {archive.name} has two images {image.name!r} of "
                        f"class {folder!r}; rename one"
                    )
                seen.add(key)
            yield request.key_prefix + key, image
        archive.images.clear()
        each.clear()


def _by_name(archives: Sequence[FoundArchive]) -> Iterator[tuple[str, Found]]:
    for archive in archives:
        yield from ((image.name, image) for image in archive.images)
        archive.images.clear()


def _key(class_name: str, name: str, class_in_names: bool) -> str:
    file = PurePosixPath(name)
    bare = file.stem.removesuffix(f"_{class_name}") if class_in_names else ""
    return f"{class_name}/{file.with_name(bare + file.suffix) if bare else name}"
