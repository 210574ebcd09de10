"""Images of every kind become upright 8-bit RGB near the training side; damaged ones give a reason."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glotok_ray.data import image_files
from glotok_ray.data.image_files import UnreadableImageError, fit_image, stored_image, to_rgb
from glotok_ray.data.records import decode_image
from glotok_ray.data.transforms import center_crop


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def stored_bytes(original: bytes, image_size: int = 16) -> bytes:
    return stored_image(original, image_size=image_size, upright=True).encoded


def stored(original: bytes, image_size: int = 16) -> np.ndarray:
    return decode_image(stored_bytes(original, image_size), "key")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_keep_their_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(
        stored(saved(noise(18, 16), kind, **options)), np.asarray(noise(18, 16))
    )


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    original = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert stored(original)[0, 0].tolist() == [255, 0, 0]


def test_a_plain_jpeg_that_fits_is_kept_byte_for_byte() -> None:
    fitting, large = (saved(noise(side, side), "JPEG") for side in (18, 40))
    assert stored_bytes(fitting, 16) == fitting
    assert stored_bytes(large, 16)[:4] == b"\x89PNG"
    gray = saved(noise(18, 18).convert("L"), "JPEG")
    assert stored_bytes(gray, 16) == gray


def test_exif_orientation_is_honoured() -> None:
    image = Image.new("RGB", (20, 16), "black")
    image.paste("white", (0, 0, 10, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = stored(saved(image, "JPEG", exif=exif, quality=95))
    # Orientation 6: the stored left side is the top of the image.
    assert turned.shape == (20, 16, 3)
    assert turned[2].mean() > 250
    assert turned[17].mean() < 5
    exif[0x0112] = 1
    upright = saved(image, "JPEG", exif=exif)
    assert stored_bytes(upright, 16) == upright


def test_broken_exif_loses_no_picture() -> None:
    original = saved(noise(18, 18), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert stored(original).shape == (18, 18, 3)


def test_alpha_is_dropped_where_pixels_are_read_as_guided_diffusion_does() -> None:
    mixed = noise(24, 20).convert("RGBA")
    mixed.putalpha(noise(24, 20, 1).convert("L"))
    for image, options in (
        (mixed, {}),
        (mixed.convert("LA"), {}),
        (noise(24, 20), {"transparency": (1, 2, 3)}),
        (noise(24, 20).convert("P"), {"transparency": bytes(range(256))}),
    ):
        original = saved(image, "PNG", **options)
        found = stored_image(original, image_size=0, upright=False)
        assert found == (original, "", False, False)
        expected = Image.open(io.BytesIO(original)).convert("RGB")
        np.testing.assert_array_equal(decode_image(found.encoded, "key"), np.asarray(expected))
    # PNG of the same pixels, where bytes cannot be kept.
    found = stored_image(saved(mixed, "TIFF"), image_size=0, upright=False)
    np.testing.assert_array_equal(
        decode_image(found.encoded, "key"), np.asarray(mixed.convert("RGB"))
    )


def test_stored_pngs_hold_pixels_alone() -> None:
    original = saved(noise(24, 20), "TIFF", icc_profile=b"profile", dpi=(300, 300))
    reopened = Image.open(io.BytesIO(stored_image(original, image_size=0, upright=True).encoded))
    assert (reopened.format, reopened.info) == ("PNG", {})


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_bands_make_no_difference(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    transparent = noise(24, 50).convert("RGBA")
    transparent.putalpha(noise(24, 50, 1).convert("L"))
    levels = np.random.default_rng(0).integers(0, 65536, (50, 24)).astype(order)
    deep = Image.open(io.BytesIO(saved(Image.fromarray(levels), "TIFF")))
    whole = [np.asarray(to_rgb(image).image) for image in (transparent, deep)]
    np.testing.assert_array_equal(whole[1][..., 0], np.round(levels / 257).astype(np.uint8))
    for pixels in (24 * 7, 3):
        monkeypatch.setattr(image_files, "_BAND_PIXELS", pixels)
        found = [np.asarray(to_rgb(image).image) for image in (transparent, deep)]
        np.testing.assert_array_equal(found, whole)
    # One transparent pixel in the last band is seen.
    last = noise(24, 50).convert("RGBA")
    last.putpixel((23, 49), (0, 0, 0, 254))
    assert to_rgb(last).change == "laid on white"


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    levels = np.array([[0, 128, 257, 25700, 40000, 65535]], dtype=np.uint16)
    expected = np.round(levels / 257).astype(np.uint8)
    image = Image.open(io.BytesIO(saved(Image.fromarray(levels), "PNG")))
    assert image.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(to_rgb(image).image)[:, :, 1], expected)
    tiff = Image.open(io.BytesIO(saved(Image.fromarray(levels), "TIFF")))
    np.testing.assert_array_equal(np.asarray(to_rgb(tiff).image)[:, :, 2], expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA", "PA", "HSV", "LAB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    source = noise(6, 5).convert("RGB")
    image = Image.new("LAB", (6, 5)) if mode == "LAB" else source.convert(mode)
    assert to_rgb(image).image.mode == "RGB"
    if mode in ("RGBA", "CMYK"):
        np.testing.assert_array_equal(np.asarray(to_rgb(image).image), np.asarray(source))
    if mode == "L":
        np.testing.assert_array_equal(np.asarray(to_rgb(image).image)[:, :, 0], np.asarray(image))


def test_cmyk_jpeg_keeps_its_colours() -> None:
    original = saved(Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK"), "JPEG")
    assert np.abs(stored(original).astype(int) - (200, 30, 60)).max() <= 3


def test_transparent_pixels_are_laid_on_white() -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))
    found = to_rgb(Image.open(io.BytesIO(saved(image, "PNG"))))
    assert found.change == "laid on white"
    assert np.asarray(found.image)[0].tolist() == [[255, 255, 255], [255, 0, 0], [204, 204, 204]]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGB", (2, 1), "black").convert(mode)
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9])
    image.putpixel((1, 0), (9, 9, 9) if mode == "RGB" else 1 if mode == "P" else 9)
    transparent = (0, 0, 0) if mode == "RGB" else 0
    original = saved(image, "PNG", transparency=transparent)
    found = to_rgb(Image.open(io.BytesIO(original)))
    assert found.change == "laid on white"
    assert np.asarray(found.image)[0].tolist() == [[255, 255, 255], [9, 9, 9]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((16, 16), (16, 16)),
        ((20, 31), (20, 31)),
        ((21, 42), (20, 40)),
        ((400, 200), (40, 20)),
        ((8, 12), (16, 24)),
        ((1, 1), (16, 16)),
        ((500, 1), (128, 16)),
        ((30, 3000), (20, 160)),
    ],
)
def test_the_short_side_of_reduced_pictures_comes_near_the_training_side(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    found = stored_image(saved(noise(*size), "PNG"), image_size=16, upright=True)
    assert decode_image(found.encoded, "k").shape == (*expected[::-1], 3)
    assert found.change == ("cut to its middle of 8 : 1" if max(size) > 8 * min(size) else "")


def test_fitting_halves_by_box() -> None:
    image = noise(40, 80)
    box = image.resize((20, 40), Image.Resampling.BOX)
    np.testing.assert_array_equal(np.asarray(fit_image(image, 16)), np.asarray(box))


# A colour of the palette that the image has, and one that it has not.
USED = int(np.asarray(noise(24, 20).convert("P"))[0, 0])
UNUSED = min(set(range(256)) - set(np.asarray(noise(24, 20).convert("P")).ravel().tolist()))
LEVELS = np.linspace(0, 65535, 24 * 20).astype(np.uint16).reshape(20, 24)


@pytest.mark.parametrize(
    ("original", "kept", "change"),
    [
        (saved(noise(24, 20), "JPEG"), True, ""),
        (saved(noise(24, 20).convert("L"), "JPEG"), True, ""),
        (saved(noise(24, 20).convert("CMYK"), "JPEG"), True, ""),
        (saved(noise(24, 20), "JPEG", progressive=True), True, ""),
        (saved(noise(24, 20), "MPO", save_all=True, append_images=[noise(24, 20, 1)]), True, ""),
        (saved(noise(24, 20), "PNG"), True, ""),
        (saved(noise(24, 20).convert("1"), "PNG"), True, ""),
        (saved(noise(24, 20).convert("P"), "PNG"), True, ""),
        (saved(noise(24, 20), "WEBP"), True, ""),
        (saved(noise(24, 20).convert("P"), "PNG", transparency=USED), False, "laid on white"),
        (saved(noise(24, 20).convert("P"), "PNG", transparency=UNUSED), True, ""),
        (saved(noise(24, 20).convert("LA"), "PNG"), True, ""),
        (saved(noise(24, 20).convert("RGBA"), "PNG"), True, ""),
        (saved(noise(24, 20).convert("RGBA"), "TIFF"), False, ""),
        (saved(Image.new("LA", (24, 20), (9, 254)), "PNG"), False, "laid on white"),
        (saved(Image.new("RGBA", (24, 20), (9, 99, 200, 90)), "WEBP"), False, "laid on white"),
        (saved(Image.fromarray(LEVELS), "PNG"), False, "16 bits scaled to 8"),
        (saved(noise(24, 20), "TIFF"), False, ""),
        (saved(noise(24, 20), "BMP"), False, ""),
        (saved(noise(24, 20).convert("P"), "GIF"), False, ""),
    ],
)
def test_bytes_are_kept_where_rgb_conversion_is_all_that_a_reader_does(
    original: bytes, kept: bool, change: str
) -> None:
    found = stored_image(original, image_size=0, upright=True)
    assert (found.encoded == original, found.change, found.turned) == (kept, change, False)
    assert kept or found.encoded[:4] == b"\x89PNG"
    whole = to_rgb(Image.open(io.BytesIO(original)))
    np.testing.assert_array_equal(decode_image(found.encoded, "key"), np.asarray(whole.image))


@pytest.mark.parametrize("size", [(64, 1), (1, 64)])
def test_a_line_at_the_limit_is_kept(size: tuple[int, int]) -> None:
    line = saved(noise(*size), "PNG")
    assert stored_image(line, image_size=0, upright=True) == (line, "", False, False)


@pytest.mark.parametrize(("image_size", "aspect"), [(16, 8), (0, 64)])
def test_a_long_line_keeps_its_middle(image_size: int, aspect: int) -> None:
    line = np.zeros((1, 3 * aspect, 3), dtype=np.uint8)
    line[:, aspect : 2 * aspect] = 255
    found = stored_image(saved(Image.fromarray(line), "PNG"), image_size=image_size, upright=True)
    pixels = decode_image(found.encoded, "k")
    assert pixels.min() == 255
    assert pixels.shape[1] == aspect * pixels.shape[0]
    assert found.change == f"cut to its middle of {aspect} : 1"


@pytest.mark.parametrize(
    ("original", "reason"),
    [
        (b"", "no image of a format that is read: JPEG, PNG"),
        (b"plain text", "no image of a format that is read: .*GIF$"),
        (b"\0\0\0\x18ftypheic", r"no image .* \(it is a HEIF or AVIF image\)"),
        (saved(noise(50, 50), "JPEG")[:900], "truncated"),
        (saved(noise(50, 50), "PNG")[:3000], "truncated"),
        (saved(Image.new("F", (2, 2)), "TIFF"), "floating-point"),
        (saved(Image.fromarray(np.array([[-1, 2]], dtype=np.int32)), "TIFF"), "32-bit"),
        (saved(noise(4, 4), "PPM"), "no image of a format"),
    ],
)
def test_unreadable_pictures_give_a_reason(original: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        stored_bytes(original, 16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pictures_with_too_many_pixels_for_a_reader_are_halved_and_named(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(image_files, "READER_PIXELS", 41 * 60)
    fitting, large = (saved(noise(width, 60), kind) for width in (41, 81))
    assert stored_image(fitting, image_size=0, upright=True) == (fitting, "", False, False)
    found = stored_image(large, image_size=0, upright=True)
    assert found.change == "halved to 40 x 30 pixels"
    assert stored_image(large, image_size=20, upright=True).change == ""
    # Halving is ADM's first step: its crops are those of the original.
    for size in (7, 11, 15):
        np.testing.assert_array_equal(
            center_crop(decode_image(found.encoded, "k"), size),
            center_crop(decode_image(large, "k"), size),
        )


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 4000)])
@pytest.mark.parametrize("image_size", [0, 8])
def test_a_thin_line_above_a_readers_limit_costs_no_job(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], image_size: int
) -> None:
    monkeypatch.setattr(image_files, "READER_PIXELS", 3000 * min(size))
    found = stored_image(saved(noise(*size), "PNG"), image_size=image_size, upright=True)
    aspect = 8 if image_size else 64
    assert found.change == f"cut to its middle of {aspect} : 1"
    pixels = decode_image(found.encoded, "k")
    assert sorted(pixels.shape[:2])[1] == aspect * sorted(pixels.shape[:2])[0]


def test_whatever_goes_wrong_behind_the_decoder_is_the_pictures_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(image_files, "fit_image", broken)
    with pytest.raises(UnreadableImageError, match="MemoryError"):
        stored_bytes(saved(noise(40, 40), "PNG"))


def test_pictures_above_the_limit_of_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "READER_PIXELS", 199)
    with pytest.raises(UnreadableImageError, match="more than 398 pixels, which is the limit"):
        stored_bytes(saved(noise(20, 20), "PNG"), 16)
    # Pillow's own limit is the same number.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 199)
    with pytest.raises(UnreadableImageError, match="more than 398 pixels, which is the limit"):
        stored_bytes(saved(noise(20, 20), "PNG"), 16)


PEAK = """
import re, sys
from pathlib import Path
from PIL import Image
from glotok_ray.data import image_files

def peak():
    # Not getrusage's, which a process inherits from the one that started it.
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

Image.init()
small, large = (Path(name).read_bytes() for name in sys.argv[1:])
image_files.stored_image(small, image_size=0, upright=True)
image_files.READER_PIXELS = 3000 * 3000 // 2
before = peak()
assert "halved" in image_files.stored_image(large, image_size=0, upright=True).change
print((peak() - before) / 3000**2)
"""


@pytest.mark.parametrize("kind", ["RGBA", "LA", "CMYK", "16 bits"])
def test_every_mode_needs_eight_bytes_per_pixel_or_little_more(tmp_path: Path, kind: str) -> None:
    for side in (64, 3000):
        if kind == "16 bits":
            image = Image.fromarray(np.full((side, side), 999, dtype=np.uint16))
        else:
            image = Image.new(kind, (side, side), (9,) * len(kind))
        image.save(tmp_path / str(side), "JPEG" if kind == "CMYK" else "PNG")
    command = [sys.executable, "-c", PEAK, str(tmp_path / "64"), str(tmp_path / "3000")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # A band takes 16 MB for a moment, 2 bytes per pixel of this image.
    assert float(done.stdout) < 10.5


def test_the_limit_is_the_one_at_which_pillow_warns() -> None:
    assert image_files.READER_PIXELS == Image.MAX_IMAGE_PIXELS
