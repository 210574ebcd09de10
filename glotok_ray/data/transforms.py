"""Crops: ADM's centre and random crop, ten crops, mirror images; numpy alone, for readers that need no torch.

Source: openai/guided-diffusion, image_datasets.py (the crop of every ImageNet protocol), rewritten.
Read next: glotok_ray/data/training_rows.py
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from glotok_ray.data.forms import largest_short_side
from glotok_ray.data.image_files import resize_short_side
from glotok_ray.data.shard_plan import seeded_generator


def row_generator(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The generator of one row in one epoch: its draws depend on nothing else."""
    return seeded_generator("row", seed, epoch, key)


def center_crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The middle square after the short side became `size`; the identity on a square of that side."""
    resized = _with_short_side(image, size)
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size]


def random_crop(
    image: UInt8[np.ndarray, "h w 3"], size: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """A square at a random place after the short side became a whole number in [size, 1.25 * size]."""
    short_side = int(generator.integers(size, largest_short_side(size) + 1))
    resized = _with_short_side(image, short_side)
    top = int(generator.integers(resized.shape[0] - size + 1))
    left = int(generator.integers(resized.shape[1] - size + 1))
    return resized[top : top + size, left : left + size]


def ten_crop(
    image: UInt8[np.ndarray, "h w 3"], size: int, scale: float
) -> UInt8[np.ndarray, "10 size size 3"]:
    """Five squares of the centre crop at int(size * scale), then five of its mirror image: torchvision's ten_crop.

    They lie top left, top right, bottom left, bottom right and in the middle. A crop whose short side is below
    int(size * scale) is enlarged, as `center_crop` does.
    """
    crop = center_crop(image, int(size * scale))
    margin = len(crop) - size
    # torchvision rounds half a pixel to even, where `center_crop` rounds down as ADM does.
    middle = round(margin / 2)
    places = ((0, 0), (0, margin), (margin, 0), (margin, margin), (middle, middle))
    return np.stack(
        [
            whole[top : top + size, left : left + size]
            for whole in with_mirror_images(crop[np.newaxis])
            for top, left in places
        ]
    )


def with_mirror_images(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "m h w 3"]:
    """The images, then the mirror image of each: m = 2 n."""
    return np.concatenate([images, images[:, :, ::-1]])


def _with_short_side(image: np.ndarray, side: int) -> np.ndarray:
    if min(image.shape[:2]) == side:
        return image
    return np.array(resize_short_side(Image.fromarray(image), side))
