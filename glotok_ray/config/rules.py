"""Rules that several sections share; each raises ValueError with the field, its value, the rule and the remedy."""

import dataclasses
import math
from typing import Any

PATH_UNLESS = "path_unless"
"""Metadata of a field that holds a path although its name does not end in _path: the value that is none."""
CHANGES_NO_RESULT = "changes_no_result"
FREE = {CHANGES_NO_RESULT: True}
"""Metadata of a field that changes no result: unfinished work goes on, and finished work is recognised, under another
value of it.
"""
ADDED_LATER = "added_later"
"""Metadata of a field that came later: the value that stands for how it was before, under which older work goes on."""

FORMER_NAMES = "former_names"
"""Metadata of a section whose fields lay beside it before it was one. Its value holds the former names of those fields
that were called otherwise; fingerprints keep all of them flat, so that older work is recognised.
"""


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise ValueError for the field `name` unless `condition` holds; `rule` says what must hold, and the remedy."""
    if not condition:
        raise ValueError(f"{name} = {value!r}: {rule}")


def require_positive(section: str, config: Any, names: tuple[str, ...]) -> None:
    """These fields of a section are at least 1."""
    for name in names:
        value = getattr(config, name)
        require(value >= 1, f"{section}.{name}", value, "must be at least 1")


def require_finite(config: Any, prefix: str = "") -> None:
    """Every number of a section and of the sections in it: what a value means, no rule says better than this."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        for place, part in enumerate(value if isinstance(value, tuple) else (value,)):
            name = prefix + item.name + (f".{place}" if isinstance(value, tuple) else "")
            if dataclasses.is_dataclass(part):
                require_finite(part, f"{name}.")
            elif isinstance(part, float):
                require(math.isfinite(part), name, part, "must be a finite number")


def require_probability(name: str, value: float) -> None:
    """In [0, 1]."""
    require(0 <= value <= 1, name, value, "must be in [0, 1]")


def require_code_count(name: str, size: int) -> None:
    """A codebook's size, whose codes fit into uint16."""
    require(2 <= size <= 65536, name, size, "must be in [2, 65536]: codes are stored as uint16")


def require_distinct(name: str, names: list[str]) -> None:
    """At least one codebook, and no name twice."""
    require(
        0 < len(names) == len(set(names)),
        name,
        names,
        "must hold at least one codebook, each with a name of its own",
    )


def require_rotary_heads(width: int, num_heads: int) -> None:
    """Heads whose width two-dimensional rotary positions can halve twice."""
    require(
        width % (4 * num_heads) == 0,
        "model.num_heads",
        num_heads,
        f"must make width / num_heads a multiple of 4 (width = {width})",
    )


def require_guidance(scale: float, interval: tuple[float, float]) -> None:
    """A guidance scale of at least 1, and an interval of times or positions within [0, 1]."""
    require(scale >= 1, "sampler.guidance_scale", scale, "must be at least 1 (1 is unguided)")
    low, high = interval
    require(
        0 <= low <= high <= 1,
        "sampler.guidance_interval",
        interval,
        "must be two numbers that rise within [0, 1]",
    )


def gated_hidden(width: int, multiple: int) -> int:
    """int(8 * width / 3), rounded up to `multiple`: three products of a gated MLP cost what two of a plain one do."""
    return -(-int(8 * width / 3) // multiple) * multiple


def neighbours(sorted_values: list[int], value: int) -> list[str]:
    """The nearest smaller and the nearest larger one."""
    smaller = [str(item) for item in sorted_values if item < value][-1:]
    return smaller + [str(item) for item in sorted_values if item > value][:1]
