"""What every kind of source gives: its classes, and images that workers read one by one.

Read next: glotok_ray/data/sources.py
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.image_files import StoredImage
from glotok_ray.data.left_out import LeftOut, Losses, OtherFile
from glotok_ray.progress import ProgressLine

SPLITS = ("train", "validation")

VALIDATION_PREFIX = "validation/"
"""Begins the keys of validation images of their own: images of one name in both must not get one key."""

# More than cores: a shared file system answers one reader slowly and many fast.
_THREADS = 16
_SHOWN_AFTER_S = 2.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class RowSource(Protocol):
    """One row to be."""

    @property
    def key(self) -> str:
        """Unique in the data set: CLASS/FILE."""
        ...

    @property
    def label(self) -> int:
        """Index into the classes."""
        ...

    @property
    def size(self) -> int:
        """Bytes of its file."""
        ...

    def encode(self, run: ShardRun) -> StoredImage:
        """What to store; raises UnreadableImageError."""
        ...


Row = TypeVar("Row", bound=RowSource, covariant=True)


class Listing(NamedTuple, Generic[Row]):
    """What was found at one path, or in one part of it."""

    classes: tuple[str, ...]
    """Sorted; a label is an index into them."""
    images: tuple[Row, ...]
    """Sorted by key."""
    left_out: tuple[OtherFile, ...]
    digest: str
    """Changes when an image, its class or the file that holds it does."""


class SourceImages(Protocol):
    """The images of a run, of whatever kind its source is."""

    @property
    def unread_fields(self) -> tuple[str, ...]:
        """Fields of ShardRun that decide nothing here."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted; a label is an index into them."""
        ...

    @property
    def form(self) -> str:
        """One of `glotok_ray.data.forms.FORMS`."""
        ...

    @property
    def num_images(self) -> int:
        """Images found, readable or not."""
        ...

    @property
    def left_out(self) -> list[LeftOut]:
        """The files beside the images."""
        ...

    def digests(self) -> dict[str, Any]:
        """What shards are bound to beside the settings: the images, wherever they lie."""
        ...

    def rows(self) -> dict[str, Sequence[RowSource]]:
        """All rows per split, in an order of their keys alone; raises ValueError."""
        ...

    def details(self, losses: Losses, split: str) -> dict[str, Any]:
        """Provenance for a split's dataset.json."""
        ...


def list_in_threads(
    list_one: Callable[[Item], Result], items: Sequence[Item], *, unit: str
) -> list[Result]:
    """`list_one` of every item, in order; threads wait for storage side by side.

    A listing of more than two seconds shows progress in `unit`, the plural of what an item is.
    """
    line, started = ProgressLine("listing", len(items), unit), time.monotonic()
    line.update(0)
    results: list[Result] = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for result in threads.map(list_one, items):
            results.append(result)
            if time.monotonic() - started > _SHOWN_AFTER_S:
                line.update(len(results))
    return results


def printable(name: str) -> str:
    """A file's name as Parquet and JSON can store it: bytes that are no UTF-8 are written out."""
    return name.encode("utf-8", "backslashreplace").decode()
