"""A JPEG without its metadata: the same coded pixels, or nothing where there is nothing to cut."""

import io

import numpy as np
import pytest
from PIL import Image

from glotok_ray.data.jpeg_segments import without_metadata


def jpeg(**options: bytes) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(stream, "JPEG", **options)
    return stream.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (2 + len(content)).to_bytes(2, "big") + content


def bare() -> bytes:
    """The image without any metadata."""
    whole = jpeg()
    return whole[:2] + whole[4 + int.from_bytes(whole[4:6], "big") :]


@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xE2, 0xED, 0xEF, 0xFE])
def test_metadata_is_cut_out(marker: int) -> None:
    whole = bare()
    assert without_metadata(whole[:2] + segment(marker, 300 * b"!") + whole[2:]) == whole


def test_what_says_how_colours_are_coded_stays() -> None:
    whole = bare()
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")
    found = without_metadata(whole[:2] + adobe + segment(0xE1, b"Exif") + whole[2:])
    assert found == whole[:2] + adobe + whole[2:]


def test_a_whole_jfif_head_stays_and_with_it_the_colours() -> None:
    # JFIF says YCbCr, and Adobe's transform of 0 RGB: decoders believe JFIF.
    whole = jpeg()
    end = 4 + int.from_bytes(whole[4:6], "big")
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")
    odd = whole[:end] + adobe + segment(0xE1, b"Exif") + whole[end:]
    found = without_metadata(odd)
    assert found == whole[:end] + adobe + whole[end:]
    decoded = [np.asarray(Image.open(io.BytesIO(data))) for data in (odd, found)]
    np.testing.assert_array_equal(*decoded)
    bare_of_it = Image.open(io.BytesIO(whole[:2] + adobe + whole[end:]))
    assert (np.asarray(bare_of_it) != decoded[0]).any()


@pytest.mark.parametrize("content", [b"JFIF\0\1\1\0\0\1\0\1\0", b"JFXX\0" + bytes(9), b"JFIF\0"])
def test_other_app0_segments_are_cut_out(content: bytes) -> None:
    whole = bare()
    assert without_metadata(whole[:2] + segment(0xE0, content) + whole[2:]) == whole


def test_fill_bytes_and_markers_without_length_are_passed_over() -> None:
    whole = bare()
    odd = whole[:2] + b"\xff\xff\xff\x01" + segment(0xE1, b"Exif")[1:] + whole[2:]
    assert without_metadata(whole[:2] + b"\xff" + segment(0xE1, b"Exif") + whole[2:]) == whole
    assert without_metadata(odd) is None
    assert without_metadata(whole[:2] + b"\xff\x01" + segment(0xE1, b"") + whole[2:]) == whole


def test_there_may_be_nothing_to_cut() -> None:
    whole = bare()
    odd = whole[:2] + segment(0xE1, bytes(50)) + whole[2:]
    assert without_metadata(whole) is None
    assert without_metadata(b"\x89PNG\r\n\x1a\n") is None
    assert without_metadata(b"") is None
    # Cut before the pixels, there is nothing to save; cut in them, what is there stays.
    for end in (3, 20, 60, odd.index(b"\xff\xda")):
        assert without_metadata(odd[:end]) is None
    assert without_metadata(odd[:-50]) == whole[:-50]
