"""What is decoded without Pillow has its pixels, and what it must judge itself goes to it."""

import io

import numpy as np
import pytest
from PIL import Image

from glotok_ray.data import jpeg_decoding, records
from glotok_ray.data.jpeg_decoding import is_exact, jpeg_pixels, jpeg_size
from glotok_ray.data.records import decode_image, open_image
from tests.data.test_training_crops import FILES, JPEGS

PLAIN = (*JPEGS, "halved")


def by_pillow(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def test_this_build_is_exact() -> None:
    assert is_exact()


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_pillow_s_and_pillow_is_asked_for_the_rest_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    pillow = records._by_pillow
    monkeypatch.setattr(
        records, "_by_pillow", lambda file, key: asked.append(key) or pillow(file, key)
    )
    expected = by_pillow(FILES[kind])
    np.testing.assert_array_equal(decode_image(FILES[kind], "a"), expected)
    np.testing.assert_array_equal(np.asarray(open_image(FILES[kind], "a")), expected)
    assert asked == ([] if kind in PLAIN else ["a", "a"])


def test_a_size_is_width_and_height() -> None:
    assert jpeg_size(FILES["colour"]) == (120, 90)
    assert jpeg_size(FILES["PNG"]) is None
    assert jpeg_size(FILES["inks"]) is None
    assert jpeg_size(FILES["colour"][:50]) is None


def test_a_scale_is_the_least_that_keeps_the_sizes() -> None:
    found = jpeg_pixels(FILES["halved"], min_width=150, min_height=100)
    assert found is not None
    assert found.shape == (100, 150, 3)
    assert jpeg_pixels(FILES["colour"][:-900]) is None


def test_another_build_and_very_large_pictures_are_left_to_pillow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(records, "_by_pillow", lambda file, key: asked.append(key))
    open_image(FILES["colour"], "before")
    monkeypatch.setattr(records, "READER_PIXELS", 120 * 90 - 1)
    open_image(FILES["colour"], "large")
    monkeypatch.setattr(records, "READER_PIXELS", 120 * 90)
    open_image(FILES["colour"], "at the limit")
    # Quicker, and other pixels: a build that does not do what it says.
    decode = jpeg_decoding.simplejpeg.decode_jpeg
    monkeypatch.setattr(
        jpeg_decoding.simplejpeg,
        "decode_jpeg",
        lambda file, **options: decode(file, fastdct=True, fastupsample=True, **options),
    )
    is_exact.cache_clear()
    try:
        open_image(FILES["colour"], "other build")
    finally:
        is_exact.cache_clear()
    assert asked == ["large", "other build"]
