"""Configs as values: dotted overrides, plain JSON types and back, and their paths made absolute."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, TypeVar

from glotok_ray.config.plain_types import read_section
from glotok_ray.config.rules import ADDED_LATER, CHANGES_NO_RESULT, FORMER_NAMES, PATH_UNLESS

Config = TypeVar("Config")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# One slash will do: what was a Path has one where there were two.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def override(config: Config, changes: dict[str, Any]) -> Config:
    """Return a copy with dotted fields replaced, all at once; raises ValueError for an unknown
    field, with the known ones.
    """
    return _override(
        config, {tuple(path.split(".")): value for path, value in changes.items()}, prefix=""
    )


def _override(config: Any, changes: dict[tuple[str, ...], Any], prefix: str) -> Any:
    names = [item.name for item in dataclasses.fields(config)]
    values: dict[str, Any] = {}
    nested: dict[str, dict[tuple[str, ...], Any]] = {}
    for parts, value in changes.items():
        path = prefix + ".".join(parts)
        if parts[0] not in names:
            raise ValueError(
                f"{path}: {type(config).__name__} has no field {parts[0]!r}; it has {', '.join(names)}"
            )
        if len(parts) == 1:
            values[parts[0]] = value
        elif _is_section(getattr(config, parts[0])) or parts[0].endswith("_paths"):
            nested.setdefault(parts[0], {})[parts[1:]] = value
        else:
            raise ValueError(f"{path}: {parts[0]!r} is a value, not a section; set it as a whole")
    for name, inner in nested.items():
        section = values.get(name, getattr(config, name))
        change = _override_items if isinstance(section, tuple) else _override
        values[name] = change(section, inner, f"{prefix}{name}.")
    return dataclasses.replace(config, **values)


def _is_section(value: Any) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    return bool(items) and all(dataclasses.is_dataclass(item) for item in items)


def _override_items(
    items: tuple[Any, ...], changes: dict[tuple[str, ...], Any], prefix: str
) -> tuple[Any, ...]:
    """Change members of a tuple of sections, which are addressed by their place: "model.codebooks.0.size"."""
    if not _is_section(items):
        return _override_paths(items, changes, prefix)
    nested: dict[int, dict[tuple[str, ...], Any]] = {}
    for parts, value in changes.items():
        if len(parts) < 2 or parts[0] not in {str(place) for place in range(len(items))}:
            raise ValueError(
                f"{prefix}{'.'.join(parts)}: name a field of one of its {len(items)} parts, as in {prefix}0.FIELD"
            )
        nested.setdefault(int(parts[0]), {})[parts[1:]] = value
    return tuple(
        _override(item, nested[place], f"{prefix}{place}.") if place in nested else item
        for place, item in enumerate(items)
    )


def _override_paths(
    paths: tuple[str, ...], changes: dict[tuple[str, ...], Any], prefix: str
) -> tuple[str, ...]:
    """Change members of a list of paths, which are addressed by their place: "samples_paths.0"."""
    places: dict[tuple[str, ...], int] = {(str(place),): place for place in range(len(paths))}
    changed = list(paths)
    for parts, value in changes.items():
        if parts not in places:
            raise ValueError(
                f"{prefix}{'.'.join(parts)}: name one of its {len(paths)} paths, as in {prefix}0"
            )
        changed[places[parts]] = value
    return tuple(changed)


def with_absolute_paths(config: Config, root: str | Path | None = None) -> Config:
    """A copy in which every path that is set is absolute, seen from `root` (a folder, or the address of one in an
    object store) or else from the present folder; "~" is expanded, and addresses stay. Paths are the fields named
    "..._path", the members of those named "..._paths", and those that are marked by PATH_UNLESS.

    Raises ValueError for an address that cannot be one.
    """
    start = str(root) if root and is_address(str(root)) else (Path(root or "")).absolute()
    changes = {name: absolute_path(name, value, start) for name, value in _paths(config).items()}
    return override(config, changes)


def addresses(config: Any) -> dict[str, str]:
    """The paths of a config that lie in object stores, by dotted name."""
    return {name: value for name, value in _paths(config).items() if is_address(value)}


def input_paths(config: Any) -> dict[str, str]:
    """The paths of a config that its job reads, by dotted name: all that are set but folders that it writes."""
    return {
        name: value
        for name, value in _paths(config).items()
        if not name.endswith(("output_path", "statistics_path"))
    }


def is_address(value: str) -> bool:
    """Whether a path is an address in an object store, such as s3://bucket/prefix."""
    return bool(_ADDRESS.match(value))


def relative_paths(config: Any) -> dict[str, str]:
    """The paths of a config that are set and not absolute, by dotted name."""
    return {
        name: value
        for name, value in _paths(config).items()
        if not (Path(value).is_absolute() or value.startswith("~") or _SCHEME.match(value))
    }


def absolute_path(name: str, value: str, root: str | Path) -> str:
    """`value` seen from `root`, "~" expanded; raises ValueError, in the name of the field, for what is no path."""
    if _SCHEME.match(value):
        _check_address(name, value)
        return value.rstrip("/")
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} = {value!r}: {error}; write the path out") from None
    if is_address(str(root)) and not path.is_absolute():
        return f"{str(root).rstrip('/')}/{path.as_posix()}"
    return str(Path(root) / path)


def _check_address(name: str, value: str) -> None:
    scheme, _, rest = value.partition(":")
    bucket = rest[2:].partition("/")[0]
    if not rest.startswith("//") or not bucket:
        raise ValueError(f"{name} = {value!r}: an address is written {scheme}://BUCKET/PREFIX")
    if "@" in bucket:
        # Without the value: what stands before the sign is secret.
        raise ValueError(
            f"{name}: an address holds no credentials and no account; give them in the environment (AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_ACCOUNT_NAME) or in the store's own files"
        )


def _paths(config: Any, prefix: str = "") -> dict[str, str]:
    """Every path that is set, by dotted name."""
    found: dict[str, str] = {}
    for item in dataclasses.fields(config):
        name, value = f"{prefix}{item.name}", getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            found |= _paths(value, f"{name}.")
        elif isinstance(value, tuple) and _is_section(value):
            for place, part in enumerate(value):
                found |= _paths(part, f"{name}.{place}.")
        elif item.name.endswith("_paths"):
            found |= {f"{name}.{place}": str(part) for place, part in enumerate(value)}
        elif _is_path(config, item) and value:
            found[name] = str(value)
    return found


def _is_path(config: Any, item: dataclasses.Field[Any]) -> bool:
    """Whether a field holds a path: by its name, or as it is marked where it is declared."""
    if PATH_UNLESS in item.metadata:
        return getattr(config, item.name) != item.metadata[PATH_UNLESS]
    return item.name.endswith("_path")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def bound_settings(config: Any) -> dict[str, Any]:
    """The settings that decide a result, as plain JSON types with absolute paths: all fields but those that are marked
    where they are declared (`FREE`, `ADDED_LATER` of glotok_ray/config/rules.py). Fields of a section with
    `FORMER_NAMES` lie beside it.
    """
    return _bound(with_absolute_paths(config))


def _bound(config: Any) -> dict[str, Any]:
    plain, found = to_dict(config), {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        is_as_before = ADDED_LATER in item.metadata and item.metadata[ADDED_LATER] == value
        if CHANGES_NO_RESULT in item.metadata or is_as_before:
            continue
        if FORMER_NAMES in item.metadata:
            former = item.metadata[FORMER_NAMES]
            found |= {former.get(name, name): inner for name, inner in _bound(value).items()}
        elif dataclasses.is_dataclass(value):
            found[item.name] = _bound(value)
        elif isinstance(value, tuple) and _is_section(value):
            found[item.name] = [_bound(part) for part in value]
        else:
            found[item.name] = plain[item.name]
    return found


def from_dict(kind: type[Config], values: dict[str, Any]) -> Config:
    """Rebuild a config from `to_dict`; raises ValueError for unknown fields, which a newer or older version may have
    written, and for values that are not of their field's type.
    """
    return read_section(kind, values)
