"""The same images in five forms make the same shards, and what is wrong with a form is said in one line."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import five_forms
from benchmarks.five_forms import SYNSETS, training_images, validation_images
from glotok_ray.config import ShardRun
from glotok_ray.data.listing import SPLITS
from glotok_ray.data.sources import ImageSource
from glotok_ray.stages.shard_images import ShardTask, write_task
from tests.small_data import class_tree

FORMS = ("folders", "tars", "webdataset", "parquet", "kaggle")


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    root = tmp_path_factory.mktemp("forms")
    return five_forms.write_five_forms(root, training_images(7), validation_images(2))


def source_of(fields: dict[str, str], **settings: Any) -> ImageSource:
    return ImageSource.of(ShardRun(**fields, image_size=0, upright=False, **settings))


def shards_of(source: ImageSource, folder: Path) -> list[tuple[int, str]]:
    folder.mkdir()
    found = [
        write_task(ShardTask(str(folder), f"{split}-{place}.parquet", rows), source.run)
        for split in SPLITS
        for place, rows in enumerate(source.shards()[split])
    ]
    assert not any(shard.unreadable for shard in found)
    return [(shard.info.rows, shard.info.sha256) for shard in found]


def test_five_forms_of_one_data_set_make_the_same_shards(
    forms: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    found = {}
    for name in FORMS:
        source = source_of(forms[name], rows_per_shard=6)
        assert source.classes == SYNSETS
        assert source.left_out == []
        found[name] = shards_of(source, tmp_path / name)
    assert [rows for rows, _ in found["folders"]] == [6, 6, 6, 3, 6]
    assert all(shards == found["folders"] for shards in found.values())
    keys = {row.key for row in source_of(forms["tars"]).rows()["validation"]}
    assert "validation/n01440764/ILSVRC2012_val_00000001.JPEG" in keys


def test_one_listing_is_split_like_a_tree(forms: dict[str, dict[str, str]]) -> None:
    alone = {
        "folders": {"source": forms["folders"]["source"]},
        "tars": {"source": forms["tars"]["source"]},
    }
    found = {
        name: {
            split: [(row.key, row.label) for row in rows]
            for split, rows in source_of(fields, validation_fraction=0.3).rows().items()
        }
        for name, fields in alone.items()
    }
    assert found["tars"] == found["folders"]
    assert len(found["tars"]["validation"]) == 6


def test_kinds_of_both_splits_may_differ(forms: dict[str, dict[str, str]]) -> None:
    fields = {**forms["tars"], "source": forms["kaggle"]["source"]}
    source = source_of(fields)
    assert {split: len(rows) for split, rows in source.rows().items()} == {
        "train": 21,
        "validation": 6,
    }
    parts = {**forms["parquet"], "validation_source": forms["webdataset"]["source"]}
    rows = source_of(parts).rows()
    assert [Path(row.path).parent.name for row in (rows["train"][0], rows["validation"][0])] == [  # type: ignore[attr-defined]
        "parquet",
        "webdataset",
    ]


def test_the_digest_is_bound_to_images_and_classes(
    forms: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    fields = forms["webdataset"]
    base = source_of(fields).bound_settings()
    assert source_of(fields, source_kind="webdataset").bound_settings() == base
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n")
    assert source_of({**fields, "class_names_path": str(names)}).bound_settings() != base
    moved = shutil.copytree(fields["source"], tmp_path / "moved")
    assert source_of({**fields, "source": str(moved)}).bound_settings() == base
    (moved / "imagenet-train-0000.tar").touch()
    assert source_of({**fields, "source": str(moved)}).bound_settings() != base


def test_numbers_without_names_are_classes_in_their_order(tmp_path: Path) -> None:
    members = [
        (f"{index}.{suffix}", content)
        for index in range(24)
        for suffix, content in (
            ("jpg", five_forms.jpeg(index)),
            ("cls", str(index % 12).encode()),
        )
    ]
    five_forms.write_tar(tmp_path / "w" / "0.tar", members)
    source = source_of({"source": str(tmp_path / "w")})
    assert source.classes == tuple(map(str, range(12)))
    labels = {row.key: row.label for rows in source.rows().values() for row in rows}
    assert labels["11/23.jpg"] == 11


@pytest.mark.parametrize("training", ["folders", "tar"])
def test_validation_images_get_the_labels_of_the_training_source(
    tmp_path: Path, training: str
) -> None:
    """Numbers sort as numbers in archives and as text as folders: 0, 1, 10, 11, 2."""
    members = []
    for number in range(12):
        members += [(f"{number}.jpg", five_forms.jpeg(number)), (f"{number}.cls", b"%d" % number)]
    places = {
        "folders": class_tree(tmp_path / "f", **{str(number): 1 for number in range(12)}),
        "tar": five_forms.write_tar(tmp_path / "w.tar", members),
    }
    validation = next(name for name in places if name != training)
    source = source_of(
        {"source": str(places[training]), "validation_source": str(places[validation])}
    )
    numbers = list(map(str, range(12)))
    assert list(source.classes) == (sorted(numbers) if training == "folders" else numbers)
    rows = source.rows()
    assert len(rows["validation"]) == 12
    for row in (*rows["train"], *rows["validation"]):
        assert row.key.removeprefix("validation/").split("/")[0] == source.classes[row.label]
    # The images are the same in another order, and other classes are named.
    places["folders"].joinpath("10").rename(places["folders"] / "12")
    with pytest.raises(ValueError, match=r"in one alone: 10, 12$"):
        source_of({"source": str(places[training]), "validation_source": str(places[validation])})


def test_classes_of_samples_may_be_text_or_json(tmp_path: Path) -> None:
    image = five_forms.jpeg(0)
    contents = {
        "a.txt": b"fish\n",
        "b.json": b'{"label": "bird", "width": 9}',
        "c.json": b'{"label": "fish"}',
        "d.cls": b"bird",
    }
    members = []
    for name, content in contents.items():
        members += [(name, content), (name.split(".")[0] + ".webp", image)]
    five_forms.write_tar(tmp_path / "w.tar", members)
    source = source_of({"source": str(tmp_path / "w.tar")})
    assert source.classes == ("bird", "fish")
    keys = sorted(row.key for rows in source.rows().values() for row in rows)
    assert keys == ["bird/b.webp", "bird/d.webp", "fish/a.webp", "fish/c.webp"]


def test_the_extension_is_all_behind_the_first_dot(tmp_path: Path) -> None:
    """A depth map, a mask or a further description beside a photo is neither its image nor its label."""
    photos = {str(index): five_forms.jpeg(index) for index in range(3)}
    members = []
    for name, photo in photos.items():
        # In a tar's usual order, by name: the others come first.
        members += [
            (f"{name}.depth.png", five_forms.jpeg(9)),
            (f"{name}.flow.cls", b"8"),
            (f"{name}.jpg", photo),
            (f"{name}.json", b'{"label": 4}'),
        ]
    five_forms.write_tar(
        tmp_path / "w.tar", [*members, ("x.seg.png", photos["0"]), ("x.cls", b"5")]
    )
    source = source_of({"source": str(tmp_path / "w.tar")})
    rows = [row for each in source.rows().values() for row in each]
    assert source.classes == ("4",)
    assert {row.key: row.encode(source.run).encoded for row in rows} == {
        f"4/{name}.jpg": photo for name, photo in photos.items()
    }
    left_out = {item.kind: item.files for item in source.left_out}
    assert left_out == {
        ".cls": 4,
        "images with a further dot in their names, by which their extension is no image's": 4,
    }


def test_a_class_s_tar_has_images_of_any_name(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        members = [(f"{name}.{index}.jpg", five_forms.jpeg(index)) for index in range(3)]
        five_forms.write_tar(tmp_path / "t" / f"{name}.tar", members)
    source = source_of({"source": str(tmp_path / "t")})
    keys = {row.key for rows in source.rows().values() for row in rows}
    assert keys == {f"{name}/{name}.{index}.jpg" for name in ("cat", "dog") for index in range(3)}


def test_images_of_one_name_in_a_class_have_keys_of_their_own(tmp_path: Path) -> None:
    for tar in ("p", "q"):
        members = [("0.jpg", five_forms.jpeg(0)), ("0.cls", b"0")]
        five_forms.write_tar(tmp_path / f"{tar}.tar", members)
    rows = source_of({"source": str(tmp_path)}).rows()
    assert sorted(row.key for each in rows.values() for row in each) == ["0/p/0.jpg", "0/q/0.jpg"]


def test_names_of_parquet_s_schema_are_the_classes(
    forms: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    source = source_of({"source": forms["parquet"]["source"]})
    assert source.classes == tuple(sorted(five_forms.HUMAN_NAMES))
    row = next(row for row in source.rows()["train"] if "n01443537_10" in row.key)
    assert (row.key, row.label) == ("goldfish/n01443537_10_n01443537.JPEG", 0)
    # A JSON file may name them by those.
    names = tmp_path / "names.json"
    names.write_text('{"tench, Tinca tinca": "n01440764", "goldfish": "n01443537", "kit fox": "x"}')
    fields = {"source": forms["parquet"]["source"], "class_names_path": str(names)}
    assert source_of(fields).classes == ("n01440764", "n01443537", "x")


def test_a_stray_archive_makes_no_tree_another_kind(tmp_path: Path) -> None:
    tree = class_tree(tmp_path / "t", a=2, b=2)
    five_forms.write_tar(tree / "backup.tar", [])
    assert source_of({"source": str(tree)}).classes == ("a", "b")


def test_the_photographs_are_of_no_kind() -> None:
    with pytest.raises(ValueError, match=r"source_kind = 'parquet': .*give the path as source"):
        ImageSource.of(ShardRun(source_kind="parquet"))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"source": "tars", "source_kind": "parquet"}, r"holds no \.parquet files"),
        ({"source": "folders", "class_names_path": "x"}, "is read of webdataset, parquet alone"),
        (
            {"source": "tars", "ground_truth_path": "x"},
            "is read of validation_tar, kaggle alone, and the source is train_tar",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(
    forms: dict[str, dict[str, str]], fields: dict[str, str], text: str
) -> None:
    place = {"source": forms[fields["source"]]["source"]}
    if fields.get("source_kind") == "parquet":
        place = {"source": str(Path(forms["webdataset"]["source"]))}
    with pytest.raises(ValueError, match=text):
        source_of({**fields, **place})
