"""Rows of a source as columns: a million listed images take little more than their names, and rows are made on demand.

As tuples of Python's, 1.33 million images take 400 MiB in the driver; their columns take a sixth of it. What is drawn
of them, in whatever order, is a view: the columns and an array of places. Read next: glotok_ray/data/listing.py
"""

import array
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, cast, overload

import numpy as np
import pyarrow
import pyarrow.compute
from jaxtyping import Int
from numpy import ndarray

Row = TypeVar("Row", covariant=True)

# Made at once as rows are passed through.
_AT_ONCE = 4096
# Fields of every row that are texts; all others are integers of at least 0.
_KEY, _PATH = "key", "path"


class _Columns(NamedTuple):
    """Rows of one kind: their keys, the numbers of all other fields, and where their files lie."""

    kind: Any
    """Makes a row of its fields; None where there are no rows."""
    keys: pyarrow.LargeStringArray
    numbers: dict[str, ndarray]
    """By field, in the smallest type that holds them."""
    texts: tuple[str, ...]
    """Paths: of an archive, or of the folder of files that are called as the last part of their keys."""
    text: ndarray
    """Places in `texts`."""
    is_folder: ndarray
    """Whether that text is a folder."""


def _no_columns() -> _Columns:
    nothing = np.empty(0, np.uint8)
    return _Columns(None, _keys(b"", nothing), {}, (), nothing, nothing.astype(bool))


class Rows(Sequence[Row]):
    """Rows of one kind, a NamedTuple of a unique `key`, a `label`, a `path`, a `size` and other integers."""

    def __init__(self, columns: _Columns, order: ndarray | None = None) -> None:
        self._columns = columns
        self._order = order

    @classmethod
    def of(cls, rows: Iterable[Any]) -> "Rows[Any]":
        """The columns of some rows, in their order."""
        held = rows if isinstance(rows, list) else list(rows)
        return cls(_columns_of(held) if held else _no_columns())

    @classmethod
    def joined(cls, parts: Iterable["Rows[Any]"]) -> "Rows[Any]":
        """The rows of all parts, which are of one kind, one part after another; a part is not held after its turn."""
        growing = _Growing()
        for part in parts:
            if len(part):
                growing.add(part.gathered()._columns)
        return cls(growing.columns())

    def __len__(self) -> int:
        return len(self._columns.keys) if self._order is None else len(self._order)

    @overload
    def __getitem__(self, place: int, /) -> Row: ...
    @overload
    def __getitem__(self, place: slice, /) -> "Rows[Row]": ...
    def __getitem__(self, place: int | slice, /) -> "Row | Rows[Row]":
        if isinstance(place, slice):
            return self.drawn(np.arange(*place.indices(len(self))))
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        place %= len(self)
        return next(self._made(self._places(place, place + 1)))

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._made(self._places(start, start + _AT_ONCE))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    def __reduce__(self) -> tuple[Any, ...]:
        # A few rows of many are as small as they can be; names of one data set are much alike.
        kind, keys, *others = self.gathered()._columns
        text, offsets = _text_of(keys)
        lengths = _smallest(np.diff(offsets))
        return _restored, (kind, zlib.compress(text, 1), lengths, *others)

    @property
    def labels(self) -> Int[ndarray, " n"]:
        """The label of each row."""
        return self._numbers("label")

    @property
    def sizes(self) -> Int[ndarray, " n"]:
        """The bytes of each row's file."""
        return self._numbers("size")

    def drawn(self, places: Int[ndarray, " n"]) -> "Rows[Row]":
        """The rows at `places`, in this order."""
        order = places if self._order is None else self._order[places]
        return Rows(self._columns, order.astype(np.min_scalar_type(len(self._columns.keys))))

    def gathered(self) -> "Rows[Row]":
        """The same rows, with columns of these rows alone."""
        return self if self._order is None else Rows(_gathered(self._columns, self._order))

    def sorted_by_key(self) -> "Rows[Row]":
        """The rows in the order of their keys."""
        found = self.gathered()
        if all(before <= key for before, key in found._neighbours()):
            return found
        # Of UTF-8, which sorts as code points do.
        order = pyarrow.compute.sort_indices(found._columns.keys).to_numpy()  # pyright: ignore
        return Rows(found._columns, order).gathered()

    def repeated_keys(self) -> set[str]:
        """Keys that more than one row has; of rows that are sorted by key."""
        return {key for before, key in self._neighbours() if before == key}

    def _neighbours(self) -> Iterator[tuple[str, str]]:
        """The keys of rows that follow each other."""
        keys = self.gathered()._columns.keys
        starts = range(0, len(keys), _AT_ONCE)
        names = (keys[start : start + _AT_ONCE].to_pylist() for start in starts)
        return itertools.pairwise(itertools.chain.from_iterable(names))

    def with_labels(self, labels: Int[ndarray, " n"]) -> "Rows[Row]":
        """The same rows with other labels."""
        columns = self.gathered()._columns
        numbers = {**columns.numbers, "label": _smallest(labels)}
        return Rows(columns._replace(numbers=numbers))

    def _numbers(self, field: str) -> ndarray:
        if not len(self):
            return np.empty(0, np.int64)
        column = self._columns.numbers[field]
        return column if self._order is None else column[self._order]

    def _places(self, start: int, stop: int) -> ndarray:
        if self._order is not None:
            return self._order[start:stop]
        return np.arange(start, min(len(self), stop))

    def _made(self, places: ndarray) -> Iterator[Row]:
        columns = self._columns
        taken = columns.keys.take(_as_indices(places))
        keys = cast("list[str]", taken.to_pylist())
        fields = {name: column[places].tolist() for name, column in columns.numbers.items()}
        fields[_KEY], fields[_PATH] = keys, _paths(columns, places, keys)
        by_place = (fields[name] for name in columns.kind._fields)
        return (columns.kind(*values) for values in zip(*by_place, strict=True))


def labels_of(rows: Sequence[Any]) -> Int[ndarray, " n"]:
    """The label of each row."""
    if isinstance(rows, Rows):
        return rows.labels
    return np.array([row.label for row in rows], dtype=np.int64)


def sizes_of(rows: Sequence[Any]) -> Int[ndarray, " n"]:
    """The bytes of each row's file."""
    return rows.sizes if isinstance(rows, Rows) else np.array([row.size for row in rows], np.int64)


def drawn(rows: Sequence[Row], places: Int[ndarray, " n"]) -> Sequence[Row]:
    """The rows at `places`, in this order."""
    if isinstance(rows, Rows):
        return rows.drawn(places)
    return [rows[place] for place in places.tolist()]


def _columns_of(rows: list[Any]) -> _Columns:
    keys = [row.key for row in rows]
    texts: dict[str, int] = {}
    text = np.empty(len(rows), np.int64)
    is_folder = np.empty(len(rows), bool)
    for place, (key, row) in enumerate(zip(keys, rows, strict=True)):
        folder, slash, name = row.path.rpartition("/")
        is_folder[place] = slash and name == key.rpartition("/")[2]
        text[place] = texts.setdefault(folder if is_folder[place] else row.path, len(texts))
    kind = type(rows[0])
    numbers = {
        name: _smallest(np.array([getattr(row, name) for row in rows], np.int64))
        for name in kind._fields
        if name not in (_KEY, _PATH)
    }
    encoded = [key.encode() for key in keys]
    names = _keys(b"".join(encoded), np.array([len(key) for key in encoded]))
    return _Columns(kind, names, numbers, tuple(texts), _smallest(text), is_folder)


class _Growing:
    """Columns to which rows are added: buffers that grow in place, so that nothing is there twice."""

    def __init__(self) -> None:
        self._kind: Any = None
        self._text = bytearray()
        self._lengths, self._places = _GrowingNumbers(), _GrowingNumbers()
        self._numbers: dict[str, _GrowingNumbers] = {}
        self._texts: dict[str, int] = {}
        self._is_folder = bytearray()

    def add(self, part: _Columns) -> None:
        """Add these rows."""
        self._kind = part.kind
        text, offsets = _text_of(part.keys)
        self._text += text
        self._lengths.add(np.diff(offsets))
        found = [self._texts.setdefault(each, len(self._texts)) for each in part.texts]
        self._places.add(np.array(found, np.int64)[part.text])
        for name, column in part.numbers.items():
            self._numbers.setdefault(name, _GrowingNumbers()).add(column)
        self._is_folder += part.is_folder.tobytes()

    def columns(self) -> _Columns:
        """All rows; nothing may be added after it."""
        if self._kind is None:
            return _no_columns()
        return _Columns(
            self._kind,
            _keys(self._text, self._lengths.numbers()),
            {name: _smallest(column.numbers()) for name, column in self._numbers.items()},
            tuple(self._texts),
            _smallest(self._places.numbers()),
            np.frombuffer(self._is_folder, bool),
        )


class _GrowingNumbers:
    """Integers of at least 0, of four bytes until one needs eight."""

    def __init__(self) -> None:
        self._held = array.array("I")

    def add(self, numbers: ndarray) -> None:
        if self._held.typecode == "I" and numbers.max(initial=0) >= 1 << 32:
            self._held = array.array("Q", self._held)
        self._held.frombytes(numbers.astype(self._held.typecode).tobytes())

    def numbers(self) -> ndarray:
        return np.frombuffer(self._held, self._held.typecode)


def _keys(text: bytes | bytearray, lengths: ndarray) -> pyarrow.LargeStringArray:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(text)]
    return pyarrow.Array.from_buffers(pyarrow.large_string(), len(lengths), buffers)


def _as_indices(places: ndarray) -> pyarrow.Int64Array:
    """By its buffer: `pyarrow.array` imports pandas, half a second of a dry run."""
    held = np.ascontiguousarray(places, np.int64)
    return pyarrow.Array.from_buffers(pyarrow.int64(), len(held), [None, pyarrow.py_buffer(held)])


def _text_of(keys: pyarrow.LargeStringArray) -> tuple[memoryview, ndarray]:
    """The bytes of all keys, one after another, and where each begins and ends in the buffer."""
    _, places, text = keys.buffers()
    offsets = np.frombuffer(places, np.int64)[keys.offset : keys.offset + len(keys) + 1]
    return memoryview(text)[int(offsets[0]) : int(offsets[-1])], offsets


def _gathered(columns: _Columns, order: ndarray) -> _Columns:
    text = columns.text[order]
    used, text = np.unique(text, return_inverse=True)
    return _Columns(
        columns.kind,
        columns.keys.take(_as_indices(order)),
        {name: column[order] for name, column in columns.numbers.items()},
        tuple(columns.texts[place] for place in used.tolist()),
        _smallest(text),
        columns.is_folder[order],
    )


def _paths(columns: _Columns, places: ndarray, keys: list[str]) -> list[str]:
    found = zip(columns.text[places].tolist(), columns.is_folder[places].tolist(), strict=True)
    return [
        f"{columns.texts[text]}/{key.rpartition('/')[2]}" if is_folder else columns.texts[text]
        for key, (text, is_folder) in zip(keys, found, strict=True)
    ]


def _smallest(numbers: ndarray) -> ndarray:
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _restored(kind: Any, text: bytes, lengths: ndarray, *others: Any) -> Rows[Any]:
    """Rows that travelled."""
    return Rows(_Columns(kind, _keys(zlib.decompress(text), lengths), *others))
