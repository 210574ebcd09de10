"""Originals reduced at sharding: JPEG of one side where they were larger, untouched where not, and the cost is said."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glotok_ray.config import ShardRun
from glotok_ray.data import reduction
from glotok_ray.data.image_files import Reduction, stored_image
from glotok_ray.data.listed_source import ListedImages
from glotok_ray.data.recorded import check_adm_protocol, crops_text
from glotok_ray.data.records import decode_image, read_dataset, read_rows
from glotok_ray.data.shard_writing import ShardTask, write_task
from glotok_ray.data.sources import ImageSource
from glotok_ray.data.transforms import center_crop
from glotok_ray.stages import shard_images
from glotok_ray.storage.artefact import ArtefactError, read_manifest

RULE = Reduction(48, 95)


def photograph(width: int, height: int, kind: str = "JPEG") -> bytes:
    """Smooth enough that JPEG has something to keep."""
    coarse = np.random.default_rng(width).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def stored(original: bytes, **options: Any) -> Any:
    return stored_image(original, image_size=0, **{"upright": False, **options})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_large_image_becomes_a_jpeg_of_the_side(kind: str) -> None:
    for size, expected in (((100, 75), (64, 48)), ((75, 100), (48, 64)), ((300, 200), (72, 48))):
        found = stored(photograph(*size, kind), reduction=RULE)
        image = Image.open(io.BytesIO(found.encoded))
        assert (image.format, image.size, found.resized) == ("JPEG", expected, True)
        assert found.change == ""


@pytest.mark.parametrize("size", [(48, 60), (60, 48), (20, 30), (48, 48)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_others_keep_their_bytes_and_none_is_enlarged(size: tuple[int, int], kind: str) -> None:
    original = photograph(*size, kind)
    assert stored(original, reduction=RULE) == (original, "", False, False)


def test_without_a_reduction_originals_keep_their_bytes() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        original = photograph(500, 375, kind)
        assert stored(original) == (original, "", False, False)


def test_orientation_is_applied_before_the_image_is_reduced() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(photograph(100, 75)))
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    for upright, size in ((True, (48, 64)), (False, (64, 48))):
        found = stored(stream.getvalue(), reduction=RULE, upright=upright)
        reopened = Image.open(io.BytesIO(found.encoded))
        assert (reopened.size, found.turned) == (size, upright)
        assert not reopened.getexif()


def tree(root: Path) -> Path:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for index in range(4):
            size = (100 + index, 75) if index else (50, 40)
            (root / name / f"{index}.jpg").write_bytes(photograph(*size))
    return root


def run_of(tmp_path: Path, **changes: Any) -> ShardRun:
    settings = {"image_size": 0, "resize_short_side": 48, "rows_per_shard": 2, **changes}
    return ShardRun(source=str(tree(tmp_path / "s")), output_path=str(tmp_path / "out"), **settings)


def test_a_shard_counts_and_measures_the_reduced_ones(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    rows = [row for each in ImageSource.of(run).rows().values() for row in each]
    found = write_task(ShardTask(str(tmp_path), "all.parquet", rows, 4), run)
    assert (found.info.rows, found.resized, len(found.squared_errors)) == (8, 6, 4)
    images = {row.key: row.image for row in read_rows(tmp_path / "all.parquet")}
    large = [row for row in rows if not row.key.endswith("/0.jpg")]
    for row, error in zip(large, found.squared_errors, strict=False):
        original = (tmp_path / "s" / row.key).read_bytes()
        crops = [
            center_crop(decode_image(each, "k"), 48).astype(float)
            for each in (images[row.key], original)
        ]
        assert error == pytest.approx(((crops[0] - crops[1]) ** 2).mean())
        assert 0 < error < 25
    assert images["a/0.jpg"] == (tmp_path / "s" / "a" / "0.jpg").read_bytes()
    # A receipt says it too.
    assert write_task(ShardTask(str(tmp_path), "all.parquet", rows, 4), run) == found


def test_the_cost_is_a_mean_of_decibels_and_equal_crops_hide_none() -> None:
    run = ShardRun(source="s", image_size=0, resize_short_side=288)
    facts = reduction.reduction_facts(run, 3, [65.025, 0.65025, 0.0])
    assert facts["resize_cost"] == {
        "images": 3,
        "crop_side": 256,
        "mean_psnr_db": pytest.approx((30 + 50 + 98.13) / 3, abs=0.01),
        "lowest_psnr_db": 30.0,
    }
    assert "resize_cost" not in reduction.reduction_facts(run, 0, [])
    assert reduction.reduction_facts(ShardRun(source="s"), 0, []) == {}


def test_quality_is_bound_where_it_is_read_alone(tmp_path: Path) -> None:
    def unread(**fields: Any) -> tuple[str, ...]:
        run = ShardRun(source="s", image_size=0, **fields)
        return ListedImages(run, None).unread_fields  # type: ignore[arg-type]

    assert "jpeg_quality" in unread(jpeg_quality=80)
    assert "jpeg_quality" not in unread(jpeg_quality=80, resize_short_side=288)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"resize_short_side": 288}, "resize_short_side = 288: .*image_size = 256.*--image-size 0"),
        ({"resize_short_side": -1, "image_size": 0}, "resize_short_side = -1: must be a side"),
        ({"jpeg_quality": 101}, r"jpeg_quality = 101: must be in \[1, 100\]"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ShardRun(source="s", **fields)


@pytest.mark.ray
def test_the_cost_is_in_the_log_the_data_set_and_the_manifest(
    ray_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(tmp_path, validation_fraction=0.25)
    with caplog.at_level(logging.INFO):
        assert shard_images.run(run)["form"] == "reduced"
    folder = tmp_path / "out" / "train"
    dataset = read_dataset(folder, verify=True)
    assert (dataset.form, dataset.image_size, dataset.jpeg_quality) == ("reduced", 48, 95)
    manifest = read_manifest(folder, "shards")
    cost = manifest["resize_cost"]
    assert cost["images"] == manifest["num_resized"]
    assert 25 < cost["lowest_psnr_db"] <= cost["mean_psnr_db"] < 60
    line = next(message for message in caplog.messages if message.startswith("train: "))
    assert "reduced to a short side of 48 pixels, JPEG of quality 95; PSNR of ADM's crops" in line
    assert f"{cost['mean_psnr_db']} dB on average" in line
    assert "reduced to 48 pixels where it was larger" in crops_text(dataset)
    with pytest.raises(ArtefactError, match=r"--resize-short-side 0, which keeps originals"):
        check_adm_protocol(dataset, folder=folder, field="adm_protocol")
