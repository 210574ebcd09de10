"""Class-folder trees: what is listed, what is left out, and a split that is a rule of seed and names."""

import os
from pathlib import Path

import pytest
from PIL import Image

from glotok_ray.config import ShardRun
from glotok_ray.data.folders import Picture, list_pictures, split_pictures
from glotok_ray.data.pictures import UnreadablePictureError
from glotok_ray.data.sources import ImageSource


def tree(root: Path, **classes: int) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (20, 16), (index, 0, 0)).save(root / name / f"{index:02d}.png")
    return root


def test_the_class_is_the_first_level_folder(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", b=1, a=1)
    (source / "b" / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(source / "b" / "deep" / "er" / "x.JPEG", "JPEG")
    found = list_pictures(source)
    assert found.classes == ("a", "b")
    assert [(item.key, item.label) for item in found.pictures] == [
        ("a/00.png", 0),
        ("b/00.png", 1),
        ("b/deep/er/x.JPEG", 1),
    ]
    assert found.ignored_files == 0


def test_hidden_entries_links_and_other_files_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tree(tmp_path / "s", a=2)
    other = tree(tmp_path / "other", c=2)
    for path in (source / ".hidden", source / "a" / ".git"):
        path.mkdir()
        Image.new("RGB", (4, 4)).save(path / "x.png")
    Image.new("RGB", (4, 4)).save(source / "a" / ".x.png")
    (source / "a" / "notes.txt").write_text("")
    (source / "cover.png").write_bytes(b"")
    (source / "link").symlink_to(other / "c")
    (source / "a" / "loop").symlink_to(source)
    (source / "a" / "linked.png").symlink_to(other / "c" / "00.png")
    os.mkfifo(source / "a" / "pipe.png")
    found = list_pictures(source)
    assert found.classes == ("a",)
    assert [item.key for item in found.pictures] == ["a/00.png", "a/01.png", "a/linked.png"]
    assert found.ignored_files == 2
    assert "s/link: links to folders are not followed" in caplog.text
    assert "a/loop: links to folders are not followed" in caplog.text


def test_files_that_cannot_be_opened_are_unreadable(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=1)
    (source / "a" / "broken.png").symlink_to(source / "nothing")
    (broken,) = (item for item in list_pictures(source).pictures if "broken" in item.key)
    with pytest.raises(UnreadablePictureError, match="No such file"):
        broken.encode(ShardRun())


def test_names_that_are_no_utf8_stay_printable(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=1)
    name = os.fsdecode(b"\xff.png")
    Image.new("RGB", (4, 4)).save(source / "a" / name, "PNG")
    odd = list_pictures(source).pictures[1]
    assert odd.key == "a/\\udcff.png"
    assert odd.encode(ShardRun(image_size=4)).encoded[:4] == b"\x89PNG"


def test_the_digest_notices_changed_pictures(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=2)
    digest = list_pictures(source).digest
    assert list_pictures(source).digest == digest
    (source / "a" / "notes.txt").write_text("not a picture")
    assert list_pictures(source).digest == digest
    os.utime(source / "a" / "00.png", ns=(1, 1))
    touched = list_pictures(source).digest
    (source / "a" / "00.png").rename(source / "a" / "09.png")
    assert len({digest, touched, list_pictures(source).digest}) == 3


def test_a_moved_tree_keeps_its_digest(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=2)
    digest = list_pictures(source).digest
    assert list_pictures(source.rename(tmp_path / "t")).digest == digest


def test_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source = .*missing.*no such folder"):
        list_pictures(tmp_path / "missing")
    with pytest.raises(ValueError, match="no class folders"):
        list_pictures(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in its 1 class folders.*\.webp"):
        list_pictures(tmp_path)
    with pytest.raises(ValueError, match=r"look like splits.*s/train'"):
        list_pictures(tree(tmp_path / "s", train=1, val=1))


def test_the_split_takes_the_fraction_of_each_class(tmp_path: Path) -> None:
    found = list_pictures(tree(tmp_path / "s", a=20, b=2, c=6))
    splits = split_pictures(found, {}, fraction=0.25, seed=0)
    held = [item.label for item in splits["validation"]]
    assert [held.count(label) for label in range(3)] == [5, 1, 2]
    assert sorted(splits["train"] + splits["validation"]) == sorted(found.pictures)
    assert splits == split_pictures(found, {}, fraction=0.25, seed=0)
    assert splits != split_pictures(found, {}, fraction=0.25, seed=1)
    # A whole class never goes to validation.
    most = split_pictures(found, {}, fraction=0.99, seed=0)
    assert [sum(item.label == label for item in most["train"]) for label in range(3)] == [1, 1, 1]


def test_other_classes_do_not_change_a_class(tmp_path: Path) -> None:
    alone = split_pictures(list_pictures(tree(tmp_path / "1", b=9)), {}, fraction=0.3, seed=0)
    both = split_pictures(list_pictures(tree(tmp_path / "2", a=5, b=9)), {}, fraction=0.3, seed=0)

    def held(pictures: list[Picture]) -> list[str]:
        return [item.key for item in pictures if item.key.startswith("b/")]

    assert held(alone["validation"]) == held(both["validation"])


def test_a_class_with_fewer_than_two_readable_pictures_is_named(tmp_path: Path) -> None:
    found = list_pictures(tree(tmp_path / "s", ants=2, bees=1))
    with pytest.raises(ValueError, match=r"class 'bees' has 1 readable pictures: .* add pictures"):
        split_pictures(found, {}, fraction=0.1, seed=0)
    damaged = {"ants/00.png": "image file is truncated"}
    with pytest.raises(ValueError, match=r"class 'ants' has 1 .*1 unreadable.*00.png: image file"):
        split_pictures(found, damaged, fraction=0.1, seed=0)


def source(path: Path, output: Path, **settings: int) -> ImageSource:
    return ImageSource.of(ShardRun(source=str(path), output_path=str(output), **settings))


def test_the_fingerprint_holds_what_matters(tmp_path: Path) -> None:
    folder = tree(tmp_path / "s", a=3)
    base = source(folder, tmp_path / "o").fingerprint()
    assert source(folder, tmp_path / "elsewhere").fingerprint() == base
    assert source(folder, tmp_path / "o", crops_per_class=7).fingerprint() == base
    assert source(folder, tmp_path / "o", seed=1).fingerprint() != base
    photographs = [
        ImageSource.of(ShardRun(crops_per_class=number)).fingerprint() for number in (500, 7)
    ]
    assert len({base, *photographs}) == 3


def test_rows_are_shuffled_and_complete(tmp_path: Path) -> None:
    rows = source(tree(tmp_path / "s", a=30, b=30), tmp_path / "o").rows({})
    keys = [row.key for row in rows["train"]]
    assert (len(keys), len(rows["validation"])) == (54, 6)
    assert keys != sorted(keys)
    labels = [row.label for row in rows["train"]]
    assert 5 < sum(labels[:27]) < 22


@pytest.mark.parametrize("name", ["rows_per_shard", "crops_per_class"])
def test_counts_below_one_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0"):
        source(tmp_path, tmp_path / "o", **{name: 0})


def test_a_side_of_0_keeps_a_folder_s_originals(tmp_path: Path) -> None:
    folder = tree(tmp_path / "s", a=3)
    assert source(folder, tmp_path / "o", image_size=0).form == "original"
    assert source(folder, tmp_path / "o", image_size=16).form == "reduced"
    assert ImageSource.of(ShardRun(image_size=16)).form == "crop"
    with pytest.raises(ValueError, match=r"image_size = -1: must be a side in pixels, or 0"):
        source(folder, tmp_path / "o", image_size=-1)
    with pytest.raises(
        ValueError, match=r"image_size = 0: keeps the originals of a folder; .*give one, such as 64"
    ):
        ImageSource.of(ShardRun(image_size=0))
    with pytest.raises(
        ValueError, match=r"upright = False: the embedded photographs have no orientation"
    ):
        ImageSource.of(ShardRun(upright=False))


def test_the_output_may_not_lie_inside_the_source(tmp_path: Path) -> None:
    folder = tree(tmp_path / "s", a=3)
    with pytest.raises(ValueError, match="lies inside source"):
        source(folder, folder / "shards")
    with pytest.raises(ValueError, match="source = ''"):
        ImageSource.of(ShardRun(source=""))
