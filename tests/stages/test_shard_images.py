"""The sharding job: equal bytes however tasks are scheduled, finished folders recognised, damaged images named."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glotok_ray.config import ShardRun, override
from glotok_ray.data.recorded import check_adm_protocol
from glotok_ray.data.records import decode_image, read_dataset, read_rows
from glotok_ray.stages import shard_images
from glotok_ray.storage import begun
from glotok_ray.storage.artefact import ArtefactError, read_manifest
from jobs import shard_images as shard_images_job


def images(root: Path, per_class: int = 6) -> Path:
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
    answer = shard_images.run(run)
    assert answer["train"] == {"images": 50, "shards": 3}
    assert answer["validation"] == {"images": 20, "shards": 1}
    info = read_dataset(tmp_path / "out" / "train", verify=True)
    assert [item.rows for item in info.shards] == [20, 20, 10]
    assert (len(info.classes), info.form, info.image_size) == (10, "crop", 32)
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
    shard_images.run(run, fresh=True)
    assert digests(tmp_path / "out", "train") == before
    assert (tmp_path / "out" / "train.previous").is_dir()


def keys_by_split(output: Path) -> dict[str, set[str]]:
    return {
        split: {key for keys in keys_of(output, split) for key in keys}
        for split in ("train", "validation")
    }


def keys_of(output: Path, split: str) -> list[list[str]]:
    """The keys of each shard."""
    folder = output / split
    return [
        [row.key for row in read_rows(folder / info.file)]
        for info in read_dataset(folder, verify=True).shards
    ]


def images_of(output: Path) -> dict[str, bytes]:
    """The stored bytes of both splits, by key."""
    return {
        row.key: row.image
        for split in shard_images.SPLITS
        for info in read_dataset(output / split).shards
        for row in read_rows(output / split / info.file)
    }


@pytest.mark.ray
def test_a_damaged_picture_costs_itself_in_one_pass(
    ray_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = images(tmp_path / "source")
    shard_images.run(folder_run(source, tmp_path / "clean"))
    clean = {split: keys_of(tmp_path / "clean", split) for split in shard_images.SPLITS}
    lost = {clean["train"][0][1], clean["train"][1][0]}
    whole = (source / min(lost)).read_bytes()
    (source / min(lost)).write_bytes(whole[: len(whole) // 2])
    (source / max(lost)).write_bytes(b"nothing")
    with caplog.at_level(logging.INFO):
        answer = shard_images.run(folder_run(source, tmp_path / "damaged"))
    assert (answer["unreadable"], answer["train"]["images"]) == (2, 8)
    for split in shard_images.SPLITS:
        # The same shards, less the two rows: nothing else moves.
        assert keys_of(tmp_path / "damaged", split) == [
            [key for key in keys if key not in lost] for keys in clean[split]
        ]
        facts = json.loads((tmp_path / "damaged" / split / "dataset.json").read_text())
        assert [item["file"] for item in facts["unreadable"]] == sorted(lost)
        assert "truncated" in facts["unreadable"][0]["reason"]
        assert facts["split"]["validation_fraction"] == 0.2
        assert read_dataset(tmp_path / "damaged" / split).num_unreadable == 2
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    (warning,) = (
        record.getMessage() for record in warnings if record.name == shard_images.logger.name
    )
    assert "2 of 12 images cannot be read and are left out, e.g. " in warning


@pytest.mark.ray
def test_losses_of_whole_shards_and_classes_are_named(
    ray_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, validation = images(tmp_path / "train"), images(tmp_path / "val", per_class=2)
    for path in (validation / "bees").iterdir():
        path.write_bytes(b"nothing")
    (source / "ants" / "notes.txt").write_text("no image")
    (source / "ants" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    run = folder_run(source, tmp_path / "out", validation_source=str(validation), rows_per_shard=1)
    with caplog.at_level(logging.WARNING):
        answer = shard_images.run(run)
    # Shards without a row are none.
    assert answer["validation"] == {"images": 2, "shards": 2}
    assert len(list((tmp_path / "out" / "validation").glob("*.parquet"))) == 2
    facts = json.loads((tmp_path / "out" / "validation" / "dataset.json").read_text())
    assert list(facts["empty_classes"]["validation"]) == ["bees"]
    assert facts["empty_classes"]["train"] == {}
    assert facts["left_out"] == [
        {"kind": ".heic", "files": 1, "examples": ["ants/phone.heic"]},
        {"kind": ".txt", "files": 1, "examples": ["ants/notes.txt"]},
    ]
    assert answer["left_out"] == 2
    assert "2 files hold no image of a format that is read" in caplog.text
    assert "1 .heic (e.g. ants/phone.heic), 1 .txt (e.g. ants/notes.txt)" in caplog.text
    assert "validation: no image of class 'bees' can be read, e.g. validation/bees/" in caplog.text
    # Nothing at all is no data set.
    for path in (validation / "ants").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"validation: none of its 4 images can be read, e\.g\. "):
        shard_images.run(run, fresh=True)


@pytest.mark.ray
def test_finished_folders_are_recognised_and_changes_noticed(
    ray_cluster: Any, tmp_path: Path
) -> None:
    source, output = images(tmp_path / "source"), tmp_path / "out"
    first = shard_images.run(folder_run(source, output))
    manifest = output / "train" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert shard_images.run(folder_run(source, output)) == first
    assert manifest.stat().st_mtime_ns == written
    with pytest.raises(ArtefactError, match="other settings"):
        shard_images.run(folder_run(source, output, seed=1))
    shutil.copy(source / "ants" / "0.png", source / "ants" / "new.png")
    with pytest.raises(ArtefactError, match="other settings"):
        shard_images.run(folder_run(source, output))
    (source / "ants" / "new.png").unlink()
    # A crash between the two manifests: the whole is made again.
    begun.reopen(output / "validation")
    assert shard_images.run(folder_run(source, output)) == first


@pytest.mark.ray
def test_validation_pictures_may_lie_in_a_folder_of_their_own(
    ray_cluster: Any, tmp_path: Path
) -> None:
    train, validation = images(tmp_path / "train"), images(tmp_path / "val", per_class=2)
    (validation / "bees" / "1.png").write_bytes(b"nothing")
    run = folder_run(train, tmp_path / "out", validation_source=str(validation))
    answer = shard_images.run(run)
    assert (answer["train"]["images"], answer["validation"]["images"]) == (12, 3)
    (info,) = read_dataset(tmp_path / "out" / "validation").shards
    # The unreadable image has a readable namesake in the other folder, which stays.
    keys = [row.key for row in read_rows(tmp_path / "out" / "validation" / info.file)]
    assert sorted(keys) == [
        "validation/ants/0.png",
        "validation/ants/1.png",
        "validation/bees/0.png",
    ]
    facts = json.loads((tmp_path / "out" / "train" / "dataset.json").read_text())
    assert facts["split"]["rule"] == "folders of their own"
    assert [item["file"] for item in facts["unreadable"]] == ["validation/bees/1.png"]
    # The fraction is not read, and the other folder's images are.
    assert shard_images.run(override(run, {"validation_fraction": 0.5})) == answer
    (validation / "ants" / "1.png").unlink()
    with pytest.raises(ArtefactError, match="other settings"):
        shard_images.run(run)


def test_splits_of_unlike_classes_are_refused(tmp_path: Path) -> None:
    train, validation = images(tmp_path / "train"), images(tmp_path / "val")
    run = folder_run(train, tmp_path / "out", validation_source=str(validation))
    shutil.rmtree(validation / "ants")
    with pytest.raises(ValueError, match=r"must have the class folders of .*; in one alone: ants"):
        shard_images.describe(run)
    (validation / "ants").mkdir()
    with pytest.raises(ValueError, match="validation_source: class 'ants' has no images; add one"):
        shard_images.describe(run)
    with pytest.raises(ValueError, match=r"is the source, so nothing would be held out"):
        shard_images.describe(override(run, {"validation_source": str(train)}))
    with pytest.raises(ValueError, match=r"validation_source = .*no such folder.* leave it empty"):
        shard_images.describe(override(run, {"validation_source": str(tmp_path / "nothing")}))
    with pytest.raises(ValueError, match=r"lies inside validation_source"):
        shard_images.describe(override(run, {"output_path": str(validation / "out")}))
    with pytest.raises(ValueError, match=r"photographs have validation crops of their own"):
        shard_images.describe(override(run, {"source": "photographs"}))


@pytest.mark.ray
def test_originals_are_stored_as_they_are(ray_cluster: Any, tmp_path: Path) -> None:
    source, output = images(tmp_path / "source"), tmp_path / "out"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(source / "ants" / "0.png").save(source / "ants" / "turned.jpg", exif=exif)
    answer = shard_images.run(folder_run(source, output, image_size=0))
    assert answer["form"] == "original"
    found = images_of(output)
    assert len(found) == 13
    turned = decode_image(found.pop("ants/turned.jpg"), "k")
    assert turned.shape == (24, 20, 3)
    for key, encoded in found.items():
        assert encoded == (source / key).read_bytes()
    facts = json.loads((output / "train" / "dataset.json").read_text())
    assert (facts["form"], facts["image_size"], facts["upright"]) == ("original", 0, True)
    # Each split counts its own, and says so.
    turned = {split: read_dataset(output / split).num_turned for split in ("train", "validation")}
    (holder,) = [
        split for split, rows in keys_by_split(output).items() if "ants/turned.jpg" in rows
    ]
    assert turned == {"train": 0, "validation": 0, holder: 1}
    with pytest.raises(ArtefactError, match=r"num_turned = 1.*--no-upright"):
        check_adm_protocol(
            read_dataset(output / holder), folder=output / holder, field="adm_protocol"
        )
    # As guided-diffusion reads it: the very file.
    shard_images.run(folder_run(source, tmp_path / "lying", image_size=0, upright=False))
    rows = images_of(tmp_path / "lying")
    assert sorted(rows) == sorted([*found, "ants/turned.jpg"])
    for split in ("train", "validation"):
        lying = read_dataset(tmp_path / "lying" / split)
        assert (lying.num_turned, lying.num_changed) == (0, 0)
    assert rows["ants/turned.jpg"] == (source / "ants" / "turned.jpg").read_bytes()


@pytest.mark.ray
def test_changed_pictures_are_named(
    ray_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, output = images(tmp_path / "source"), tmp_path / "out"
    Image.new("RGB", (650, 10)).save(source / "ants" / "line.png")
    with caplog.at_level(logging.WARNING):
        shard_images.run(folder_run(source, output, image_size=0))
    facts = json.loads((output / "validation" / "dataset.json").read_text())
    assert facts["changed"] == [{"file": "ants/line.png", "change": "cut to its middle of 64 : 1"}]
    assert "1 of 13 images are not stored as they are" in caplog.text
    found = [read_dataset(output / split).num_changed for split in ("train", "validation")]
    assert sum(found) == 1


def test_folders_of_others_are_not_emptied(tmp_path: Path) -> None:
    # The images lie where the shards would go: output_path/train.
    source = images(tmp_path / "data" / "train")
    with pytest.raises(ArtefactError, match=r"is the input .*data/train, which must stay"):
        shard_images.run(folder_run(source, tmp_path / "data"))
    with pytest.raises(ArtefactError, match=r"is the input .*data/train, which must stay"):
        shard_images.run(folder_run(source, tmp_path / "data"), fresh=True)
    assert len(list(source.rglob("*.png"))) == 12


def test_dry_run_counts_without_reading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = images(tmp_path / "source")
    (source / "ants" / "broken.png").write_bytes(b"")
    arguments = ["--source", str(source), "--validation-source", ""]
    arguments += ["--output-path", str(tmp_path / "out")]
    assert (
        shard_images_job.main(["imagenet_256", "--dry-run", "--rows-per-shard", "4", *arguments])
        == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == {"train": 11, "validation": 2}
    assert answer["shards"] == {"train": 3, "validation": 1}
    assert (answer["form"], answer["left_out"]) == ("original", [])
    assert (answer["classes"], answer["recipe"]) == (2, "imagenet_256")
    assert not (tmp_path / "out").exists()


def test_bad_input_ends_with_code_2_and_touches_no_cluster(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert shard_images_job.main(["imagenet_256", "--source", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in caplog.text
