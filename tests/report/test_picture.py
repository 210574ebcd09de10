"""report.png: one small picture of the whole run, from whatever the run has."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from glotok_ray.report.images import ImagePairs, LabelledImages
from glotok_ray.report.inputs import ReportInputs, collect
from glotok_ray.report.picture import MOST_BYTES, write_picture
from tests.report.written_run import write_run


def noise(count: int, side: int = 64) -> np.ndarray:
    shape = (count, side, side, 3)
    return np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)


def test_even_noise_of_ten_classes_makes_a_small_file(tmp_path: Path) -> None:
    labels = list(range(12)) * 2
    samples = LabelledImages(noise(24), labels)
    names = ["a very long name of a class, longer than a column is wide", *map(str, range(11))]
    inputs = ReportInputs(
        reconstructions=ImagePairs(noise(12), noise(12)),
        samples=samples,
        far_samples=samples,
        real_crops=samples,
        class_names=names,
    )
    assert write_picture(tmp_path / "report.png", inputs)
    assert (tmp_path / "report.png").stat().st_size < MOST_BYTES
    with Image.open(tmp_path / "report.png") as image:
        assert image.width > 600


def test_a_written_run_has_a_picture_and_parts_may_be_missing(tmp_path: Path) -> None:
    write_run(tmp_path)
    inputs = collect(tmp_path)
    heights = []
    for changes in ({}, {"reconstructions": None}, {"samples": None, "real_crops": None}):
        path = tmp_path / "picture.png"
        assert write_picture(path, dataclasses.replace(inputs, **changes))
        with Image.open(path) as image:
            heights.append(image.height)
    assert heights[0] > max(heights[1:])


def test_a_run_without_images_has_none(tmp_path: Path) -> None:
    assert not write_picture(tmp_path / "report.png", ReportInputs())
    assert not (tmp_path / "report.png").exists()
