"""Metadata never decides over pixels: images with odd EXIF blocks survive, turned where a tag can be read."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from glotok_ray.data.image_files import stored_image
from glotok_ray.data.records import decode_image

SHORT, LONG, RATIONAL, ASCII, BYTE, UNDEFINED, FLOAT, DOUBLE = 3, 4, 5, 2, 1, 7, 11, 12
MAKE, ORIENTATION, RESOLUTION, UNIT, EXIF_FOLDER = 0x010F, 0x0112, 0x011A, 0x0128, 0x8769
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")[:4]


def short(tag: int, value: int) -> bytes:
    return entry(tag, SHORT, 1, struct.pack("<H", value))


def block(*entries: bytes, after: bytes = b"", count: int | None = None, offset: int = 8) -> bytes:
    """An EXIF block; what lies behind the directory begins at byte 14 + 12 * len(entries) of it."""
    head = b"II*\0" + struct.pack("<I", offset)
    number = struct.pack("<H", len(entries) if count is None else count)
    return b"Exif\0\0" + head + number + b"".join(entries) + b"\0\0\0\0" + after


TURN = short(ORIENTATION, 6)


def behind(number: int) -> bytes:
    """The place of what lies behind a directory of so many entries."""
    return struct.pack("<I", 14 + 12 * number)


# The block, and the orientation that it means: 1 where it cannot be read.
BLOCKS = {
    "none": (b"", 1),
    "plain": (block(TURN), 6),
    "rational make": (
        block(entry(MAKE, RATIONAL, 1, behind(2)), TURN, after=struct.pack("<II", 1, 2)),
        6,
    ),
    "rational make, zero below": (
        block(entry(MAKE, RATIONAL, 1, behind(2)), TURN, after=struct.pack("<II", 1, 0)),
        6,
    ),
    "short make": (block(short(MAKE, 7), TURN), 6),
    "floating make": (block(entry(MAKE, FLOAT, 1, struct.pack("<f", 1.5)), TURN), 6),
    "make that is no text": (block(entry(MAKE, ASCII, 4, b"\xff\xfe\x80\0"), TURN), 6),
    "make at a wrong offset": (
        block(entry(MAKE, ASCII, 40, struct.pack("<I", 60000)), TURN),
        6,
    ),
    "make of a huge count": (
        block(entry(MAKE, ASCII, 0xFFFFFFFF, struct.pack("<I", 8)), TURN),
        6,
    ),
    "an unknown type": (block(entry(MAKE, 99, 1, b"\1\2\3\4"), TURN), 6),
    "a long orientation": (block(entry(ORIENTATION, LONG, 1, struct.pack("<I", 6))), 6),
    "a rational orientation": (
        block(entry(ORIENTATION, RATIONAL, 1, behind(1)), after=struct.pack("<II", 6, 1)),
        1,
    ),
    "an orientation of text": (block(entry(ORIENTATION, ASCII, 2, b"6\0")), 1),
    "an orientation of bytes": (block(entry(ORIENTATION, UNDEFINED, 1, b"\6")), 1),
    "a doubled orientation": (
        block(entry(ORIENTATION, SHORT, 2, struct.pack("<HH", 6, 6))),
        6,
    ),
    "an orientation of none": (block(entry(ORIENTATION, SHORT, 0, b"")), 1),
    "orientation 0": (block(short(ORIENTATION, 0)), 1),
    "orientation 9": (block(short(ORIENTATION, 9)), 1),
    "more entries than there are": (block(TURN, count=500), 6),
    "no entries": (block(), 1),
    "cut in the directory": (block(TURN)[:-10], 1),
    "cut behind the head": (block(TURN)[:12], 1),
    "cut in the head": (b"Exif\0\0II*", 1),
    "an offset of the end": (block(TURN, offset=0xFFFFFFFF), 1),
    "an offset of itself": (block(TURN, offset=0), 1),
    "no byte order": (b"Exif\0\0XX*\0" + block(TURN)[10:], 1),
    "text": (b"Exif\0\0this is no TIFF at all", 1),
    "zeros": (b"Exif\0\0" + bytes(64), 1),
    "a folder that is itself": (
        block(TURN, entry(EXIF_FOLDER, LONG, 1, struct.pack("<I", 8))),
        6,
    ),
    "a resolution of text": (
        block(entry(RESOLUTION, ASCII, 3, b"ab\0"), short(UNIT, 2), TURN),
        6,
    ),
    "a resolution over zero": (
        block(
            entry(RESOLUTION, RATIONAL, 1, behind(3)),
            short(UNIT, 2),
            TURN,
            after=struct.pack("<II", 5, 0),
        ),
        6,
    ),
    "a resolution of none": (
        block(entry(RESOLUTION, RATIONAL, 0, behind(3)), short(UNIT, 3), TURN),
        6,
    ),
    "an infinite resolution": (
        block(entry(RESOLUTION, DOUBLE, 1, behind(3)), short(UNIT, 3), TURN, after=b"\0" * 6 + b"\xf0\x7f"),
        6,
    ),
}  # fmt: skip


def jpeg(exif: bytes) -> bytes:
    """A JPEG without a JFIF head, as cameras write it: Pillow then looks for the resolution in the EXIF block."""
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG", quality=95)
    whole = stream.getvalue()
    assert whole[2:4] == b"\xff\xe0"
    rest = whole[4 + int.from_bytes(whole[4:6], "big") :]
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif if exif else b""
    return whole[:2] + segment + rest


def png(exif: bytes) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG", exif=exif)
    return stream.getvalue()


def webp(exif: bytes) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "WEBP", lossless=True, exif=exif)
    return stream.getvalue()


MAKERS = {"jpeg": jpeg, "png": png, "webp": webp}
CORRECT = {1: lambda pixels: pixels, 6: lambda pixels: np.rot90(pixels, -1)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", BLOCKS)
def test_odd_blocks_lose_no_picture(name: str, kind: str) -> None:
    exif, orientation = BLOCKS[name]
    original = MAKERS[kind](exif)
    lying = decode_image(MAKERS[kind](b""), "key")
    found = stored_image(original, image_size=0, upright=True)
    pixels = decode_image(found.encoded, "key")
    np.testing.assert_array_equal(pixels, CORRECT[orientation](lying))
    assert found.change == ""
    # Pixels as they lie need no tag.
    kept = stored_image(original, image_size=0, upright=False)
    np.testing.assert_array_equal(decode_image(kept.encoded, "key"), lying)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    original = jpeg(exif.tobytes())
    lying = Image.fromarray(decode_image(original, "key"))
    lying.getexif()[ExifTags.Base.Orientation] = orientation
    expected = np.asarray(ImageOps.exif_transpose(lying))
    found = stored_image(original, image_size=0, upright=True).encoded
    np.testing.assert_array_equal(decode_image(found, "key"), expected)
    assert (found == original) == (orientation == 1)


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF\0"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0"),
        (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02ab"),
    ],
)
def test_other_segments_that_pillow_stumbles_over_are_cut_out(marker: int, content: bytes) -> None:
    whole = jpeg(b"")
    segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content
    found = stored_image(whole[:2] + segment + whole[2:], image_size=0, upright=True)
    np.testing.assert_array_equal(decode_image(found.encoded, "k"), decode_image(whole, "k"))


def test_readers_are_silent_about_metadata(tmp_path: Path) -> None:
    (tmp_path / "odd.jpg").write_bytes(jpeg(BLOCKS["cut in the directory"][0]))
    code = (
        "import sys, pathlib; from PIL import Image; from glotok_ray.data.records import decode_image; "
        "decode_image(pathlib.Path(sys.argv[1]).read_bytes(), 'key')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "odd.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
