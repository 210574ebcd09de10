"""The split of a source into training and validation: a rule of the seed, the names and the listing alone.

Read next: glotok_ray/data/folders.py
"""

import logging
from collections.abc import Sequence

import numpy as np

from glotok_ray.data.left_out import among, first
from glotok_ray.data.listing import Listing, Row
from glotok_ray.data.row_columns import Rows
from glotok_ray.data.shard_plan import seeded_generator

logger = logging.getLogger(__name__)

# Metrics of classes need two validation images of each; a class of fewer images would miss them in training.
_ENOUGH_FOR_TWO = 6


def split_image_files(
    tree: Listing[Row], *, fraction: float, seed: int, as_found: bool = False
) -> dict[str, Rows[Row]]:
    """Training and validation images, from the listing alone.

    Each class gives `fraction` of its sorted images, at least one, drawn by the seed and its name.
    Raises ValueError for a class with fewer than two images. With `as_found` classes of six or more give at least two;
    the image of a class that has one is trained on, a warning names such classes, and it is refused alone that no class
    has two.
    """
    labels = tree.images.labels
    counts = np.bincount(labels, minlength=len(tree.classes))
    # Of each class its images in their order.
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    train, validation = [], []
    if as_found:
        _check_lone(tree, counts.tolist())
    for name, images in zip(tree.classes, by_class, strict=True):
        if as_found and len(images) == 1:
            train.append(images)
            continue
        if len(images) < 2:
            raise ValueError(
                f"class {name!r} has {len(images)} images{_left_out_of(tree, name)}: training and validation need "
                "at least one each; add images, or move the folder out of the source"
            )
        fewest = 2 if as_found and len(images) >= _ENOUGH_FOR_TWO else 1
        number = min(max(fewest, round(fraction * len(images))), len(images) - 1)
        order = seeded_generator("validation", seed, name).permutation(len(images))
        chosen = np.zeros(len(images), bool)
        chosen[order[:number]] = True
        train.append(images[~chosen])
        validation.append(images[chosen])
    return {
        split: tree.images.drawn(np.concatenate(places))
        for split, places in (("train", train), ("validation", validation))
    }


def whole_tree(tree: Listing[Row], *, field: str) -> Rows[Row]:
    """The images of a split with a tree of its own, the config's `field`; raises ValueError for a class of none."""
    found = set(np.unique(tree.images.labels).tolist())
    for label, name in enumerate(tree.classes):
        if label not in found:
            raise ValueError(
                f"{field}: class {name!r} has no images{_left_out_of(tree, name)}; add one, or move the class's "
                "folder out of source and validation_source"
            )
    return tree.images


def _check_lone(tree: Listing[Row], counts: Sequence[int]) -> None:
    """Warn of classes of one image; raise ValueError where there are no others."""
    lone = [name for name, count in zip(tree.classes, counts, strict=True) if count == 1]
    if lone and len(lone) == len(counts):
        raise ValueError(
            f"source: none of its {len(counts)} classes has a second image (e.g. {first(lone)}), so nothing can be "
            "held out for validation; add images, or put all of them into one folder"
        )
    if lone:
        logger.warning(
            "%d of %d classes have one image, which is trained on; validation has none of them: %s",
            len(lone),
            len(counts),
            first(lone),
        )


def _left_out_of(tree: Listing[Row], name: str) -> str:
    """What was left out of a class."""
    return among(file for file in tree.left_out if file.class_name == name)
