"""report.png: the run in one picture, for a README or a message.

Columns are classes; rows are real crops, their reconstructions, and samples of the generators. Read next:
glotok_ray/report/grids.py
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from glotok_ray.report.grids import by_class
from glotok_ray.report.images import LabelledImages
from glotok_ray.report.inputs import ReportInputs
from glotok_ray.report.pictures import class_name
from glotok_ray.storage import artefact

MOST_BYTES = 300_000
_COLUMNS = 10
_SAMPLE_ROWS = 2
# Pixels of an image's side, from the largest until the file is small enough.
_SIDES = (96, 80, 64, 48)
_COLOURS = 256
_GAP, _GROUP_GAP, _MARGIN, _NAMES = 4, 18, 20, 150
_FONT_SIZE, _SMALL_FONT_SIZE, _SMALLEST_FONT_SIZE = 17, 14, 10
_PAPER, _INK, _SOFT = (255, 255, 255), (29, 33, 38), (92, 101, 112)


class _Group(NamedTuple):
    """Rows of images with one name."""

    name: str
    note: str
    rows: Sequence[Sequence[UInt8[ndarray, "h w 3"] | None]]
    heads: Sequence[str] = ()
    """Names of the columns, where they are classes."""


def write_picture(path: Path, inputs: ReportInputs) -> bool:
    """Write the PNG, of less than MOST_BYTES; False where the run has no images to show."""
    groups = [group for group in _groups(inputs) if any(_has_image(row) for row in group.rows)]
    if not groups:
        return False
    encoded = b""
    for side in _SIDES:
        encoded = _png(_draw(groups, side))
        if len(encoded) < MOST_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    with artefact.replacing(path) as temporary:
        temporary.write_bytes(encoded)
    return True


def _has_image(row: Sequence[ndarray | None]) -> bool:
    return any(image is not None for image in row)


def _groups(inputs: ReportInputs) -> list[_Group]:
    groups = []
    if inputs.reconstructions is not None:
        crops, decoded = (list(images[:_COLUMNS]) for images in inputs.reconstructions)
        groups.append(_Group("Held-out crops", "never trained on", [crops]))
        groups.append(_Group("Reconstructions", "from their codes", [decoded]))
    classes = inputs.shown_classes[:_COLUMNS]
    names = [class_name(inputs, label) for label in classes]
    for name, note, found, count in (
        ("Training crops", "of each class", inputs.real_crops, 1),
        ("xAR", "samples by class", inputs.samples, _SAMPLE_ROWS),
        ("FAR", "samples by class", inputs.far_samples, _SAMPLE_ROWS),
    ):
        if found is not None:
            groups.append(_Group(name, note, _class_columns(found, classes, count), names))
            names = []
    return groups


def _class_columns(
    found: LabelledImages, classes: Sequence[int], count: int
) -> list[list[ndarray | None]]:
    chosen = by_class(found.labels, per_class=count)
    return [
        [
            found.images[chosen[label][row]] if row < len(chosen.get(label, [])) else None
            for label in classes
        ]
        for row in range(count)
    ]


def _draw(groups: Sequence[_Group], side: int) -> Image.Image:
    columns = max(len(row) for group in groups for row in group.rows)
    head = _SMALL_FONT_SIZE + 10
    heights = [
        len(group.rows) * (side + _GAP) + (_GROUP_GAP if index else 0) + bool(group.heads) * head
        for index, group in enumerate(groups)
    ]
    width = 2 * _MARGIN + _NAMES + columns * (side + _GAP) - _GAP
    canvas = Image.new("RGB", (width, 2 * _MARGIN + sum(heights) - _GAP), _PAPER)
    pen = ImageDraw.Draw(canvas)
    top = _MARGIN
    for index, group in enumerate(groups):
        top += _GROUP_GAP if index else 0
        if group.heads:
            _draw_heads(pen, group.heads, top, side)
            top += head
        _draw_group(canvas, pen, group, top, side)
        top += len(group.rows) * (side + _GAP)
    return canvas


def _draw_heads(pen: ImageDraw.ImageDraw, heads: Sequence[str], top: int, side: int) -> None:
    for column, name in enumerate(heads):
        name, font = _fitting(name, side)
        middle = _MARGIN + _NAMES + column * (side + _GAP) + side // 2
        pen.text((middle, top), name, fill=_SOFT, font=font, anchor="ma")


def _fitting(name: str, width: int) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """The name in a font of at most `width` pixels; one that is too long even in the smallest is cut."""
    for size in range(_SMALL_FONT_SIZE, _SMALLEST_FONT_SIZE - 1, -1):
        font = ImageFont.load_default(size=size)
        if font.getlength(name) <= width:
            return name, font
    while len(name) > 1 and font.getlength(f"{name}\u2026") > width:
        name = name[:-1].rstrip()
    return f"{name}\u2026", font


def _draw_group(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, group: _Group, top: int, side: int
) -> None:
    middle = top + (len(group.rows) * (side + _GAP) - _GAP) // 2
    font, small = (ImageFont.load_default(size=size) for size in (_FONT_SIZE, _SMALL_FONT_SIZE))
    pen.text((_MARGIN, middle - 2), group.name, fill=_INK, font=font, anchor="ls")
    pen.text((_MARGIN, middle + 4), group.note, fill=_SOFT, font=small, anchor="la")
    for row, images in enumerate(group.rows):
        for column, image in enumerate(images):
            if image is not None:
                tile = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
                left = _MARGIN + _NAMES + column * (side + _GAP)
                canvas.paste(tile, (left, top + row * (side + _GAP)))


def _png(image: Image.Image) -> bytes:
    """With a palette of 256 colours, which makes the file a third as large."""
    stream = io.BytesIO()
    image.quantize(_COLOURS).save(stream, "PNG", optimize=True)
    return stream.getvalue()
