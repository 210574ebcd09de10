"""What every kind of source gives: its classes, and images that workers read one by one.

Read next: glotok_ray/data/sources.py
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.image_files import StoredImage
from glotok_ray.data.left_out import LeftOut, Losses, OtherFile
from glotok_ray.data.row_columns import Rows
from glotok_ray.progress import ProgressLine

SPLITS = ("train", "validation")

VALIDATION_PREFIX = "validation/"
"""Begins the keys of validation images of their own: images of one name in both must not get one key."""

# More than cores: a shared file system answers one reader slowly and many fast.
_THREADS = 16
_AHEAD = 2 * _THREADS
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
    """Sorted, as text or as numbers; a label is an index into them."""
    images: Rows[Row]
    """Sorted by key."""
    left_out: tuple[OtherFile, ...]
    digest: str
    """Changes when an image, its class or the file that holds it does."""

    def with_order_of(self, classes: tuple[str, ...]) -> "Listing[Row]":
        """The same with the labels that `classes` give, where they are the same classes in another order."""
        if self.classes == classes or sorted(self.classes) != sorted(classes):
            return self
        places = {name: label for label, name in enumerate(classes)}
        labels = np.array([places[name] for name in self.classes])
        images = self.images.with_labels(labels[self.images.labels])
        return self._replace(classes=classes, images=images)


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
    """`listed_in_threads`, all of it."""
    return list(listed_in_threads(list_one, items, unit=unit))


def listed_in_threads(
    list_one: Callable[[Item], Result], items: Sequence[Item], *, unit: str
) -> Iterator[Result]:
    """`list_one` of every item, in order; threads wait for storage side by side.

    A listing of more than two seconds shows progress in `unit`, the plural of what an item is.
    """
    line, started = ProgressLine("listing", len(items), unit), time.monotonic()
    line.update(0)
    with ThreadPoolExecutor(_THREADS) as threads:
        for number, result in enumerate(_in_order(threads, list_one, items), start=1):
            yield result
            if time.monotonic() - started > _SHOWN_AFTER_S:
                line.update(number)


def _in_order(
    threads: ThreadPoolExecutor, list_one: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result]:
    """Results in order; as in `threads.map`, but few wait for their turn, since they hold what they listed."""
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(begun) == _AHEAD:
                yield begun.popleft().result()
            begun.append(threads.submit(list_one, item))
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def printable(name: str) -> str:
    """A file's name as Parquet and JSON can store it: bytes that are no UTF-8 are written out."""
    return name.encode("utf-8", "backslashreplace").decode()
