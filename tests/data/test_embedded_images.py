"""The embedded data set: no training crop touches a validation pixel, crops are distinct and repeatable."""

import numpy as np
import pytest
from PIL import Image

from glotok_ray.config import ShardRun
from glotok_ray.data.embedded_images import (
    PHOTOGRAPHS,
    Crop,
    Photograph,
    cut,
    draw_crops,
    embedded_crops,
    embedded_path,
    load_embedded_image,
    validation_band,
    window_sides,
)
from glotok_ray.data.records import decode_image


def by_name(name: str) -> Photograph:
    return next(item for item in PHOTOGRAPHS if item.name == name)


def touched(photograph: Photograph, crops: list[Crop]) -> np.ndarray:
    mask = np.zeros(load_embedded_image(photograph).shape[:2], dtype=bool)
    for left, top, side in crops:
        mask[top : top + side, left : left + side] = True
    return mask


def test_there_are_ten_classes_in_the_order_of_their_names() -> None:
    names = [photograph.name for photograph in PHOTOGRAPHS]
    assert len(names) == 10
    assert names == sorted(names)


@pytest.mark.parametrize("image_size", [32, 64, 128])
@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda item: item.name)
def test_no_training_crop_touches_a_validation_pixel(
    photograph: Photograph, image_size: int
) -> None:
    train, validation = (
        draw_crops(photograph, split, image_size=image_size, number=number, seed=3)
        for split, number in (("train", 450), ("validation", 60))
    )
    pixels = load_embedded_image(photograph)
    height, width = pixels.shape[:2]
    for crop in train + validation:
        smallest, largest = window_sides(pixels, image_size)
        assert image_size <= smallest <= crop.side <= largest
        assert 0 <= crop.left <= width - crop.side
        assert 0 <= crop.top <= height - crop.side
    seen, held = touched(photograph, train), touched(photograph, validation)
    assert not (seen & held).any()
    # Both cover nearly all that is theirs (the corners of the retina are dark, and corners are seldom drawn).
    band = validation_band(pixels, image_size)
    trained = np.ones(width, dtype=bool)
    trained[band.start : band.stop] = False
    assert seen[:, trained].mean() > 0.6
    assert held[:, ~trained].mean() > 0.6


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda item: item.name)
def test_a_view_shows_enough_of_the_photograph_to_be_known(photograph: Photograph) -> None:
    pixels = load_embedded_image(photograph)
    shorter = min(pixels.shape[:2])
    for split in ("train", "validation"):
        sides = np.array(
            [crop.side for crop in draw_crops(photograph, split, image_size=64, number=100, seed=0)]
        )
        assert sides.min() >= int(0.4 * shorter)
        assert sides.max() <= int(0.6 * shorter)
        assert sides.max() > 1.05 * sides.min()


def test_the_band_is_at_the_edge_where_colours_are_nearer_those_of_the_rest() -> None:
    # Blue lies at the left alone, and less of it than elsewhere at the right: the left band has no match.
    pixels = np.zeros((40, 200, 3), dtype=np.uint8)
    pixels[:, ::2, 0] = pixels[:, 1::2, 1] = 255
    pixels[:, :60] = (0, 0, 255)
    assert validation_band(pixels, 16) == (120, 200)
    assert validation_band(pixels[:, ::-1], 16) == (0, 80)


def test_reduction_averages_blocks_that_do_not_overlap() -> None:
    # So the pixels of a reduced photograph share nothing, and bands stay disjoint in the original.
    photograph = by_name("hubble_deep_field")
    pixels = load_embedded_image(photograph)
    with Image.open(embedded_path(photograph)) as image:
        original = np.array(image.convert("RGB"), dtype=np.float64)
    blocks = original.reshape(436, 2, 500, 2, 3).mean(axis=(1, 3))
    assert np.abs(pixels - blocks).max() <= 0.5
    assert not pixels.flags.writeable


def test_a_window_is_cut_before_it_is_reduced() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    crop = Crop(5, 7, 20)
    other = generator.integers(0, 256, pixels.shape, dtype=np.uint8)
    other[7:27, 5:25] = pixels[7:27, 5:25]
    np.testing.assert_array_equal(cut(pixels, crop, 16), cut(other, crop, 16))
    assert cut(pixels, crop, 16).shape == (16, 16, 3)
    np.testing.assert_array_equal(cut(pixels, crop, 20), pixels[7:27, 5:25])


def test_the_quickstart_has_4500_and_600_distinct_crops() -> None:
    train = embedded_crops("train", image_size=64, crops_per_class=450, seed=0)
    validation = embedded_crops("validation", image_size=64, crops_per_class=60, seed=0)
    assert (len(train), len(validation)) == (4500, 600)
    assert len({row.key for row in train + validation}) == 5100
    labels = np.bincount([row.label for row in train])
    assert labels.tolist() == [450] * 10


def test_crops_depend_on_the_seed_alone() -> None:
    few = {"image_size": 64, "crops_per_class": 5}
    once = embedded_crops("train", seed=0, **few)
    assert once == embedded_crops("train", seed=0, **few)
    assert once != embedded_crops("train", seed=1, **few)
    # More crops per class keep the first ones.
    more = embedded_crops("train", image_size=64, crops_per_class=7, seed=0)
    assert [row for row in more if row.label == 3][:5] == [row for row in once if row.label == 3]


def test_a_row_holds_its_window_as_png() -> None:
    row = embedded_crops("train", image_size=64, crops_per_class=1, seed=0)[5]
    photograph = PHOTOGRAPHS[row.label]
    assert row.key.startswith(f"{photograph.name}/x")
    left, top, side = row.crop
    with Image.fromarray(load_embedded_image(photograph)) as image:
        window = image.crop((left, top, left + side, top + side))
        expected = window.resize((64, 64), Image.Resampling.LANCZOS)
    encoded = row.encode(ShardRun(image_size=64)).encoded
    np.testing.assert_array_equal(decode_image(encoded, row.key), np.asarray(expected))


def test_the_black_frame_of_the_retina_is_avoided() -> None:
    retina = by_name("retina")
    pixels = load_embedded_image(retina)
    assert (pixels[:64, :64].max(axis=2) < 16).all()
    for split in ("train", "validation"):
        for crop in draw_crops(retina, split, image_size=64, number=200, seed=0):
            window = pixels[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
            assert (window.max(axis=2) < 16).mean() <= 0.5


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image_size = 256: .* at most 225"):
        embedded_crops("train", image_size=256, crops_per_class=1, seed=0)
    with pytest.raises(ValueError, match=r"chelsea has only about \d+ distinct"):
        embedded_crops("train", image_size=225, crops_per_class=450, seed=0)


def test_a_missing_file_names_the_package() -> None:
    with pytest.raises(ValueError, match=r"skimage does not hold data/nothing\.png"):
        load_embedded_image(Photograph("nothing", "skimage", "data/nothing.png", ""))
