"""The fields of dataset.json, each checked as it is read: there, of its type, and in line with the others.

All raise ArtefactError that names the file, the field and the remedy. Read next: glotok_ray/data/records.py
"""

import math
from pathlib import Path
from typing import Any

from glotok_ray.data.code_layout import CodeColumn, CodeLayout
from glotok_ray.data.forms import FORMS, ORIGINAL, PARQUET, SHARD_FORMATS
from glotok_ray.storage.artefact import ArtefactError


def field_of(path: Path, values: dict[str, Any], name: str, kind: type) -> Any:
    """A field of the file, which must be there and of this type."""
    if name not in values:
        raise ArtefactError(f"{path}: has no field {name!r}; rebuild the folder with --fresh")
    value = values[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ArtefactError(
            f"{path}: {name} = {value!r}: must be of type {kind.__name__}; "
            "rebuild the folder with --fresh"
        )
    return value


def image_fields(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What dataset.json says of images alone, as `DatasetInfo` names it."""
    if "form" not in values:
        raise ArtefactError(
            f"{path}: has no field 'form': an older version wrote it, which does not say whether the images are "
            "originals; run the job that wrote it again with --fresh"
        )
    form, side = field_of(path, values, "form", str), field_of(path, values, "image_size", int)
    if form not in FORMS or (side < 1) != (form == ORIGINAL):
        raise ArtefactError(
            f"{path}: form = {form!r} with image_size = {side}: must be {ORIGINAL!r} with 0, or another of "
            f"{', '.join(FORMS)} with a side in pixels; rebuild the folder with --fresh"
        )
    left_out = field_of(path, values, "unreadable", list) if "unreadable" in values else []
    facts = {
        "form": form,
        "num_unreadable": len(left_out),
        "shard_format": _shard_format(path, values),
    }
    # Images of a folder; crops that are the data set itself know no tags.
    if "upright" not in values:
        return facts
    for name in ("num_turned", "num_changed"):
        if name not in values:
            raise ArtefactError(
                f"{path}: has no field {name!r}: an older version wrote it, which does not say how many images are "
                "not as their files are; run the job that wrote it again with --fresh"
            )
        facts[name] = field_of(path, values, name, int)
    if "jpeg_quality" in values:
        facts["jpeg_quality"] = field_of(path, values, "jpeg_quality", int)
    return facts


def _shard_format(path: Path, values: dict[str, Any]) -> str:
    # Older versions wrote Parquet alone, and did not say so.
    if "shard_format" not in values:
        return PARQUET
    found = field_of(path, values, "shard_format", str)
    if found not in SHARD_FORMATS:
        raise ArtefactError(
            f"{path}: shard_format = {found!r}: must be one of {', '.join(SHARD_FORMATS)}; rebuild the folder with "
            "--fresh"
        )
    return found


def code_fields(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What dataset.json says of codes alone, as `DatasetInfo` names it."""
    kinds = {"num_views": int, "tokenizer_sha256": str}
    fields = {name: field_of(path, values, name, kind) for name, kind in kinds.items()}
    counts = field_of(path, values, "codebooks", dict)
    if "views" in values:
        fields["views"] = field_of(path, values, "views", str)
    sizes = {name: field_of(path, counts, name, int) for name in counts}
    if "system" in values:
        return fields | _foreign_fields(path, values, sizes)
    side = field_of(path, values, "grid_size", int)
    return fields | {
        "code_counts": sizes,
        "grid_size": side,
        "grids": dict.fromkeys(sizes, (side, side)),
    }


def _foreign_fields(path: Path, values: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """Of codes of another system's tokenizer: the form of every column's grid, in the order of the grids, and that the
    bits agree with them.
    """
    stored = field_of(path, values, "grids", list)
    grids = {
        grid["name"]: tuple(grid["shape"])
        for grid in stored
        if isinstance(grid, dict) and isinstance(grid.get("name"), str) and _is_shape(grid)
    }
    if len(grids) != len(stored) or sorted(grids) != sorted(sizes) or not grids:
        raise ArtefactError(
            f"{path}: grids = {stored}: must hold a name and a shape of sides of at least 1 for each of "
            f"{', '.join(sizes)}; encode the images again with --fresh"
        )
    columns = tuple(CodeColumn(name, sizes[name], shape) for name, shape in grids.items())
    layout = CodeLayout(field_of(path, values, "image_size", int), columns)
    bits = field_of(path, values, "bits", float)
    if min(sizes.values()) < 1 or not math.isclose(bits, layout.bits):
        raise ArtefactError(
            f"{path}: bits = {bits}: does not follow from its grids and codebooks; encode the images again with --fresh"
        )
    return {
        "system": field_of(path, values, "system", str),
        "code_counts": layout.code_counts,
        "grids": grids,
        "grid_size": layout.grid_size,
    }


def _is_shape(grid: dict[str, Any]) -> bool:
    shape = grid.get("shape")
    whole = isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape)
    return whole and bool(shape)
