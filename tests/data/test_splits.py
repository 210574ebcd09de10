"""The split of a class-folder tree: a rule of seed and names, also for classes that have few images or none."""

import shutil
from pathlib import Path

import pytest

from glotok_ray.data.folders import ImageFile, list_image_files
from glotok_ray.data.splits import split_image_files, whole_tree
from tests.small_data import HEIC
from tests.small_data import class_tree as tree


def test_the_split_takes_the_fraction_of_each_class(tmp_path: Path) -> None:
    found = list_image_files(tree(tmp_path / "s", a=20, b=2, c=6))
    splits = split_image_files(found, fraction=0.25, seed=0)
    held = [item.label for item in splits["validation"]]
    assert [held.count(label) for label in range(3)] == [5, 1, 2]
    assert sorted([*splits["train"], *splits["validation"]]) == sorted(found.images)
    assert splits == split_image_files(found, fraction=0.25, seed=0)
    assert splits != split_image_files(found, fraction=0.25, seed=1)
    # A whole class never goes to validation.
    most = split_image_files(found, fraction=0.99, seed=0)
    assert [sum(item.label == label for item in most["train"]) for label in range(3)] == [1, 1, 1]


def test_other_classes_do_not_change_a_class(tmp_path: Path) -> None:
    alone = split_image_files(list_image_files(tree(tmp_path / "1", b=9)), fraction=0.3, seed=0)
    both = split_image_files(list_image_files(tree(tmp_path / "2", a=5, b=9)), fraction=0.3, seed=0)

    def held(images: list[ImageFile]) -> list[str]:
        return [item.key for item in images if item.key.startswith("b/")]

    assert held(alone["validation"]) == held(both["validation"])


def test_a_class_with_fewer_than_two_pictures_says_why(tmp_path: Path) -> None:
    folder = tree(tmp_path / "s", ants=2, bees=1)
    with pytest.raises(ValueError, match=r"class 'bees' has 1 images: training .* add images"):
        split_image_files(list_image_files(folder), fraction=0.1, seed=0)
    (folder / "bees" / "x.heic").write_bytes(HEIC)
    # Another class's files are not its reason.
    (folder / "ants" / "notes.txt").write_text("")
    with pytest.raises(
        ValueError, match=r"'bees' has 1 images \(left out: 1 \.heic \(e\.g\. bees/x\.heic\)\):"
    ):
        split_image_files(list_image_files(folder), fraction=0.1, seed=0)
    assert len(whole_tree(list_image_files(folder), field="source")) == 3
    (folder / "bees" / "00.png").unlink()
    with pytest.raises(
        ValueError, match=r"source: class 'bees' has no images \(left out: 1 \.heic.*; add one"
    ):
        whole_tree(list_image_files(folder), field="source")


def test_a_class_of_one_image_is_trained_on_where_classes_are_taken_as_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = list_image_files(tree(tmp_path / "s", ants=4, bees=1, wasps=1), as_found=True)
    splits = split_image_files(found, fraction=0.1, seed=0, as_found=True)
    assert {item.label for item in splits["train"]} == {0, 1, 2}
    assert [item.label for item in splits["validation"]] == [0]
    assert "2 of 3 classes have one image, which is trained on" in caplog.text
    assert "bees, wasps" in caplog.text
    lone = list_image_files(tree(tmp_path / "t", ants=1, bees=1), as_found=True)
    with pytest.raises(ValueError, match=r"none of its 2 classes has a second image .* one folder"):
        split_image_files(lone, fraction=0.1, seed=0, as_found=True)


def test_classes_that_can_spare_two_give_two_where_they_are_taken_as_found(tmp_path: Path) -> None:
    found = list_image_files(tree(tmp_path, a=5, b=6, c=30), as_found=True)
    held = [
        [
            item.label
            for item in split_image_files(found, fraction=0.1, seed=0, as_found=lenient)[
                "validation"
            ]
        ]
        for lenient in (True, False)
    ]
    assert held == [[0, 1, 1, 2, 2, 2], [0, 1, 2, 2, 2]]


def test_folders_without_images_are_no_classes_where_they_are_taken_as_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tree(tmp_path / "s", a=0, b=2, c=0, d=3)
    (source / "a" / "notes.txt").write_text("")
    found = list_image_files(source, as_found=True)
    assert found.classes == ("b", "d")
    assert [item.label for item in found.images] == [0, 0, 1, 1, 1]
    assert "folders without images, which are no classes: 2, a, c" in caplog.text
    assert list_image_files(source).classes == ("a", "b", "c", "d")


def test_images_without_class_folders_are_one_class_where_they_are_taken_as_found(
    tmp_path: Path,
) -> None:
    source = tree(tmp_path, holidays=3) / "holidays"
    (source / "notes.txt").write_text("")
    for _ in range(2):
        found = list_image_files(source, as_found=True)
        assert found.classes == ("holidays",)
        assert [item.key for item in found.images] == ["00.png", "01.png", "02.png"]
        assert [item.key for item in found.left_out] == ["notes.txt"]
        # A folder beside them that holds none changes nothing.
        (source / "thumbnails").mkdir(exist_ok=True)
    splits = split_image_files(found, fraction=0.1, seed=0, as_found=True)
    assert [len(splits[split]) for split in ("train", "validation")] == [2, 1]
    with pytest.raises(ValueError, match="no class folders"):
        list_image_files(tmp_path / "holidays" / "thumbnails", as_found=True)


def test_loose_images_that_are_most_are_a_class_where_classes_are_taken_as_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tree(tmp_path, photos=5) / "photos"
    (source / "edited").mkdir()
    for name, number in (("edited/0.png", 1), ("edited/1.png", 2), ("zoo/0.png", 3)):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes((source / "00.png").read_bytes())
        found = list_image_files(source, as_found=True)
        assert found.classes == ("edited", "photos", "zoo")[: 2 + (number == 3)]
        assert len(found.images) == 5 + number
        assert {item.key for item in found.images if item.label == 1} == {
            f"0{place}.png" for place in range(5)
        }
        assert f"5 images beside the class folders, which hold {number}, are" in caplog.text
    assert [
        len(part) for part in split_image_files(found, fraction=0.1, seed=0, as_found=True).values()
    ] == [6, 2]
    # Strictly, and where the folders hold as many, they are left out, as ever.
    assert list_image_files(source).classes == ("edited", "zoo")
    for place in range(2):
        (source / "zoo" / f"1{place}.png").write_bytes((source / "00.png").read_bytes())
    assert list_image_files(source, as_found=True).classes == ("edited", "zoo")
    # A folder of the same name is another class.
    for folder in ("edited", "zoo"):
        shutil.rmtree(source / folder)
    (source / "photos").mkdir()
    (source / "photos" / "a.png").write_bytes((source / "00.png").read_bytes())
    assert list_image_files(source, as_found=True).classes == ("photos", "photos_")
