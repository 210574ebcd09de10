"""Pieces of HTML: escaped text, numbers, tables and images inside the file.

Read next: glotok_ray/report/sections.py
"""

import base64
import html
import io
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from numpy import ndarray
from PIL import Image

_LARGEST_SIDE = 128


def text(value: Any) -> str:
    """Any value as text in which no character is markup."""
    return html.escape(str(value), quote=True)


def absent(what: str) -> str:
    """A sentence in place of a part that the run does not have."""
    return f'<p class="missing">{text(what)}</p>'


def number(value: Any) -> str:
    """Four digits; None is "undefined"."""
    if value is None:
        return "undefined"
    if isinstance(value, int) or (
        isinstance(value, float) and value.is_integer() and abs(value) < 1e6
    ):
        return str(int(value))
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def table(columns: Iterable[str], rows: Iterable[str], kind: str) -> str:
    """A table of the style class `kind`; `rows` are HTML already, `columns` are plain text."""
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = "".join(rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def folded(summary: str, content: str) -> str:
    """Content that a reader opens."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


class ImageFormat(NamedTuple):
    """How images are kept inside the page."""

    jpeg_quality: int | None = None
    """None keeps every pixel, as PNG; a quality makes the page of many images smaller."""

    def tag(self, image: ndarray, alt: str, style: str = "") -> str:
        """An 8-bit image as a data URI of at most 128 pixels a side, which is more than the page shows."""
        shown = Image.fromarray(image)
        shown.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        if self.jpeg_quality is None:
            shown.save(stream, "PNG")
        else:
            shown.save(stream, "JPEG", quality=self.jpeg_quality, subsampling=0, optimize=True)
        kind = "png" if self.jpeg_quality is None else "jpeg"
        data = base64.b64encode(stream.getvalue()).decode("ascii")
        style = f' class="{style}"' if style else ""
        height, width = image.shape[:2]
        return (
            f'<img alt="{text(alt)}"{style} width="{width}" height="{height}" '
            f'src="data:image/{kind};base64,{data}">'
        )
