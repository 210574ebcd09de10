"""Crops for training: exactly Pillow's bit for bit, or fast within a tolerance, of every kind of file."""

import io

import numpy as np
import pytest
from PIL import Image

from glotok_ray.data.image_files import resize_short_side
from glotok_ray.data.records import decode_image
from glotok_ray.data.training_crops import (
    CropPlace,
    CropRule,
    ImageSize,
    crop_function,
    exact_crop,
    resized_size,
)
from glotok_ray.data.transforms import center_crop, random_crop, row_generator
from glotok_ray.storage.artefact import ArtefactError

RULE = CropRule(64, "random", horizontal_flip=True)
fast_crop = crop_function("fast")


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Amplitudes that fall as 1 / frequency, as those of photographs do, and an edge."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    waves = draw.normal(size=(3, *frequency.shape)) + 1j * draw.normal(size=(3, *frequency.shape))
    fields = np.fft.irfft2(waves / frequency**1.2, s=(height, width))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    levels = 128 + np.array([45, 12, 12])[:, None, None] * fields
    levels[0, :, : width // 3] += 40
    ycc = np.clip(levels, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(ycc, "YCbCr").convert("RGB")


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def deep() -> bytes:
    levels = np.arange(90 * 120, dtype=np.uint16).reshape(90, 120)
    return encoded(Image.fromarray(levels), "PNG")


def place_of(picture: ImageSize, key: str = "a", rule: CropRule = RULE) -> CropPlace:
    return rule.place(picture, row_generator(0, 0, key))


def by_definition(file: bytes, key: str = "a", rule: CropRule = RULE) -> np.ndarray:
    """Whole image, crop, mirror, as `glotok_ray.data.transforms` has them."""
    draw, image = row_generator(0, 0, key), decode_image(file, key)
    crop = (
        random_crop(image, rule.size, draw)
        if rule.crop == "random"
        else center_crop(image, rule.size)
    )
    return (crop[:, ::-1] if draw.random() < 0.5 else crop).transpose(2, 0, 1)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.square(one.astype(float) - other).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def with_another_behind_it() -> bytes:
    """Two images in a file, as phones write them."""
    return encoded(photograph(121, 90), "MPO", save_all=True, append_images=[photograph(64, 64, 1)])


def test_the_size_of_a_resized_picture_is_foretold() -> None:
    draw = np.random.default_rng(0)
    for _ in range(300):
        width, height = draw.integers(2, 700, 2).tolist()
        side = int(draw.integers(2, 200))
        if max(width, height) > 8 * min(width, height):
            continue
        resized = resize_short_side(Image.new("L", (width, height)), side).size
        assert resized_size(ImageSize(width, height), side) == resized


FILES = {
    "colour": encoded(photograph(120, 90)),
    "no subsampling": encoded(photograph(90, 120), subsampling=0, quality=95),
    "progressive": encoded(photograph(125, 93), progressive=True),
    "grayscale": encoded(photograph(120, 90).convert("L")),
    "inks": encoded(photograph(120, 90).convert("CMYK")),
    "PNG": encoded(photograph(120, 90), "PNG"),
    "palette": encoded(photograph(120, 90).convert("P"), "PNG"),
    "16 bits": deep(),
    "WebP": encoded(photograph(120, 90), "WEBP"),
    "small": encoded(photograph(40, 50)),
    "the crop's size": encoded(photograph(64, 64)),
    "halved": encoded(photograph(300, 200)),
    "4:2:2": encoded(photograph(121, 91), subsampling="4:2:2"),
    "own tables": encoded(photograph(120, 90), optimize=True, quality=100),
    "RGB inside": encoded(photograph(120, 90), keep_rgb=True),
    "restarts": encoded(photograph(120, 90), restart_marker_rows=1),
    "two images": with_another_behind_it(),
}
JPEGS = (
    *("colour", "no subsampling", "progressive", "grayscale", "small", "the crop's size"),
    *("4:2:2", "own tables", "RGB inside", "restarts", "two images"),
)
"""Those that the fast way decodes, at the whole size."""


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("crop", ["random", "center"])
def test_the_exact_way_is_pillow_s_bit_for_bit(kind: str, crop: str) -> None:
    rule = CropRule(64, crop, horizontal_flip=True)
    for key in "abc":
        found = exact_crop(FILES[kind], key, lambda size, key=key: place_of(size, key, rule))
        np.testing.assert_array_equal(found, by_definition(FILES[kind], key, rule))


@pytest.mark.parametrize("kind", FILES)
def test_the_fast_way_is_within_its_tolerance(kind: str) -> None:
    for key in "abcd":
        found = fast_crop(FILES[kind], key, lambda size, key=key: place_of(size, key))
        expected = by_definition(FILES[kind], key)
        assert found.shape == (3, 64, 64)
        assert found.dtype == np.uint8
        if kind in JPEGS:
            assert psnr(found, expected) > 60
            assert np.abs(found.astype(int) - expected).max() <= 3
        elif kind != "halved":
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (650, 433), (620, 600), (1100, 1030)])
def test_where_the_decoder_halves_the_fast_way_keeps_30_db(width: int, height: int) -> None:
    file = encoded(photograph(width, height, seed=width), quality=90)
    found = fast_crop(file, "a", place_of)
    assert psnr(found, by_definition(file)) > 30


@pytest.mark.parametrize("cut", [slice(0, -900), slice(0, 90), slice(0, 2)])
def test_a_damaged_jpeg_has_the_same_answer_both_ways(cut: slice) -> None:
    file = FILES["colour"][cut]
    answers = []
    for crop in (exact_crop, fast_crop):
        with pytest.raises(ArtefactError, match="row 'a': its image cannot be decoded") as caught:
            crop(file, "a", place_of)
        answers.append(str(caught.value))
    assert answers[0] == answers[1]


def test_what_pillow_reads_in_spite_of_a_fault_is_read_both_ways() -> None:
    # Bytes between segments, which libjpeg warns of.
    file = FILES["colour"][:-2] + b"\0\0\0\0" + FILES["colour"][-2:]
    assert psnr(fast_crop(file, "a", place_of), exact_crop(file, "a", place_of)) > 60
