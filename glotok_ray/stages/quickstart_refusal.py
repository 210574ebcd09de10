"""What a quickstart says where one of its stages refuses a folder of other settings: its own remedy, not the stage's.

Read next: glotok_ray/stages/quickstart.py
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.config.overrides import from_dict
from glotok_ray.config.quickstart import QuickstartRun
from glotok_ray.config.rules import CHANGES_NO_RESULT
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError, OtherWorkError

_MOST_NAMED = 3


class Difference(NamedTuple):
    """A field that has another value than before."""

    name: str
    before: Any
    now: Any


def refusal(error: OtherWorkError, stage: str, settings: Any, config_file: Path) -> ArtefactError:
    """The stage's error as the quickstart tells it, in one line. `config_file` has the settings of what is there; only
    fields that it tells apart are named.
    """
    changed = [
        f"{stage}.{found.name} is {found.now!r} and was {found.before!r}"
        for found in differences(_settings_of(config_file, stage), settings)
    ]
    named = [*changed[:_MOST_NAMED], *(["..."] if len(changed) > _MOST_NAMED else [])]
    return ArtefactError(
        f"{error.what} ({', '.join([f'stage {stage}', *named])}); choose another output_path, or pass --fresh, which "
        f"redoes all stages and keeps the old folder as {config_file.parent.name}.previous"
    )


def _settings_of(config_file: Path, stage: str) -> Any:
    """The stage's settings in a config.json; None where they cannot be read, as of another version."""
    try:
        return getattr(from_dict(QuickstartRun, artefact.read_json(config_file)), stage)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def differences(before: Any, now: Any) -> Iterator[Difference]:
    """Fields that decide a result and differ, by their dotted names. Paths are left out: an input counts by its
    content, wherever it lies.
    """
    if type(before) is not type(now):
        return
    for item in dataclasses.fields(now):
        if CHANGES_NO_RESULT in item.metadata or item.name.endswith(("_path", "_paths")):
            continue
        yield from _differences(item.name, getattr(before, item.name), getattr(now, item.name))


def _differences(name: str, before: Any, now: Any) -> Iterator[Difference]:
    if dataclasses.is_dataclass(now) and type(before) is type(now):
        for found in differences(before, now):
            yield found._replace(name=f"{name}.{found.name}")
    elif isinstance(now, tuple) and isinstance(before, tuple) and len(before) == len(now):
        for place, parts in enumerate(zip(before, now, strict=True)):
            yield from _differences(f"{name}.{place}", *parts)
    elif before != now:
        yield Difference(name, before, now)
