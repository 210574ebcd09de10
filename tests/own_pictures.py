"""A user's folder as one meets them: 17 classes cut from what the installed packages ship, of all sizes, modes and
formats, with alpha and EXIF, and among them what is no picture.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw

from tests.small_data import HEIC

_IMAGES, _MATPLOTLIB = "data/{}", "mpl-data/sample_data/{}"
_SOURCES = {
    "skimage": [
        _IMAGES.format(name)
        for name in (
            *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png"),
            *("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
            *("motorcycle_left.png", "retina.jpg", "rocket.jpg"),
        )
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "matplotlib": [_MATPLOTLIB.format("grace_hopper.jpg")],
}
FILES = {Path(file).stem: (package, file) for package, files in _SOURCES.items() for file in files}
CLASSES = tuple(sorted(FILES))
LONE = "one picture"
"""A class of one picture, beside CLASSES."""


def _alpha(image: Image.Image) -> Image.Image:
    """A picture in an ellipse, transparent around it."""
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, image.width - 1, image.height - 1), fill=255)
    image = image.convert("RGBA")
    image.putalpha(mask)
    return image


def _sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


FORMS: tuple[tuple[str, Callable[[Image.Image], Image.Image]], ...] = (
    ("jpg", lambda image: image),
    ("png", _alpha),
    ("gif", lambda image: image.convert("P", palette=Image.Palette.ADAPTIVE)),
    ("png", lambda image: _alpha(image).convert("LA")),
    ("png", _sixteen_bits),
    ("jpeg", lambda image: image.convert("CMYK")),
    ("webp", _alpha),
    ("bmp", lambda image: image.convert("L")),
    ("tif", lambda image: image),
    ("png", lambda image: image.convert("1")),
)
"""Suffix, and what makes the mode; pictures take them in turn."""


def write_own_pictures(
    folder: Path, *, per_class: int, classes: Sequence[str] = CLASSES, seed: int = 0
) -> int:
    """Write `per_class` pictures of each class into sub-folders, one more class of one picture, an empty folder, and
    four files that hold no picture, one of them a torn JPEG; returns the number of pictures.
    """
    generator = np.random.default_rng(seed)
    for name in classes:
        package, file = FILES[name]
        found = importlib.util.find_spec(package)
        assert found is not None
        assert found.origin is not None
        with Image.open(Path(found.origin).parent / file) as image:
            _write_class(folder / name, image.convert("RGB"), per_class, generator)
    _write_class(folder / LONE, Image.new("RGB", (90, 70), "teal"), 1, generator)
    (folder / "nothing in it").mkdir()
    mixed = folder / classes[0]
    (mixed / "torn.jpg").write_bytes((mixed / "000.jpg").read_bytes()[:200])
    (mixed / "phone.heic").write_bytes(HEIC)
    (mixed / "notes.txt").write_text("no picture")
    (folder / "notes.txt").write_text("no picture")
    return per_class * len(classes) + 1


def _write_class(
    folder: Path, image: Image.Image, number: int, generator: np.random.Generator
) -> None:
    folder.mkdir(parents=True)
    for place in range(number):
        suffix, convert = FORMS[place % len(FORMS)]
        picture = convert(_window(image, generator))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = int(generator.integers(1, 9))
        options = {"exif": exif} if suffix in ("jpg", "jpeg", "webp") else {}
        picture.save(folder / f"{place:03d}.{suffix}", **options)


def _window(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A part of a picture: portrait, landscape or square, from a few pixels to most of it, resized oddly."""
    width, height = (
        int(side * share)
        for side, share in zip(image.size, generator.uniform(0.3, 1, 2), strict=True)
    )
    left = int(generator.integers(0, image.width - width + 1))
    top = int(generator.integers(0, image.height - height + 1))
    part = image.crop((left, top, left + width, top + height))
    scale = float(generator.choice([0.1, 0.4, 0.7]))
    return part.resize((max(3, int(width * scale)), max(3, int(height * scale))))
