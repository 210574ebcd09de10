"""Where a shard run's images come from: the embedded photographs or a class-folder tree, behind one interface.

Read next: glotok_ray/data/embedded_images.py, glotok_ray/data/folders.py
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glotok_ray.config.jobs import EMBEDDED_SOURCE, ShardRun
from glotok_ray.config.overrides import bound_settings
from glotok_ray.data.embedded_images import (
    CROP_RULE,
    PHOTOGRAPHS,
    EmbeddedCrop,
    embedded_crops,
    embedded_digests,
)
from glotok_ray.data.folders import (
    VALIDATION_PREFIX,
    ImageFile,
    ImageTree,
    list_image_files,
)
from glotok_ray.data.forms import CROP, ORIGINAL, REDUCED
from glotok_ray.data.left_out import LeftOut, left_out_by_kind
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.data.splits import split_image_files, whole_tree

SPLITS = ("train", "validation")

_CROP_FIELDS = ("crops_per_class", "validation_crops_per_class")
_FOLDER_FIELDS = ("validation_fraction", "shard_mib", "class_folders")

RowSource = ImageFile | EmbeddedCrop
"""One row to be: a key, a label, its file's size, and `encode(run)`, which gives the bytes to store."""


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
    empty_classes: Mapping[str, Mapping[str, str]]
    """By split, the classes of which it has no image left, each with a file of it and the reason."""


@dataclass(frozen=True)
class ImageSource:
    """Where a run's images come from; `tree` is None for photographs, `validation_tree` where the split is drawn."""

    run: ShardRun
    tree: ImageTree | None
    validation_tree: ImageTree | None = None

    @classmethod
    def of(cls, run: ShardRun) -> "ImageSource":
        """Check the run and list its folder; raises ValueError."""
        _check(run)
        if run.source == EMBEDDED_SOURCE:
            return cls(run, None)
        # Workers may have another working directory.
        minutes = run.storage_retry_minutes
        tree = list_image_files(
            Path(run.source).absolute(), minutes=minutes, as_found=_as_found(run)
        )
        if not run.validation_source:
            return cls(run, tree)
        folder = Path(run.validation_source).absolute()
        validation = list_image_files(
            folder, field="validation_source", key_prefix=VALIDATION_PREFIX, minutes=minutes
        )
        if validation.classes != tree.classes:
            odd = sorted(set(tree.classes) ^ set(validation.classes))
            raise ValueError(
                f"validation_source = {run.validation_source!r}: must have the class folders of source = "
                f"{run.source!r}; in one alone: {', '.join(odd[:5])}{', ...' if len(odd) > 5 else ''}"
            )
        return cls(run, tree, validation)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted; a label is an index into them."""
        return self.tree.classes if self.tree else tuple(item.name for item in PHOTOGRAPHS)

    @property
    def form(self) -> str:
        """One of `glotok_ray.data.forms.FORMS`."""
        if not self.tree:
            return CROP
        return REDUCED if self.run.image_size else ORIGINAL

    def bound_settings(self) -> dict[str, Any]:
        """What decides the shards: the settings that this source reads, and its images, wherever they lie."""
        unused = _CROP_FIELDS if self.tree else _FOLDER_FIELDS
        if self.validation_tree:
            unused = (*_CROP_FIELDS, "validation_fraction", "class_folders")
        values = {
            name: value for name, value in bound_settings(self.run).items() if name not in unused
        }
        # Older versions called them so; the names count in fingerprints, so they stay.
        values["pictures"] = self.tree.digest if self.tree else embedded_digests()
        if not self.tree:
            values["crop_rule"] = CROP_RULE
        if self.validation_tree:
            values["validation_pictures"] = self.validation_tree.digest
        return values

    @property
    def num_images(self) -> int:
        """Image files found, readable or not."""
        return sum(len(tree.images) for tree in self._trees) or len(PHOTOGRAPHS)

    @property
    def left_out(self) -> list[LeftOut]:
        """The files beside the images."""
        return left_out_by_kind(file for tree in self._trees for file in tree.left_out)

    @property
    def _trees(self) -> list[ImageTree]:
        return [tree for tree in (self.tree, self.validation_tree) if tree]

    def rows(self) -> dict[str, list[RowSource]]:
        """All rows per split, shuffled by the seed, so that shards mix classes. Raises ValueError."""
        shuffled: dict[str, list[RowSource]] = {}
        for split, rows in self._sorted_rows().items():
            order = seeded_generator("shuffle", self.run.seed, split).permutation(len(rows))
            shuffled[split] = [rows[index] for index in order]
        return shuffled

    def shards(self) -> dict[str, list[list[RowSource]]]:
        """The rows of each shard: `rows_per_shard`, or fewer where their files would exceed `shard_mib`."""
        return {split: self._cut(rows) for split, rows in self.rows().items()}

    def _cut(self, rows: list[RowSource]) -> list[list[RowSource]]:
        shards: list[list[RowSource]] = [[]]
        held, most = 0, self.run.shard_mib << 20
        for row in rows:
            full = len(shards[-1]) == self.run.rows_per_shard or held + row.size > most
            if shards[-1] and full:
                shards.append([])
                held = 0
            shards[-1].append(row)
            held += row.size
        return shards

    def _sorted_rows(self) -> dict[str, list[ImageFile]] | dict[str, list[EmbeddedCrop]]:
        run = self.run
        if self.tree and self.validation_tree:
            return {
                "train": whole_tree(self.tree, field="source"),
                "validation": whole_tree(self.validation_tree, field="validation_source"),
            }
        if self.tree:
            return split_image_files(
                self.tree,
                fraction=run.validation_fraction,
                seed=run.seed,
                as_found=_as_found(run),
            )
        numbers = (run.crops_per_class, run.validation_crops_per_class)
        return {
            split: embedded_crops(
                split, image_size=run.image_size, crops_per_class=number, seed=run.seed
            )
            for split, number in zip(SPLITS, numbers, strict=True)
        }

    def details(self, losses: Losses, split: str) -> dict[str, Any]:
        """Provenance for a split's dataset.json: the rule of the splits, how many of its images were turned and
        changed, and every file of both that is not stored as it was.
        """
        if not self.tree:
            credits = {item.name: item.credit for item in PHOTOGRAPHS}
            rule = {"rule": "a vertical band of each photograph", "seed": self.run.seed}
            return {"split": rule, "credits": credits, "unreadable": [], "left_out": []}
        return {
            "split": {"rule": "folders of their own", "seed": self.run.seed}
            if self.validation_tree
            else {
                "rule": "drawn per class from the sorted images",
                "validation_fraction": self.run.validation_fraction,
                "seed": self.run.seed,
            },
            "upright": self.run.upright,
            "num_turned": losses.num_turned[split],
            "num_changed": losses.num_changed[split],
            "left_out": [item._asdict() for item in self.left_out],
            "unreadable": [
                {"file": key, "reason": reason} for key, reason in sorted(losses.unreadable.items())
            ],
            "changed": [
                {"file": key, "change": change} for key, change in sorted(losses.changed.items())
            ],
            "empty_classes": losses.empty_classes,
        }


def _as_found(run: ShardRun) -> bool:
    """Whether a folder's classes are taken as they are; those of two folders must be equal and complete."""
    return run.class_folders == "as_found" and not run.validation_source


def _check_embedded_images(run: ShardRun) -> None:
    if run.image_size == 0:
        raise ValueError(
            "image_size = 0: keeps the originals of a folder; the embedded photographs are cut into crops of that "
            "side, so give one, such as 64, or give a folder as source"
        )
    if not run.upright:
        raise ValueError(
            "upright = False: the embedded photographs have no orientation tags; leave it on, or give a folder"
        )
    if run.validation_source:
        raise ValueError(
            f"validation_source = {run.validation_source!r}: the embedded photographs have validation crops of "
            "their own; leave it empty, or give a folder as source"
        )


def _check(run: ShardRun) -> None:
    for name in ("rows_per_shard", "shard_mib", *_CROP_FIELDS):
        if getattr(run, name) < 1:
            raise ValueError(f"{name} = {getattr(run, name)}: must be at least 1")
    if run.image_size < 0:
        raise ValueError(f"image_size = {run.image_size}: must be a side in pixels, or 0")
    if run.source == EMBEDDED_SOURCE:
        _check_embedded_images(run)
        return
    if not run.source:
        raise ValueError("source = '': give a folder with one sub-folder per class")
    if Path(run.source).resolve() == Path(run.validation_source or "/").resolve():
        raise ValueError(
            f"validation_source = {run.validation_source!r}: is the source, so nothing would be held out; give another "
            "folder, or leave it empty, which takes a share of source"
        )
    output = Path(run.output_path).resolve()
    for name in ("source", "validation_source"):
        folder = getattr(run, name)
        if folder and output.is_relative_to(Path(folder).resolve()):
            raise ValueError(
                f"output_path = {run.output_path!r}: lies inside {name} = {folder!r} and would be "
                "taken for a class; choose another folder"
            )
