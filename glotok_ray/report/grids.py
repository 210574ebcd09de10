"""Grids of 8-bit images with labels, for PNG files beside the results.

Read next: glotok_ray/report/page.py
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from glotok_ray.storage.places import writing

_GAP = 2
_FONT_SIZE = 13
_LABEL_MARGIN = 8
_SHOWN_SIDE = 96
_PAPER, _INK = (255, 255, 255), (60, 60, 60)


def image_grid(
    images: UInt8[ndarray, "n h w 3"],
    *,
    columns: int,
    row_labels: Sequence[str] = (),
    title: str = "",
) -> Image.Image:
    """Images in reading order, `columns` a row, with a label left of each row and a title line
    above.

    Images below 96 pixels are enlarged by a whole factor, without smoothing. Raises ValueError for
    other types.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise ValueError(
            f"images: {images.dtype} {images.shape}; need uint8 (n, h, w, 3), n at least 1"
        )
    if columns < 1:
        raise ValueError(f"columns = {columns}: must be at least 1")
    rows = -(-len(images) // columns)
    factor = max(1, round(_SHOWN_SIDE / images.shape[1]))
    height, width = images.shape[1] * factor, images.shape[2] * factor
    font = ImageFont.load_default(size=_FONT_SIZE)
    left = max((int(font.getlength(label)) + 2 * _LABEL_MARGIN for label in row_labels), default=0)
    top = _FONT_SIZE + 2 * _LABEL_MARGIN if title else 0
    size = (left + columns * (width + _GAP) + _GAP, top + rows * (height + _GAP) + _GAP)
    canvas = Image.new("RGB", (max(size[0], int(font.getlength(title)) + 16), size[1]), _PAPER)
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text((_LABEL_MARGIN, _LABEL_MARGIN), title, fill=_INK, font=font)
    for row, label in enumerate(row_labels[:rows]):
        middle = top + _GAP + row * (height + _GAP) + height // 2
        pen.text((_LABEL_MARGIN, middle), label, fill=_INK, font=font, anchor="lm")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        shown = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
        corner = (
            left + _GAP + column * (width + _GAP),
            top + _GAP + row * (height + _GAP),
        )
        canvas.paste(shown, corner)
    return canvas


def write_grid(
    path: Path,
    images: UInt8[ndarray, "n h w 3"],
    *,
    columns: int,
    row_labels: Sequence[str] = (),
    title: str = "",
) -> None:
    """Write `image_grid` as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as local:
        image_grid(images, columns=columns, row_labels=row_labels, title=title).save(local)


def side_by_side(
    left: UInt8[ndarray, "n h w 3"], right: UInt8[ndarray, "n h w 3"]
) -> UInt8[ndarray, "n h w2 3"]:
    """Pairs of equal images next to each other with a white line between."""
    gap = np.full((*left.shape[:2], _GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=2)


def by_class(
    labels: Sequence[int], *, per_class: int, most_classes: int | None = None
) -> dict[int, list[int]]:
    """Indices of the first `per_class` images of each class, for all or at most `most_classes` classes
    in label order.
    """
    chosen: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        chosen.setdefault(int(label), []).append(index)
    return {label: chosen[label][:per_class] for label in sorted(chosen)[:most_classes]}


def resized(images: UInt8[ndarray, "n h w 3"], side: int) -> UInt8[ndarray, "n side side 3"]:
    """Squares of another side, bicubic; the same array where they have that side."""
    if images.shape[1] == side:
        return images
    made = [
        Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in images
    ]
    return np.stack([np.asarray(image) for image in made])
