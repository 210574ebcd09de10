"""The blocks of an evaluation."""

from pathlib import Path

import pytest

from glotok_ray.evaluation import plan as plan_module
from glotok_ray.evaluation.plan import DECODED, TRAINING, VALIDATION, plan, units_of
from tests.evaluation.tiny_inputs import settings, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("evaluate"))


def test_blocks_cover_every_image_once(inputs: Path, tmp_path: Path) -> None:
    blocks, image_size = plan(settings(inputs, tmp_path))
    assert image_size == 16
    validation = [block for block in blocks if block.kind == VALIDATION]
    assert [(block.file[5:10], block.start, block.stop) for block in validation] == [
        ("00000", 0, 5),
        ("00000", 5, 7),
        ("00001", 0, 4),
    ]
    assert [block.first_image for block in validation] == [0, 5, 7]
    alone = {"samples_path": "", "codes_path": "", "training_path": ""}
    first, _ = plan(settings(inputs, tmp_path, num_images=8, **alone))
    assert sum(block.stop - block.start for block in first) == 8


def test_training_crops_are_all_or_as_many_as_asked_for(inputs: Path, tmp_path: Path) -> None:
    def training(**changes: int) -> list[tuple[str, list[int]]]:
        blocks, _ = plan(settings(inputs, tmp_path, **changes))
        # Shards of validation and of training images have the same names; no unit may mix them.
        assert all(len({block.kind for block in unit}) == 1 for unit in units_of(blocks))
        return [
            (block.file[5:10], block.rows.tolist()) for block in blocks if block.kind == TRAINING
        ]

    assert training() == [("00000", [0, 1, 2, 3, 4]), ("00000", [5, 6, 7]), ("00001", [0, 1, 2])]
    blocks = [block for block in plan(settings(inputs, tmp_path))[0] if block.kind == TRAINING]
    assert [block.first_image for block in blocks] == [0, 5, 8]
    some = training(training_images=6)
    assert sum(len(rows) for _, rows in some) == 6
    assert some != training(training_images=6, seed=1)
    assert all(rows == sorted(set(rows)) for _, rows in some)
    assert all(
        block.kind != TRAINING for block in plan(settings(inputs, tmp_path, training_path=""))[0]
    )


def test_decoded_crops_are_some_of_those_that_are_compared_with(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(kind: str, **changes: object) -> list[tuple[str, int]]:
        blocks = [one for one in plan(settings(inputs, tmp_path, **changes))[0] if one.kind == kind]
        sizes = [len(block.rows) for block in blocks]
        assert [block.first_image for block in blocks] == [
            sum(sizes[:place]) for place in range(len(sizes))
        ]
        return [(block.file, int(row)) for block in blocks for row in block.rows]

    assert rows(DECODED) == rows(TRAINING)
    monkeypatch.setattr(plan_module, "_MOST_DECODED", 4)
    drawn = rows(DECODED, training_images=6)
    assert len(drawn) == 4
    assert drawn == [row for row in rows(TRAINING, training_images=6) if row in drawn]
    assert drawn == rows(DECODED, training_images=6)
    assert rows(DECODED) != rows(DECODED, seed=1)
    assert not rows(DECODED, tokenizer_path="", codes_path="")
    alone = {"samples_path": "", "codes_path": "", "generator_path": ""}
    assert not rows(DECODED, **alone)
