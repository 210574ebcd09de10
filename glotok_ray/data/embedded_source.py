"""The embedded photographs as the images of a run.

Read next: glotok_ray/data/embedded_images.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glotok_ray.config.jobs import AUTO_SOURCE, EMBEDDED_SOURCE, ShardRun
from glotok_ray.data.embedded_images import (
    CROP_RULE,
    PHOTOGRAPHS,
    embedded_crops,
    embedded_digests,
)
from glotok_ray.data.forms import CROP
from glotok_ray.data.left_out import LeftOut, Losses
from glotok_ray.data.listing import SPLITS, RowSource


@dataclass(frozen=True)
class EmbeddedImages:
    """Crops of the photographs that ship with installed packages."""

    run: ShardRun
    unread_fields: tuple[str, ...] = (
        "validation_fraction",
        "shard_mib",
        "class_folders",
        "jpeg_quality",
    )
    form: str = CROP
    num_images: int = len(PHOTOGRAPHS)

    @property
    def classes(self) -> tuple[str, ...]:
        """One class per photograph."""
        return tuple(item.name for item in PHOTOGRAPHS)

    @property
    def left_out(self) -> list[LeftOut]:
        """None."""
        return []

    def digests(self) -> dict[str, Any]:
        """The photographs' files, and the rule that cuts them."""
        # Older versions called them so; the names count in fingerprints, so they stay.
        return {"pictures": embedded_digests(), "crop_rule": CROP_RULE}

    def rows(self) -> dict[str, Sequence[RowSource]]:
        """The crops of each split."""
        run = self.run
        numbers = (run.crops_per_class, run.validation_crops_per_class)
        return {
            split: embedded_crops(
                split, image_size=run.image_size, crops_per_class=number, seed=run.seed
            )
            for split, number in zip(SPLITS, numbers, strict=True)
        }

    def details(self, losses: Losses, split: str) -> dict[str, Any]:
        """The rule of the splits, and whose the photographs are."""
        credits = {item.name: item.credit for item in PHOTOGRAPHS}
        rule = {"rule": "a vertical band of each photograph", "seed": self.run.seed}
        return {"split": rule, "credits": credits, "unreadable": [], "left_out": []}


def check_embedded_images(run: ShardRun) -> None:
    """Raise ValueError for settings that the photographs cannot have."""
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
    if run.resize_short_side:
        raise ValueError(
            f"resize_short_side = {run.resize_short_side}: reduces a folder's originals; the embedded photographs are "
            "cut into crops of image_size, so leave it at 0, or give a folder as source"
        )
    for name, unset in (
        ("source_kind", AUTO_SOURCE),
        ("class_names_path", ""),
        ("ground_truth_path", ""),
    ):
        if getattr(run, name) != unset:
            raise ValueError(
                f"{name} = {getattr(run, name)!r}: says something of a path, and source = {EMBEDDED_SOURCE!r} is the "
                "embedded set; give the path as source"
            )
