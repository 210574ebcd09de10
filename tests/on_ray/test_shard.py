"""The sharding job: equal bytes however tasks are scheduled, finished folders recognised, damaged pictures named."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glotok_ray import begun
from glotok_ray.artefact import ArtefactError, read_manifest
from glotok_ray.config import ShardRun, override
from glotok_ray.data.records import decode_image, read_dataset, read_rows
from glotok_ray.on_ray import shard
from jobs import shard_images


def pictures(root: Path, per_class: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for name in ("ants", "bees"):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = generator.integers(0, 256, (20 + index, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def folder_run(root: Path, output: Path, **changes: Any) -> ShardRun:
    settings = {"image_size": 16, "rows_per_shard": 4, "validation_fraction": 0.2, **changes}
    return ShardRun(source=str(root), output_path=str(output), **settings)


def digests(output: Path, split: str) -> list[str]:
    return [info.sha256 for info in read_dataset(output / split, verify=True).shards]


@pytest.mark.ray
def test_photographs_become_shards(ray_cluster: Any, tmp_path: Path) -> None:
    run = ShardRun(
        output_path=str(tmp_path / "out"),
        image_size=32,
        crops_per_class=5,
        validation_crops_per_class=2,
        rows_per_shard=20,
    )
    answer = shard.run(run)
    assert answer["train"] == {"images": 50, "shards": 3}
    assert answer["validation"] == {"images": 20, "shards": 1}
    info = read_dataset(tmp_path / "out" / "train", verify=True)
    assert [item.rows for item in info.shards] == [20, 20, 10]
    assert (len(info.classes), info.image_size) == (10, 32)
    rows = [
        row for item in info.shards for row in read_rows(tmp_path / "out" / "train" / item.file)
    ]
    assert len({row.key for row in rows}) == 50
    for row in rows:
        assert row.key.split("/")[0] == info.classes[row.label]
        assert decode_image(row.image, row.key).shape == (32, 32, 3)
    # Shards mix classes, and another run gives the same bytes.
    assert len({row.label for row in rows[:20]}) > 5
    read_manifest(tmp_path / "out" / "train", "shards")
    before = digests(tmp_path / "out", "train")
    shard.run(run, fresh=True)
    assert digests(tmp_path / "out", "train") == before
    assert (tmp_path / "out" / "train.previous").is_dir()


@pytest.mark.ray
def test_damaged_pictures_are_named_and_change_nothing_else(
    ray_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = pictures(tmp_path / "source")
    shard.run(folder_run(source, tmp_path / "clean"))
    (source / "ants" / "0broken.jpg").write_bytes(b"nothing")
    whole = (source / "bees" / "0.png").read_bytes()
    (source / "bees" / "half.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        answer = shard.run(folder_run(source, tmp_path / "damaged"))
    assert answer["unreadable"] == 2
    for split in shard.SPLITS:
        assert digests(tmp_path / "damaged", split) == digests(tmp_path / "clean", split)
        facts = json.loads((tmp_path / "damaged" / split / "dataset.json").read_text())
        assert [item["file"] for item in facts["unreadable"]] == [
            "ants/0broken.jpg",
            "bees/half.png",
        ]
        assert "truncated" in facts["unreadable"][1]["reason"]
        assert facts["split"]["validation_fraction"] == 0.2
    warnings = [record for record in caplog.records if record.name == shard.logger.name]
    assert len(warnings) == 1
    assert "2 of 14 pictures cannot be read" in warnings[0].getMessage()


@pytest.mark.ray
def test_finished_folders_are_recognised_and_changes_noticed(
    ray_cluster: Any, tmp_path: Path
) -> None:
    source, output = pictures(tmp_path / "source"), tmp_path / "out"
    first = shard.run(folder_run(source, output))
    manifest = output / "train" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert shard.run(folder_run(source, output)) == first
    assert manifest.stat().st_mtime_ns == written
    with pytest.raises(ArtefactError, match="other settings"):
        shard.run(folder_run(source, output, seed=1))
    shutil.copy(source / "ants" / "0.png", source / "ants" / "new.png")
    with pytest.raises(ArtefactError, match="other settings"):
        shard.run(folder_run(source, output))
    (source / "ants" / "new.png").unlink()
    # A crash between the two manifests: the whole is made again.
    begun.reopen(output / "validation")
    assert shard.run(folder_run(source, output)) == first


@pytest.mark.ray
def test_validation_pictures_may_lie_in_a_folder_of_their_own(
    ray_cluster: Any, tmp_path: Path
) -> None:
    train, validation = pictures(tmp_path / "train"), pictures(tmp_path / "val", per_class=2)
    (validation / "bees" / "1.png").write_bytes(b"nothing")
    run = folder_run(train, tmp_path / "out", validation_source=str(validation))
    answer = shard.run(run)
    assert (answer["train"]["images"], answer["validation"]["images"]) == (12, 3)
    (info,) = read_dataset(tmp_path / "out" / "validation").shards
    # The unreadable picture has a readable namesake in the other folder, which stays.
    keys = [row.key for row in read_rows(tmp_path / "out" / "validation" / info.file)]
    assert sorted(keys) == [
        "validation/ants/0.png",
        "validation/ants/1.png",
        "validation/bees/0.png",
    ]
    facts = json.loads((tmp_path / "out" / "train" / "dataset.json").read_text())
    assert facts["split"]["rule"] == "folders of their own"
    assert [item["file"] for item in facts["unreadable"]] == ["validation/bees/1.png"]
    # The fraction is not read, and the other folder's pictures are.
    assert shard.run(override(run, {"validation_fraction": 0.5})) == answer
    (validation / "ants" / "1.png").unlink()
    with pytest.raises(ArtefactError, match="other settings"):
        shard.run(run)


def test_splits_of_unlike_classes_are_refused(tmp_path: Path) -> None:
    train, validation = pictures(tmp_path / "train"), pictures(tmp_path / "val")
    run = folder_run(train, tmp_path / "out", validation_source=str(validation))
    shutil.rmtree(validation / "ants")
    with pytest.raises(ValueError, match=r"must have the class folders of .*; in one alone: ants"):
        shard.describe(run)
    (validation / "ants").mkdir()
    with pytest.raises(ValueError, match="validation_source: class 'ants' has no readable"):
        shard.describe(run)
    with pytest.raises(ValueError, match=r"is the source, so nothing would be held out"):
        shard.describe(override(run, {"validation_source": str(train)}))
    with pytest.raises(ValueError, match=r"validation_source = .*no such folder.* leave it empty"):
        shard.describe(override(run, {"validation_source": str(tmp_path / "nothing")}))
    with pytest.raises(ValueError, match=r"lies inside validation_source"):
        shard.describe(override(run, {"output_path": str(validation / "out")}))
    with pytest.raises(ValueError, match=r"photographs have validation crops of their own"):
        shard.describe(override(run, {"source": "photographs"}))


@pytest.mark.ray
def test_stored_pictures_keep_their_pixels(ray_cluster: Any, tmp_path: Path) -> None:
    source, output = pictures(tmp_path / "source"), tmp_path / "out"
    shard.run(folder_run(source, output, image_size=20))
    found = {
        row.key: decode_image(row.image, row.key)
        for split in shard.SPLITS
        for item in read_dataset(output / split).shards
        for row in read_rows(output / split / item.file)
    }
    assert len(found) == 12
    for key, pixels in found.items():
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(source / key)))


def test_folders_of_others_are_not_emptied(tmp_path: Path) -> None:
    # The pictures lie where the shards would go: output_path/train.
    source = pictures(tmp_path / "data" / "train")
    with pytest.raises(ArtefactError, match="no job of this package began"):
        shard.run(folder_run(source, tmp_path / "data"))
    with pytest.raises(ArtefactError, match="no job of this package began"):
        shard.run(folder_run(source, tmp_path / "data"), fresh=True)
    assert len(list(source.rglob("*.png"))) == 12


def test_dry_run_counts_without_reading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source")
    (source / "ants" / "broken.png").write_bytes(b"")
    arguments = ["--source", str(source), "--validation-source", ""]
    arguments += ["--output-path", str(tmp_path / "out")]
    assert (
        shard_images.main(["imagenet_256", "--dry-run", "--rows-per-shard", "4", *arguments]) == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == {"train": 11, "validation": 2}
    assert answer["shards"] == {"train": 3, "validation": 1}
    assert (answer["classes"], answer["recipe"]) == (2, "imagenet_256")
    assert not (tmp_path / "out").exists()


def test_bad_input_ends_with_code_2_and_touches_no_cluster(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert shard_images.main(["imagenet_256", "--source", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in caplog.text
