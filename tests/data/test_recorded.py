"""What folders say about themselves against what their reader needs: sides, classes, and who made codes."""

import dataclasses
from pathlib import Path

import pytest

from glotok_ray.config import AutoencoderConfig, TokenizerConfig
from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.data.recorded import (
    check_adm_protocol,
    check_classes,
    check_codes,
    check_side,
    crops_text,
)
from glotok_ray.data.records import DatasetInfo
from glotok_ray.storage.artefact import ArtefactError

FOLDER = Path("shards")
MODEL = TokenizerConfig(autoencoder=AutoencoderConfig(image_size=64))
LAYOUT = CodeLayout.glotok(MODEL)
CODES = DatasetInfo(
    kind="codes",
    classes=("a",),
    num_images=1,
    image_size=64,
    shards=(),
    grid_size=4,
    tokenizer_sha256="1" * 64,
    code_counts=MODEL.code_counts,
    grids=LAYOUT.grids,
)


def images(form: str, image_size: int, **changes: int) -> DatasetInfo:
    return DatasetInfo("shards", ("a",), 9, image_size, (), form, **changes)


def test_reduced_pictures_are_not_adms() -> None:
    assert crops_text(images("original", 0)) == "ADM's crop of the original images"
    assert "as stored at 64 x 64 pixels" in crops_text(images("crop", 64))
    reduced = crops_text(images("reduced", 256))
    assert "short side of 256 to 320 pixels" in reduced
    assert "not ADM's protocol" in reduced


def test_turned_and_changed_pictures_are_not_adms() -> None:
    assert crops_text(images("original", 0, num_turned=2)) == (
        "ADM's crop of the original images; of 9 images 2 were turned by their EXIF orientation, which is not "
        "ADM's protocol"
    )
    both = crops_text(images("original", 0, num_turned=2, num_changed=1))
    assert "2 were turned by their EXIF orientation and 1 were changed as dataset.json says" in both


def test_what_is_not_adms_is_refused_by_name() -> None:
    for form, side in (("original", 0), ("crop", 64)):
        check_adm_protocol(images(form, side), folder=FOLDER, field="adm_protocol")
    for found, message in (
        (
            images("reduced", 256),
            r"shards holds .* 256 to 320 .*form = 'reduced'\); shard .*--image-size 0",
        ),
        (
            images("original", 0, num_turned=1),
            r"\(dataset\.json: num_turned = 1\); shard .* --no-upright",
        ),
        (
            images("original", 0, num_changed=3),
            r"num_changed = 3\); shard .* files that dataset\.json names under 'changed'",
        ),
        (
            images("reduced", 64, num_turned=1, num_changed=3),
            r"form = 'reduced', num_turned = 1, num_changed = 3\).*--image-size 0.*--no-upright",
        ),
    ):
        with pytest.raises(
            ArtefactError, match=rf"data\.adm_protocol = True: .*{message}.*--data\.no-adm-protocol"
        ):
            check_adm_protocol(found, folder=FOLDER, field="data.adm_protocol")


@pytest.mark.parametrize("form", ["crop", "reduced"])
def test_pictures_of_a_smaller_side_are_refused(form: str) -> None:
    check_side(images(form, 64), FOLDER, 64)
    check_side(images(form, 160), FOLDER, 64)
    with pytest.raises(
        ArtefactError,
        match=rf"shards: its images are stored at 32 pixels .*'{form}'.* takes 64; shard .*--image-size 64",
    ):
        check_side(images(form, 32), FOLDER, 64)


def test_originals_may_be_of_any_size() -> None:
    check_side(images("original", 0), FOLDER, 512)


def test_classes_are_compared_by_name_and_order() -> None:
    check_classes(["cat", "dog"], "train", ("cat", "dog"), "validation")
    for others in (["dog", "cat"], ["cat"], ["cat", "eel"]):
        with pytest.raises(
            ArtefactError, match=r"train has 2 classes \(cat, dog\), and validation"
        ):
            check_classes(["cat", "dog"], "train", others, "validation")
    with pytest.raises(ArtefactError, match=r"has 5 classes \(a, b, c, \.\.\.\)"):
        check_classes("abcde", "train", "abcdf", "validation")


def test_numbers_are_the_classes_of_who_knows_no_names() -> None:
    check_classes(["0", "1"], "samples", ["cat", "dog"], "validation")
    check_classes(["cat", "dog"], "codes", ["0", "1"], "validation")
    with pytest.raises(ArtefactError, match="2 classes"):
        check_classes(["0", "1"], "samples", ["cat", "dog", "eel"], "validation")
    with pytest.raises(ArtefactError, match="2 classes"):
        check_classes(["1", "0"], "samples", ["cat", "dog"], "validation")


def test_codes_are_bound_to_weights_and_config() -> None:
    check_codes(CODES, FOLDER, LAYOUT, Path("tokenizer"), "1" * 64)
    with pytest.raises(
        ArtefactError, match=r"another tokenizer: by tokenizer 1{12}, but .* is 2{12}"
    ):
        check_codes(CODES, FOLDER, LAYOUT, Path("tokenizer"), "2" * 64)
    with pytest.raises(ArtefactError, match="holds shards, not codes"):
        check_codes(images("crop", 64), FOLDER, LAYOUT, Path("tokenizer"), "1" * 64)


@pytest.mark.parametrize(
    ("field", "value"), [("image_size", 128), ("grid_size", 8), ("code_counts", {"visual": 7})]
)
def test_facts_that_weights_do_not_hold_are_compared_too(field: str, value: object) -> None:
    name = "codebooks" if field == "code_counts" else field
    changed = dataclasses.replace(CODES, **{field: value})
    with pytest.raises(ArtefactError, match=rf"dataset\.json: {name} = .*config\.json was changed"):
        check_codes(changed, FOLDER, LAYOUT, Path("tokenizer"), "1" * 64)
