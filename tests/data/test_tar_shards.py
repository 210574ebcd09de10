"""Shards as WebDataset tars: other programs read them by its rule, and ours gets the very rows back."""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import five_forms
from benchmarks.five_forms import jpeg, training_images, validation_images, write_tar
from glotok_ray.config import ShardRun
from glotok_ray.data.listing import SPLITS
from glotok_ray.data.records import Row, read_dataset, read_rows, write_dataset
from glotok_ray.data.shard_writing import ShardTask, shard_file, write_task
from glotok_ray.data.sources import ImageSource
from glotok_ray.data.tar_shards import TarShardError, read_tar_rows, write_tar_shard
from glotok_ray.data.written_shards import RECEIPTS, finished_shard
from glotok_ray.storage.artefact import ArtefactError

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 50
ROWS = [
    Row("n01/a.JPEG", jpeg(0), 0),
    Row("n01/a.b.JPEG", jpeg(1), 0),
    Row("n01/a_b.png", PNG, 1),
    Row("n01/.hidden", b"RIFF....WEBP", 1),
    Row("n.0 2/../ü/" + "long" * 40 + ".jpg", jpeg(2), 7),
    Row("validation/n01/a.JPEG", jpeg(3), 0),
]


def webdataset_samples(path: Path) -> Iterator[dict[str, Any]]:
    """What the webdataset package makes of a tar: `base_plus_ext` and `group_by_keys` of its tariterators.py."""
    sample: dict[str, Any] = {}
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if not member.isreg():
                continue
            match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name)
            if match is None:
                continue
            prefix, suffix = match[1], match[2].lower()
            if sample and prefix != sample["__key__"]:
                yield sample
                sample = {}
            sample["__key__"] = prefix
            assert suffix not in sample, f"{member.name}: duplicate"
            sample[suffix] = archive.extractfile(member).read()  # type: ignore[union-attr]
    if sample:
        yield sample


def test_the_webdataset_package_s_rule_finds_every_row(tmp_path: Path) -> None:
    info = write_tar_shard(tmp_path / "000000.tar", ROWS)
    assert info.rows == len(ROWS)
    found = list(webdataset_samples(tmp_path / "000000.tar"))
    assert [sample.keys() - {"__key__"} for sample in found] == [
        {suffix, "cls", "json"} for suffix in ("jpg", "jpg", "png", "webp", "jpg", "jpg")
    ]
    for row, sample in zip(ROWS, found, strict=True):
        assert next(sample[s] for s in ("jpg", "png", "webp") if s in sample) == row.image
        assert int(sample["cls"]) == row.label
        assert json.loads(sample["json"])["key"] == row.key
    keys = [sample["__key__"] for sample in found]
    assert keys[:4] == ["n01/a", "n01/a_b", "n01/a_b-2", "n01/_hidden"]
    assert not any(".." in key for key in keys)


def test_equal_rows_give_equal_bytes_and_come_back(tmp_path: Path) -> None:
    first = write_tar_shard(tmp_path / "a.tar", ROWS)
    assert write_tar_shard(tmp_path / "b.tar", iter(ROWS)).sha256 == first.sha256
    assert list(read_tar_rows(tmp_path / "a.tar")) == ROWS


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([("a.jpg", b"x"), ("a.cls", b"0")], "has cls, jpg; must have an image, cls and json"),
        ([("a.jpg", b"x"), ("a.cls", b"0"), ("a.json", b"{}")], "its json does not say key"),
        ([("a.jpg", b"x"), ("a.cls", b"0"), ("a.json", b"[")], "its json does not say key"),
        (
            [
                ("a.jpg", b"x"),
                ("a.cls", b"zebra"),
                ("a.json", b'{"key": "k", "label": 0, "sha256": ""}'),
            ],
            "its cls is 'zebra' and its json says label 0",
        ),
    ],
)
def test_samples_of_another_form_are_named(tmp_path: Path, members: Any, text: str) -> None:
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(TarShardError, match=f"sample 'a': {text}"):
        list(read_tar_rows(path))


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    root = tmp_path_factory.mktemp("forms")
    return five_forms.write_five_forms(root, training_images(5), validation_images(2))


def sharded(fields: dict[str, str], output: Path, **settings: Any) -> dict[str, list[Any]]:
    """Written in this process, as the job's tasks write them; the facts of the shards."""
    run = ShardRun(
        **fields,
        output_path=str(output),
        image_size=0,
        upright=False,
        **{"rows_per_shard": 6, **settings},
    )
    source, written = ImageSource.of(run), {}
    for split, shards in source.shards().items():
        (output / split).mkdir(parents=True)
        tasks = [
            ShardTask(str(output / split), shard_file(run, index), rows)
            for index, rows in enumerate(shards)
        ]
        written[split] = [write_task(task, run) for task in tasks]
        form = {"shard_format": run.output_form} if run.output_form == "webdataset" else {}
        write_dataset(
            output / split,
            classes=source.classes,
            form=source.form,
            image_size=0,
            shards=[found.info for found in written[split]],
            details=form,
        )
    return written


def finished(output: Path) -> Path:
    """As the job leaves it."""
    for split in SPLITS:
        shutil.rmtree(output / split / RECEIPTS)
    return output


def test_tars_make_the_same_shards_as_what_they_were_made_of(
    forms: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    tars = sharded(forms["folders"], tmp_path / "tars", output_form="webdataset")
    finished(tmp_path / "tars")
    assert [found.info.file for found in tars["train"]] == [f"00000{i}.tar" for i in range(3)]
    sharded(forms["folders"], tmp_path / "straight")
    fields = {
        "source": f"{tmp_path}/tars/train",
        "validation_source": f"{tmp_path}/tars/validation",
    }
    for kind in ("auto", "webdataset"):
        again = sharded({**fields, "source_kind": kind}, tmp_path / kind)
        for split in SPLITS:
            straight = read_dataset(tmp_path / "straight" / split, verify=True)
            # Equal digests: keys, labels, bytes and their order.
            assert tuple(found.info for found in again[split]) == straight.shards
            assert read_dataset(tmp_path / kind / split).classes == straight.classes
    # And tars of tars are the same tars.
    twice = sharded(fields, tmp_path / "twice", output_form="webdataset")
    assert [f.info for f in twice["train"]] == [f.info for f in tars["train"]]


def test_keys_of_a_drawn_split_come_back_too(
    forms: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    drawn = {"source": forms["folders"]["source"]}
    sharded(drawn, tmp_path / "tars", output_form="webdataset", validation_fraction=0.2)
    finished(tmp_path / "tars")
    places = {split: f"{tmp_path}/tars/{split}" for split in SPLITS}
    fields = {"source": places["train"], "validation_source": places["validation"]}
    sharded(fields, tmp_path / "again")
    for split in SPLITS:
        keys = {
            row.key
            for shard in read_dataset(tmp_path / "again" / split).shards
            for row in read_rows(tmp_path / "again" / split / shard.file)
        }
        assert keys == {
            row.key
            for shard in read_dataset(tmp_path / "tars" / split, tars=True).shards
            for row in read_tar_rows(tmp_path / "tars" / split / shard.file)
        }
    # Held-out images that are trained on are no held-out images.
    with pytest.raises(ValueError, match=r"has the key 'n0\d+/.*' of a training image"):
        ImageSource.of(
            ShardRun(source=forms["folders"]["source"], validation_source=places["validation"])
        )


def test_a_finished_tar_is_not_written_again_and_a_torn_one_is(
    forms: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    written = sharded(forms["folders"], tmp_path / "tars", output_form="webdataset")
    path = tmp_path / "tars" / "train" / "000001.tar"
    assert finished_shard(path) == written["train"][1]
    path.write_bytes(path.read_bytes()[:-1])
    assert finished_shard(path) is None


def test_other_jobs_refuse_tars_in_one_line(
    forms: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    sharded(forms["folders"], tmp_path / "tars", output_form="webdataset")
    with pytest.raises(
        ArtefactError, match=r"this job reads Parquet shards: make them by"
    ) as error:
        read_dataset(tmp_path / "tars" / "train")
    assert f"--source {tmp_path}/tars/train" in str(error.value)


def test_a_label_outside_of_the_classes_is_named(
    forms: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    sharded(forms["folders"], tmp_path / "tars", output_form="webdataset")
    path = finished(tmp_path / "tars") / "train" / "000000.tar"
    write_tar_shard(path, [Row("n01440764/a.JPEG", jpeg(0), 3)])
    text = r"000000\.tar: row 'n01440764/a\.JPEG': its label 3 is none of 3 classes; restore it"
    with pytest.raises(ValueError, match=text):
        ImageSource.of(ShardRun(source=str(path.parent)))


def test_images_are_copied_as_a_stream(tmp_path: Path) -> None:
    """No row is held: the writer asks for the next one when one is written."""
    held: list[int] = []

    def rows() -> Iterator[Row]:
        for index in range(5):
            held.append((tmp_path / next(iter(tmp_path.iterdir())).name).stat().st_size)
            yield Row(f"{index}.jpg", io.BytesIO(bytes(1 << 20)).getvalue(), 0)

    write_tar_shard(tmp_path / "a.tar", rows())
    assert held == sorted(held)
    assert held[-1] >= 3 << 20
