"""Where a shard run's images come from: the embedded photographs or a class-folder tree, behind one face.

Read next: glotok_ray/data/photographs.py, glotok_ray/data/folders.py
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glotok_ray import artefact, config
from glotok_ray.config import ShardRun
from glotok_ray.data.folders import Picture, PictureTree, list_pictures, split_pictures
from glotok_ray.data.photographs import (
    PHOTOGRAPHS,
    PhotographCrop,
    photograph_crops,
    photograph_digests,
)
from glotok_ray.data.shard_plan import seeded_generator

EMBEDDED = "photographs"
SPLITS = ("train", "validation")

_FOLDER_FIELDS = ("validation_fraction",)
_CROP_FIELDS = ("crops_per_class", "validation_crops_per_class")

RowSource = Picture | PhotographCrop
"""One row to be: a key, a label, and `encode(image_size)`, which gives the bytes to store."""


@dataclass(frozen=True)
class ImageSource:
    """Where a run's images come from; `tree` is None for the photographs."""

    run: ShardRun
    tree: PictureTree | None

    @classmethod
    def of(cls, run: ShardRun) -> "ImageSource":
        """Check the run and list its folder; raises ValueError."""
        _check(run)
        if run.source == EMBEDDED:
            return cls(run, None)
        # Workers may have another working directory.
        return cls(run, list_pictures(Path(run.source).absolute()))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted; a label is an index into them."""
        return self.tree.classes if self.tree else tuple(item.name for item in PHOTOGRAPHS)

    def fingerprint(self) -> str:
        """Digest of the settings that matter for this source and of its pictures, wherever they lie."""
        unused = _CROP_FIELDS if self.tree else _FOLDER_FIELDS
        values: dict[str, Any] = {
            name: value
            for name, value in config.to_dict(self.run).items()
            if name not in ("output_path", "source", *unused)
        }
        values["pictures"] = self.tree.digest if self.tree else photograph_digests()
        return artefact.fingerprint("shards", values)

    @property
    def num_pictures(self) -> int:
        """Picture files found, readable or not."""
        return len(self.tree.pictures) if self.tree else len(PHOTOGRAPHS)

    @property
    def ignored_files(self) -> int:
        """Files beside the pictures."""
        return self.tree.ignored_files if self.tree else 0

    def rows(self, unreadable: Mapping[str, str]) -> dict[str, list[RowSource]]:
        """All rows per split, shuffled by the seed, so that shards mix classes.

        `unreadable` maps the keys of pictures to leave out to reasons. Raises ValueError.
        """
        shuffled: dict[str, list[RowSource]] = {}
        for split, rows in self._sorted_rows(unreadable).items():
            order = seeded_generator("shuffle", self.run.seed, split).permutation(len(rows))
            shuffled[split] = [rows[index] for index in order]
        return shuffled

    def _sorted_rows(
        self, unreadable: Mapping[str, str]
    ) -> dict[str, list[Picture]] | dict[str, list[PhotographCrop]]:
        run = self.run
        if self.tree:
            fraction = run.validation_fraction
            return split_pictures(self.tree, unreadable, fraction=fraction, seed=run.seed)
        numbers = (run.crops_per_class, run.validation_crops_per_class)
        return {
            split: photograph_crops(
                split, image_size=run.image_size, crops_per_class=number, seed=run.seed
            )
            for split, number in zip(SPLITS, numbers, strict=True)
        }

    def details(self, unreadable: Mapping[str, str]) -> dict[str, Any]:
        """Provenance for dataset.json."""
        if not self.tree:
            credits = {item.name: item.credit for item in PHOTOGRAPHS}
            split = {"rule": "a vertical band of each photograph", "seed": self.run.seed}
            return {"split": split, "credits": credits, "unreadable": []}
        return {
            "split": {
                "rule": "drawn per class from the sorted pictures",
                "validation_fraction": self.run.validation_fraction,
                "seed": self.run.seed,
            },
            "ignored_files": self.tree.ignored_files,
            "unreadable": [
                {"file": key, "reason": reason} for key, reason in sorted(unreadable.items())
            ],
        }


def _check(run: ShardRun) -> None:
    for name in ("image_size", "rows_per_shard", *_CROP_FIELDS):
        if getattr(run, name) < 1:
            raise ValueError(f"{name} = {getattr(run, name)}: must be at least 1")
    if run.source == EMBEDDED:
        return
    if not run.source:
        raise ValueError("source = '': give a folder with one sub-folder per class")
    source, output = Path(run.source).resolve(), Path(run.output_path).resolve()
    if output.is_relative_to(source):
        raise ValueError(
            f"output_path = {run.output_path!r}: lies inside source = {run.source!r} and would be "
            "taken for a class; choose another folder"
        )
