"""The embedded data set: class-labelled crops of ten photographs that ship inside scikit-image and scikit-learn.

A vertical band of each photograph is set apart for validation; no training crop touches a pixel of it.
Read next: glotok_ray/stages/shard_images.py
"""

import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from glotok_ray.config.jobs import ShardRun
from glotok_ray.data.image_files import StoredImage
from glotok_ray.data.records import encode_png
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.storage.artefact import sha256_of

# Windows are from this to that share of the photograph's shorter side: enough of it to be known at 48 pixels.
_SMALLEST_VIEW, _LARGEST_VIEW = 0.4, 0.6
# The band takes this share of the width, and is wider than the narrowest window by this factor at least, where
# windows then fit beside it.
_BAND, _ROOM = 0.4, 1.15
_DARK_LEVEL = 16
CROP_RULE = 2
"""Version of the rule that draws band and windows; shards are bound to it. Rule 1 cut narrow windows, pixels as is."""
_DRAWS_PER_CROP = 100


class Photograph(NamedTuple):
    """A photograph inside an installed package; its name is its class."""

    name: str
    package: str
    file: str
    credit: str
    reduction: int = 1
    """Side of the pixel blocks that are averaged first; blocks never overlap, so no pixel spreads."""
    dark_frame: bool = False
    """Windows more than half of which are nearly black (all channels below 16) are not used."""


class Crop(NamedTuple):
    """A square window of a (reduced) photograph, pixels."""

    left: int
    top: int
    side: int


class Band(NamedTuple):
    """The columns [start, stop) set apart for validation."""

    start: int
    stop: int


class Sides(NamedTuple):
    """Sides of the narrowest and the widest window, pixels."""

    smallest: int
    largest: int


class EmbeddedCrop(NamedTuple):
    """One row of the embedded data set; the key names photograph and window."""

    key: str
    label: int
    crop: Crop

    @property
    def size(self) -> int:
        """Bytes of a file of its own: none."""
        return 0

    def encode(self, run: ShardRun) -> StoredImage:
        """The crop as PNG of the run's side."""
        photograph = load_embedded_image(PHOTOGRAPHS[self.label])
        return StoredImage(encode_png(cut(photograph, self.crop, run.image_size)))


_IMAGES, _PICTURES = "data", "datasets/images"

PHOTOGRAPHS = (
    Photograph("astronaut", "skimage", f"{_IMAGES}/astronaut.png", "NASA, public domain"),
    Photograph("chelsea", "skimage", f"{_IMAGES}/chelsea.png", "Stefan van der Walt, CC0"),
    Photograph("china", "sklearn", f"{_PICTURES}/china.jpg", "danielbuechele, CC BY 2.0"),
    Photograph("coffee", "skimage", f"{_IMAGES}/coffee.png", "Rachel Michetti, CC0"),
    Photograph("flower", "sklearn", f"{_PICTURES}/flower.jpg", "vultilion, CC BY 2.0"),
    Photograph(
        "hubble_deep_field",
        "skimage",
        f"{_IMAGES}/hubble_deep_field.jpg",
        "NASA, public domain",
        reduction=2,
    ),
    Photograph(
        "immunohistochemistry",
        "skimage",
        f"{_IMAGES}/ihc.png",
        "Center for Microscopy and Molecular Imaging, no known restrictions",
    ),
    Photograph(
        "motorcycle",
        "skimage",
        f"{_IMAGES}/motorcycle_left.png",
        "Middlebury 2014 stereo benchmark (Scharstein et al.)",
    ),
    Photograph(
        "retina",
        "skimage",
        f"{_IMAGES}/retina.jpg",
        "Mikael Haggstrom, CC0",
        reduction=2,
        dark_frame=True,
    ),
    Photograph("rocket", "skimage", f"{_IMAGES}/rocket.jpg", "SpaceX, public domain"),
)


def embedded_path(photograph: Photograph) -> Path:
    """The installed file; raises ValueError when the package or the file is missing."""
    found = importlib.util.find_spec(photograph.package)
    path = Path(found.origin).parent / photograph.file if found and found.origin else None
    if path is None or not path.is_file():
        raise ValueError(
            f"photograph {photograph.name!r}: {photograph.package} does not hold {photograph.file}; "
            "install the versions in constraints.txt"
        )
    return path


def embedded_digests() -> dict[str, str]:
    """sha256 of every photograph's file: packages may replace them."""
    return {photograph.name: sha256_of(embedded_path(photograph)) for photograph in PHOTOGRAPHS}


@functools.lru_cache(maxsize=len(PHOTOGRAPHS))
def load_embedded_image(photograph: Photograph) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph, reduced by its factor; read-only, since it is cached."""
    with Image.open(embedded_path(photograph)) as image:
        pixels = np.array(image.convert("RGB").reduce(photograph.reduction))
    pixels.flags.writeable = False
    return pixels


def window_sides(pixels: UInt8[np.ndarray, "h w 3"], image_size: int) -> Sides:
    """The narrowest and the widest window of crops of side `image_size`; raises ValueError when none fits."""
    height, width = pixels.shape[:2]
    largest_size = min(height, width // 2)
    if image_size > largest_size:
        raise ValueError(
            f"image_size = {image_size}: the embedded photographs allow at most "
            f"{largest_size} here, a training and a validation crop side by side; lower "
            "it, or give a folder of images as source"
        )
    shorter = min(height, width)
    smallest = max(image_size, int(_SMALLEST_VIEW * shorter))
    return Sides(smallest, min(max(smallest, int(_LARGEST_VIEW * shorter)), largest_size))


def validation_band(pixels: UInt8[np.ndarray, "h w 3"], image_size: int) -> Band:
    """The band at the left or the right edge whose colour histogram is nearer (L1) to the rest's.

    At an edge, what is left in one piece is wide enough for wide windows. The seed plays no part.
    """
    smallest, _ = window_sides(pixels, image_size)
    width = pixels.shape[1]
    band = min(max(int(_ROOM * smallest), int(_BAND * width)), width - smallest)
    bins = (pixels >> 6).astype(np.int64) @ (16, 4, 1)
    edges = [Band(0, band), Band(width - band, width)]
    # Compared as integers, so that ties fall alike on every machine.
    return min(edges, key=lambda edge: _distance_to_rest(bins, edge))


def _distance_to_rest(bins: Int[np.ndarray, "h w"], band: Band) -> int:
    """L1 distance of two colour histograms, times both widths."""
    inside = np.bincount(bins[:, band.start : band.stop].reshape(-1), minlength=64)
    outside = np.bincount(bins.reshape(-1), minlength=64) - inside
    width = band.stop - band.start
    return int(np.abs(inside * (bins.shape[1] - width) - outside * width).sum())


def embedded_crops(
    split: str, *, image_size: int, crops_per_class: int, seed: int
) -> list[EmbeddedCrop]:
    """Distinct crops of every photograph for "train" or "validation"; raises ValueError."""
    rows = []
    for label, photograph in enumerate(PHOTOGRAPHS):
        for crop in draw_crops(
            photograph, split, image_size=image_size, number=crops_per_class, seed=seed
        ):
            key = f"{photograph.name}/x{crop.left:04d}-y{crop.top:04d}-side{crop.side:04d}"
            rows.append(EmbeddedCrop(key, label, crop))
    return rows


def draw_crops(
    photograph: Photograph, split: str, *, image_size: int, number: int, seed: int
) -> list[Crop]:
    """`number` distinct windows, side uniform among those that fit the split's region, place uniform."""
    pixels = load_embedded_image(photograph)
    height = pixels.shape[0]
    region = _region(pixels, split, image_size)
    smallest, largest = window_sides(pixels, image_size)
    largest = min(largest, region.stop - region.start)
    dark = (pixels.max(axis=2) < _DARK_LEVEL) if photograph.dark_frame else None
    generator = seeded_generator("crops", seed, photograph.name, split)
    # A dict keeps the order of the draws.
    chosen: dict[Crop, None] = {}
    for _ in range(_DRAWS_PER_CROP * number):
        if len(chosen) == number:
            break
        side = int(generator.integers(smallest, largest + 1))
        left = int(generator.integers(region.start, region.stop - side + 1))
        crop = Crop(left, int(generator.integers(height - side + 1)), side)
        if dark is None or not _mostly_dark(dark, crop):
            chosen[crop] = None
    if len(chosen) < number:
        raise ValueError(
            f"{number} {split} crops per class: {photograph.name} has only about {len(chosen)} "
            f"distinct ones at image_size = {image_size}; lower either"
        )
    return list(chosen)


def cut(
    pixels: UInt8[np.ndarray, "h w 3"], crop: Crop, image_size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The window reduced to `image_size` by Lanczos; it is cut first, so no pixel outside counts."""
    window = pixels[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    if crop.side == image_size:
        return np.array(window)
    image = Image.fromarray(np.ascontiguousarray(window))
    return np.array(image.resize((image_size, image_size), Image.Resampling.LANCZOS))


def _region(pixels: UInt8[np.ndarray, "h w 3"], split: str, image_size: int) -> Band:
    """The columns of a split: the band, or all beside it."""
    band = validation_band(pixels, image_size)
    if split == "validation":
        return band
    return Band(0, band.start) if band.start else Band(band.stop, pixels.shape[1])


def _mostly_dark(dark: Bool[np.ndarray, "h w"], crop: Crop) -> bool:
    window = dark[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    return float(window.mean()) > 0.5
