"""State in pieces that any number of workers can take up: each file holds stretches of flattened parameters by name.

A worker writes what its engine gives it to update. Who goes on reads the stretches that fall to it then, whoever wrote
them: another number of workers, or another ZeRO stage. Read next: glotok_ray/training/partitions.py
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.training.snapshot import Snapshot

_SUFFIX = ".safetensors"
_REMEDY = "remove the checkpoint's folder, and the run goes on from the one before it"


STEP = "step"
"""The kind whose columns hold one number per stretch: the optimizer's steps."""


class Stretch(NamedTuple):
    """Numbers of a parameter, in the order of its flattened whole."""

    name: str
    start: int
    length: int


Columns = Mapping[str, Sequence[Tensor]]
"""By kind, such as "master": one flat tensor per stretch."""


def add_pieces(
    into: Snapshot,
    prefix: str,
    rank: int,
    stretches: Sequence[Stretch],
    columns: Columns,
    buffers: Iterable[tuple[str, Tensor]] = (),
) -> None:
    """Add one worker's file, named by `prefix` and its rank; `buffers` are whole tensors that all workers share."""
    tensors = [
        (_key(kind, stretch.start, stretch.name), values.reshape(-1))
        for kind, column in columns.items()
        for stretch, values in zip(stretches, column, strict=True)
    ]
    tensors += [(_key("buffer", 0, name), value) for name, value in buffers]
    into.add_weights(f"{prefix}-{rank:04d}{_SUFFIX}", tensors)


@torch.no_grad()
def read_pieces(
    folder: Path, prefix: str, stretches: Sequence[Stretch], columns: Columns, share: float = 0.0
) -> None:
    """Fill the columns from all workers' files in `folder`; of several steps of a stretch it takes the greatest.

    `share` in [0, 1) is where among the files most of them are likely to lie, so that few need be read. Raises
    ArtefactError where a number of a stretch is in none of them.
    """
    files = sorted(folder.glob(f"{prefix}-*{_SUFFIX}"))
    missing = [stretch.length for stretch in stretches]
    places: dict[str, list[int]] = {}
    for place, stretch in enumerate(stretches):
        places.setdefault(stretch.name, []).append(place)
    expected = share * len(files)
    for number in sorted(range(len(files)), key=lambda number: abs(number - expected)):
        if not any(missing):
            return
        _read_file(files[number], stretches, columns, places, missing)
    for stretch, count in zip(stretches, missing, strict=True):
        if count:
            raise ArtefactError(
                f"{folder}: {count} numbers of {stretch.name} are in none of its {len(files)} files "
                f"{prefix}-*{_SUFFIX}; {_REMEDY}"
            )


def _read_file(
    path: Path,
    stretches: Sequence[Stretch],
    columns: Columns,
    places: Mapping[str, Sequence[int]],
    missing: list[int],
) -> None:
    """Take what this file has of the stretches; `missing` counts down."""
    first = next(iter(columns))
    try:
        with safe_open(str(at_hand(path)), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                kind, start, name = _parts(key)
                if kind != first or name not in places:
                    continue
                end = start + file.get_slice(key).get_shape()[0]
                for place in places[name]:
                    missing[place] -= _copy(file, columns, stretches[place], place, (start, end))
    except (SafetensorError, OSError) as error:
        raise ArtefactError(f"{path}: not readable as safetensors ({error}); {_REMEDY}") from error


def _copy(file: Any, columns: Columns, wanted: Stretch, place: int, stored: tuple[int, int]) -> int:
    """Copy what a stored stretch and a wanted one share, in every column; returns how many numbers."""
    start = max(stored[0], wanted.start)
    end = min(stored[1], wanted.start + wanted.length)
    if start >= end:
        return 0
    for kind, column in columns.items():
        source = file.get_slice(_key(kind, stored[0], wanted.name))
        target = column[place].reshape(-1)
        if kind == STEP:
            target.copy_(torch.maximum(target, source[0:1].to(target)))
            continue
        values = source[start - stored[0] : end - stored[0]]
        target[start - wanted.start : end - wanted.start].copy_(values)
    return end - start


def read_buffers(folder: Path, prefix: str, buffers: Iterable[tuple[str, Tensor]]) -> None:
    """Copy the buffers, which rank 0 wrote, into these."""
    path = folder / f"{prefix}-{0:04d}{_SUFFIX}"
    with safe_open(str(at_hand(path)), framework="pt") as file:
        for name, buffer in buffers:
            buffer.copy_(file.get_tensor(_key("buffer", 0, name)).reshape(buffer.shape))


def _key(kind: str, start: int, name: str) -> str:
    return f"{kind}:{start}:{name}"


def _parts(key: str) -> tuple[str, int, str]:
    kind, start, name = key.split(":", 2)
    return kind, int(start), name
