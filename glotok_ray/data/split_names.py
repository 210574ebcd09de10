"""Names of splits: files and folders that are called so are parts of a data set, and folders are no classes.

Read next: glotok_ray/data/folders.py
"""

from collections.abc import Collection
from pathlib import Path

SPLIT_OF = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""The split by the name, in lower case."""


def check_folders(source: Path, names: Collection[str], field: str) -> None:
    """Raise ValueError where there are no class folders, or all are called as splits."""
    if not names:
        raise ValueError(
            f"{field} = {str(source)!r}: no class folders; put the images of each class into a "
            "sub-folder of its own"
        )
    # Before a million files are listed.
    if all(name.lower() in SPLIT_OF for name in names):
        raise ValueError(_splits_text(source, names, field))


def check_filled_folders(source: Path, names: Collection[str], field: str) -> None:
    """Raise ValueError where the folders that hold images are splits, whatever lies beside them.

    A class may be called train, or test; one of each is taken for splits.
    """
    splits = {SPLIT_OF.get(name.lower(), "") for name in names}
    if (names and "" not in splits) or ("train" in splits and splits & {"validation", "test"}):
        raise ValueError(_splits_text(source, names, field))


def _splits_text(source: Path, names: Collection[str], field: str) -> str:
    splits = sorted((name for name in names if name.lower() in SPLIT_OF), key=_order)
    places = [repr(str(source / name)) for name in splits]
    remedy = f"give one of them, such as {places[0]}"
    if field == "source" and len(splits) > 1:
        remedy += f", as source and another, such as {places[1]}, as validation_source"
    return (
        f"{field} = {str(source)!r}: its folders ({', '.join(splits)}) look like splits, not classes; "
        f"{remedy}"
    )


def _order(name: str) -> tuple[int, str]:
    return list(SPLIT_OF).index(name.lower()), name
