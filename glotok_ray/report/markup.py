"""Pieces of HTML: escaped text, numbers, tables and images inside the file.

Read next: glotok_ray/report/sections.py
"""

import base64
import html
import io
import math
from collections.abc import Iterable
from typing import Any

from numpy import ndarray
from PIL import Image

_LARGEST_PNG_SIDE = 128


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
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join(rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def image_tag(image: ndarray, alt: str) -> str:
    """An 8-bit image as a data URI: PNG up to 128 pixels a side, JPEG above to keep the page
    small.
    """
    stream = io.BytesIO()
    small = max(image.shape[0], image.shape[1] // 2) <= _LARGEST_PNG_SIDE
    Image.fromarray(image).save(stream, "PNG" if small else "JPEG", quality=90)
    kind = "png" if small else "jpeg"
    return embedded(stream.getvalue(), f"image/{kind}", alt)


def embedded(content: bytes, media_type: str, alt: str) -> str:
    """An image tag that carries its content."""
    data = base64.b64encode(content).decode("ascii")
    return f'<img alt="{text(alt)}" src="data:{media_type};base64,{data}">'
