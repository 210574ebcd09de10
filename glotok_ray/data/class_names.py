"""Names for the classes of sources that number them or name them otherwise, and the classes of ImageNet's validation
images: small files that people have, in the forms in which they have them.

Read next: glotok_ray/data/archive_listing.py
"""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.storage.places import to_path

_SYNSET = re.compile(r"n\d{8}\b")
_NUMBER = re.compile(r"\d+")
_DEVKIT_IDS = "ILSVRC2012_validation_ground_truth.txt"
_DEVKIT_CLASSES = "meta.mat"
_LABEL_FORMS = (
    f"the development kit's folder (with {_DEVKIT_IDS} and {_DEVKIT_CLASSES}), LOC_val_solution.csv, a text file of "
    "lines FILE SYNSET, or one synset per line in the order of the images"
)


def read_class_names(path: str) -> dict[str, str]:
    """Names by a source's own class, a number or a name as text.

    The file is JSON, an object of own class to name (or to a list that begins with it), or text: line i, from 0, names
    class i by its synset where it begins with one, else by all of it. Raises ValueError.
    """
    text = _text(path, "class_names_path")
    names = _json_names(path, text) if text.lstrip()[:1] in ("{", "[") else _listed_names(text)
    taken: dict[str, str] = {}
    for own, name in names.items():
        if not name or name in taken:
            raise ValueError(
                f"class_names_path = {path!r}: class {own} is called {name!r}"
                f"{f', like class {taken[name]}' if name else ''}; give every class a name of its own"
            )
        taken[name] = own
    return names


def _listed_names(text: str) -> dict[str, str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [_SYNSET.match(line) for line in lines]
    return {
        str(number): match[0] if match else line
        for number, (line, match) in enumerate(zip(lines, found, strict=True))
    }


def _json_names(path: str, text: str) -> dict[str, str]:
    try:
        values: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"class_names_path = {path!r}: not valid JSON ({error}); correct it"
        ) from None
    names: dict[str, str] = {}
    for own, value in values.items() if isinstance(values, dict) else enumerate(values):
        name = value[0] if isinstance(value, list) and value else value
        if not isinstance(name, str):
            raise ValueError(
                f"class_names_path = {path!r}: class {own} is {name!r}; must be a text"
            )
        names[str(own)] = name
    return names


class ImageClasses(NamedTuple):
    """The classes of images that lie in no class folder."""

    by_name: Mapping[str, str]
    """By the file's name without suffix."""
    in_order: tuple[str, ...]
    """By the number at the end of the file's name, from 1; empty where names decide."""

    def of(self, file: str) -> str:
        """The class of a file; empty where it has none."""
        stem = Path(file).stem
        if not self.in_order:
            return self.by_name.get(stem, "")
        number = re.search(r"(\d+)$", stem)
        place = int(number[1]) if number else 0
        return self.in_order[place - 1] if 0 < place <= len(self.in_order) else ""


def read_image_classes(path: str, *, images: str) -> ImageClasses:
    """What `ground_truth_path` says of the classes of `images`, which messages name; raises ValueError."""
    if not path:
        raise ValueError(
            f"ground_truth_path = '': {images} does not say the classes of its images; give {_LABEL_FORMS}"
        )
    place = to_path(path)
    if place.is_dir():
        place = next((each for each in _devkit_places(place) if each.is_file()), place)
    if place.is_dir():
        raise ValueError(
            f"ground_truth_path = {path!r}: holds no {_DEVKIT_IDS}; give {_LABEL_FORMS}"
        )
    lines = [re.split(r"[,\s]+", line.strip()) for line in _text(str(place)).splitlines()]
    words = [line for line in lines if line[0] and line[0] != "ImageId"]
    if all(len(line) == 1 for line in words) and words:
        return ImageClasses({}, _in_order(place, [line[0] for line in words]))
    odd = next((line for line in words if len(line) < 2), None)
    if odd or not words:
        what = f"line {odd[0]!r} has no class" if odd else "is empty"
        raise ValueError(f"ground_truth_path = {path!r}: {what}; give {_LABEL_FORMS}")
    return ImageClasses({Path(line[0]).stem: line[1] for line in words}, ())


def _devkit_places(folder: Path) -> list[Path]:
    return [folder / _DEVKIT_IDS, folder / "data" / _DEVKIT_IDS]


def _in_order(path: Path, words: list[str]) -> tuple[str, ...]:
    """One class per image; numbers are those of the development kit, which its other file names."""
    if not all(_NUMBER.fullmatch(word) for word in words):
        return tuple(words)
    meta = path.with_name(_DEVKIT_CLASSES)
    if not meta.is_file():
        raise ValueError(
            f"ground_truth_path = {str(path)!r}: holds the development kit's numbers, and {_DEVKIT_CLASSES}, which "
            f"names their synsets, is not beside it; give {_LABEL_FORMS}"
        )
    synsets = _devkit_synsets(meta)
    unknown = next((word for word in words if int(word) not in synsets), None)
    if unknown is not None:
        raise ValueError(
            f"{path}: has the number {unknown}, which {meta} does not know; bring both files of one development kit"
        )
    return tuple(synsets[int(word)] for word in words)


def _devkit_synsets(path: Path) -> dict[int, str]:
    """Synsets by the development kit's numbers, from 1."""
    # Here, since scipy takes a second to import.
    import scipy.io

    try:
        content = io.BytesIO(path.read_bytes())
        table = scipy.io.loadmat(content, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table.reshape(-1)}
    # scipy raises many kinds of errors on damaged files.
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read as the development kit's table ({error}); bring it again, or give a text file "
            "of lines FILE SYNSET as ground_truth_path"
        ) from None


def _text(path: str, field: str = "ground_truth_path") -> str:
    try:
        return to_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{field} = {path!r}: cannot be read as text ({error}); correct the path"
        ) from None
