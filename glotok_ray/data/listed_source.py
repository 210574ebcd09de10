"""Listed files as the images of a run: one listing that is split, or one for each split.

Read next: glotok_ray/data/splits.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.forms import ORIGINAL, REDUCED
from glotok_ray.data.left_out import LeftOut, Losses, left_out_by_kind
from glotok_ray.data.listing import Listing, RowSource
from glotok_ray.data.splits import split_image_files, whole_tree

CROP_FIELDS = ("crops_per_class", "validation_crops_per_class")
"""Fields of ShardRun that are of the embedded photographs alone."""
_SPLIT_FIELDS = ("validation_fraction", "class_folders")


@dataclass(frozen=True)
class ListedImages:
    """Images of one or two listings; `validation` is None where the split is drawn from `training`."""

    run: ShardRun
    training: Listing[RowSource]
    validation: Listing[RowSource] | None = None

    def __post_init__(self) -> None:
        if self.validation and self.validation.classes != self.training.classes:
            odd = sorted(set(self.training.classes) ^ set(self.validation.classes))
            place = self.run.validation_source or self.run.source
            raise ValueError(
                f"validation_source = {place!r}: must have the class folders of source = "
                f"{self.run.source!r}; in one alone: {', '.join(odd[:5])}{', ...' if len(odd) > 5 else ''}"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted; a label is an index into them."""
        return self.training.classes

    @property
    def form(self) -> str:
        """Originals, or reduced where a side is given."""
        return REDUCED if self.run.image_size or self.run.resize_short_side else ORIGINAL

    @property
    def unread_fields(self) -> tuple[str, ...]:
        """What photographs alone need, and the rules of a split that is not drawn."""
        unread = (*CROP_FIELDS, *_SPLIT_FIELDS) if self.validation else CROP_FIELDS
        return unread if self.run.resize_short_side else (*unread, "jpeg_quality")

    @property
    def num_images(self) -> int:
        """Images of both splits, readable or not."""
        return sum(len(listing.images) for listing in self._listings)

    @property
    def left_out(self) -> list[LeftOut]:
        """The files beside the images."""
        return left_out_by_kind(file for listing in self._listings for file in listing.left_out)

    @property
    def _listings(self) -> list[Listing[RowSource]]:
        return [listing for listing in (self.training, self.validation) if listing]

    def digests(self) -> dict[str, Any]:
        """Those of the listings."""
        # Older versions called them so; the names count in fingerprints, so they stay.
        values = {"pictures": self.training.digest}
        if self.validation:
            values["validation_pictures"] = self.validation.digest
        return values

    def rows(self) -> dict[str, Sequence[RowSource]]:
        """The images of each split."""
        if self.validation:
            return {
                "train": whole_tree(self.training, field="source"),
                "validation": whole_tree(self.validation, field="validation_source"),
            }
        run = self.run
        drawn = split_image_files(
            self.training,
            fraction=run.validation_fraction,
            seed=run.seed,
            as_found=run.class_folders == "as_found",
        )
        return dict(drawn)

    def details(self, losses: Losses, split: str) -> dict[str, Any]:
        """The rule of the splits, how many of its images were turned and changed, and every file of both that is not
        stored as it was.
        """
        return {
            "split": self._split_rule(),
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
            **losses.reduction[split],
        }

    def _split_rule(self) -> dict[str, Any]:
        if self.validation:
            return {"rule": "folders of their own", "seed": self.run.seed}
        return {
            "rule": "drawn per class from the sorted images",
            "validation_fraction": self.run.validation_fraction,
            "seed": self.run.seed,
        }
