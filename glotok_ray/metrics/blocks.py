"""One number or vector per image, of very many images: blocks of rows in the images' order, read anew in every pass.

Metrics take such blocks in place of one array, so that memory does not grow with the images. A list of arrays is
such, and so is what lies on disk. Read next: glotok_ray/evaluation/streams.py
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int, Shaped
from numpy import ndarray


def recut(blocks: Iterable[Shaped[ndarray, "b ..."]], rows: int) -> Iterator[ndarray]:
    """The same rows in blocks of `rows` each, the last one shorter: sums over them do not depend on how they came."""
    waiting: list[ndarray] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= rows:
            joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            whole = count - count % rows
            for start in range(0, whole, rows):
                yield joined[start : start + rows]
            waiting, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(waiting)


def rows_of(
    blocks: Iterable[Shaped[ndarray, "b ..."]], places: Int[ndarray, " m"]
) -> Shaped[ndarray, "m ..."]:
    """The rows at `places`, in their order, found in one pass; raises IndexError for a place that no row has."""
    order = np.argsort(places, kind="stable")
    ascending = places[order]
    found, start = [], 0
    for block in blocks:
        first, last = np.searchsorted(ascending, [start, start + len(block)])
        found.append(block[ascending[first:last] - start])
        start += len(block)
    if len(places) and not 0 <= ascending[0] <= ascending[-1] < start:
        raise IndexError(f"rows {ascending[0]} to {ascending[-1]} of {start} were asked for")
    rows = np.concatenate(found)
    answer = np.empty_like(rows)
    answer[order] = rows
    return answer
