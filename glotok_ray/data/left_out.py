"""Files of a source that become no image, or not as they were: how they are counted and named.

Read next: glotok_ray/data/folders.py
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_OUTSIDE = "outside of the class folders"
_EXAMPLES = 20
_NAMED = 5


class LeftOut(NamedTuple):
    """Files of one kind that are no images of ours: a suffix, or files outside of the class folders."""

    kind: str
    files: int
    examples: list[str]
    """The first ones' keys, 20 at most."""


class OtherFile(NamedTuple):
    """A file that holds no image of a known format, or lies outside of the class folders (no class).

    `kind` says what else it is, where neither is the reason.
    """

    key: str
    class_name: str
    kind: str = ""


@dataclass(frozen=True)
class Losses:
    """What sharding could not store, or not as it was."""

    unreadable: Mapping[str, str]
    """Keys of images that could not be read, with reasons."""
    changed: Mapping[str, str]
    """Keys of images that are not stored as they were, with what was done: laid on white, scaled, cut, halved."""
    num_turned: Mapping[str, int]
    """By split, images that were turned by their EXIF orientation."""
    num_changed: Mapping[str, int]
    """By split, how many of its images are in `changed`."""
    reduction: Mapping[str, Mapping[str, Any]]
    """By split, `glotok_ray.data.reduction.reduction_facts`."""
    empty_classes: Mapping[str, Mapping[str, str]]
    """By split, the classes of which it has no image left, each with a file of it and the reason."""


def left_out_by_kind(files: Iterable[OtherFile]) -> list[LeftOut]:
    """The files that were left out, most frequent kinds first."""
    kinds: dict[str, list[str]] = {}
    for key, class_name, kind in sorted(files):
        suffix = Path(key).suffix.lower() or "without suffix"
        kinds.setdefault(kind or (suffix if class_name else _OUTSIDE), []).append(key)
    order = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    return [LeftOut(kind, len(found), found[:_EXAMPLES]) for kind, found in order]


def left_out_text(left_out: Sequence[LeftOut]) -> str:
    """Numbers and an example of each kind, for one line of a log."""
    return ", ".join(f"{item.files} {item.kind} (e.g. {item.examples[0]})" for item in left_out)


def among(left_out: Iterable[OtherFile]) -> str:
    """What was left out, in brackets, for the end of a message; empty where nothing was."""
    found = left_out_by_kind(left_out)
    return f" (left out: {left_out_text(found)})" if found else ""


def first(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
