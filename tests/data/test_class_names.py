"""Small files that name classes, in the forms in which people have them."""

from pathlib import Path

import pytest

from benchmarks.five_forms import validation_images, write_devkit
from glotok_ray.data.class_names import read_class_names, read_image_classes


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_class_names_by_number_or_name(tmp_path: Path) -> None:
    path = tmp_path / "names"
    # Kaggle's LOC_synset_mapping.txt, a plain list, keras' class index.
    text = "n01440764 tench, Tinca tinca\nn01443537 goldfish\n"
    assert read_class_names(written(path, text)) == {"0": "n01440764", "1": "n01443537"}
    assert read_class_names(written(path, "great white shark\n\nkit fox\n")) == {
        "0": "great white shark",
        "1": "kit fox",
    }
    text = '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}'
    assert read_class_names(written(path, text)) == {"0": "n01440764", "1": "n01443537"}
    assert read_class_names(written(path, '{"tench": "n01440764"}')) == {"tench": "n01440764"}
    assert read_class_names(written(path, '["a", "b"]')) == {"0": "a", "1": "b"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("crane\nfox\ncrane\n", "class 2 is called 'crane', like class 0; give every class a name"),
        ('{"0": 7}', "class 0 is 7; must be a text"),
        ('{"0": }', "not valid JSON"),
    ],
)
def test_bad_class_names_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_class_names(written(tmp_path / "names", text))
    with pytest.raises(ValueError, match=r"class_names_path = .*cannot be read as text"):
        read_class_names(str(tmp_path / "nothing"))


def test_the_ground_truth_of_validation_images(tmp_path: Path) -> None:
    images = validation_images(2)
    expected = {name: synset for synset, files in images.items() for name in files}
    devkit = write_devkit(tmp_path / "devkit", images)
    one_word = "".join(f"{expected[name]}\n" for name in sorted(expected))
    pairs = "".join(f"{name} {synset}\n" for name, synset in expected.items())
    for path in (
        str(devkit),
        str(devkit / "data"),
        str(devkit / "data" / "ILSVRC2012_validation_ground_truth.txt"),
        written(tmp_path / "one_word.txt", one_word),
        written(tmp_path / "pairs.txt", pairs),
        written(tmp_path / "pairs.csv", "ImageId,PredictionString\n" + pairs.replace(" ", ",")),
    ):
        found = read_image_classes(path, images="val.tar")
        assert {name: found.of(name) for name in expected} == expected
        assert found.of("ILSVRC2012_val_00000077.JPEG") == ""
        assert found.of("README") == ""


def test_bad_ground_truth_is_refused(tmp_path: Path) -> None:
    def refused(path: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            read_image_classes(path, images="val.tar")

    refused("", r"ground_truth_path = '': val\.tar does not say the classes .*development kit")
    refused(str(tmp_path), r"holds no ILSVRC2012_validation_ground_truth\.txt; give")
    refused(str(tmp_path / "nothing"), "cannot be read as text")
    refused(written(tmp_path / "empty", ""), "is empty; give")
    refused(written(tmp_path / "mixed", "a b\nc\n"), "line 'c' has no class; give")
    refused(written(tmp_path / "ids", "3\n1\n"), r"meta\.mat, which names their synsets, is not")
    (tmp_path / "meta.mat").write_bytes(b"nothing")
    refused(str(tmp_path / "ids"), r"meta\.mat: cannot be read as the development kit's table")
    devkit = write_devkit(tmp_path / "devkit", validation_images(1))
    path = devkit / "data" / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("99\n")
    refused(str(devkit), r"has the number 99, which .*meta\.mat does not know")
