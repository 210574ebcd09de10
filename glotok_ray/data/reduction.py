"""Originals reduced when they are sharded (`ShardRun.resize_short_side`), and what that costs the crops of evaluations.

Read next: glotok_ray/data/image_files.py
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.image_files import Reduction, StoredImage, stored_image
from glotok_ray.data.listing import RowSource
from glotok_ray.data.records import decode_image
from glotok_ray.data.transforms import center_crop

MEASURED_IMAGES = 512
"""Images of a split that are compared with their originals at least, one of a shard at least: each is read twice."""
CROP_SIDE = 256
"""Side of the compared crops, pixels, or the short side where that is smaller: of published protocols."""

# PSNR of equal crops is infinite, and would hide all others in a mean.
_LEAST_ERROR = 1e-5


def stored_for(run: ShardRun, original: bytes) -> StoredImage:
    """What the run stores of a file's bytes; raises UnreadableImageError."""
    reduction = None
    if run.resize_short_side:
        reduction = Reduction(run.resize_short_side, run.jpeg_quality)
    return stored_image(
        original, image_size=run.image_size, upright=run.upright, reduction=reduction
    )


def crop_side(run: ShardRun) -> int:
    """Side of the crops that are compared, pixels."""
    return min(CROP_SIDE, run.resize_short_side)


def squared_error(source: RowSource, encoded: bytes, run: ShardRun) -> float:
    """Mean squared error of ADM's centre crop of a reduced image to that of its original, in squared grey levels of 0
    to 255. The original is read again; raises UnreadableImageError.
    """
    original = source.encode(dataclasses.replace(run, resize_short_side=0)).encoded
    crops = [
        center_crop(decode_image(each, source.key), crop_side(run)).astype(np.float64)
        for each in (encoded, original)
    ]
    return float(((crops[0] - crops[1]) ** 2).mean())


def reduction_facts(run: ShardRun, resized: int, errors: Sequence[float]) -> dict[str, Any]:
    """For dataset.json: the rule, how many images it changed, and the PSNR in dB of the compared crops (equal ones
    count as 98 dB); no field where the run reduces nothing.
    """
    if not run.resize_short_side:
        return {}
    facts = {
        "resize_short_side": run.resize_short_side,
        "jpeg_quality": run.jpeg_quality,
        "num_resized": resized,
    }
    if not errors:
        return facts
    psnr = 10 * np.log10(255.0**2 / np.maximum(errors, _LEAST_ERROR))
    cost = {
        "images": len(psnr),
        "crop_side": crop_side(run),
        "mean_psnr_db": round(float(psnr.mean()), 2),
        "lowest_psnr_db": round(float(psnr.min()), 2),
    }
    return {**facts, "resize_cost": cost}
