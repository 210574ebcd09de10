"""Parts of an evaluation: what was written comes back, and what is damaged, foreign or incomplete is never merged."""

import logging
from pathlib import Path

import numpy as np
import pytest

from glotok_ray.evaluation.parts import (
    MeasuredBlock,
    PlannedPart,
    finished_parts,
    planned_part,
    write_part,
)
from glotok_ray.evaluation.plan import TRAINING, VALIDATION, Block
from glotok_ray.evaluation.streams import MeasuredImages, open_measured
from glotok_ray.storage.artefact import ArtefactError

FEATURES = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
CODES = np.arange(40, dtype=np.uint16).reshape(10, 4) + 65000
SCORES = np.array([*range(8), np.inf, np.nan])
PICTURES = np.random.default_rng(1).integers(0, 256, (3, 2, 2, 3), dtype=np.uint8)


def measured(start: int, stop: int, kind: str = VALIDATION) -> MeasuredBlock:
    """Rows of the constants; the first three images have pictures."""
    rows = slice(start, stop)
    arrays = {"net.pooled": FEATURES[rows], "visual": CODES[rows], "psnr": SCORES[rows]}
    return MeasuredBlock(kind, arrays, {"inputs": PICTURES[rows]})


def planned(start: int, stop: int, identity: str = "one") -> PlannedPart:
    return PlannedPart(VALIDATION, start, stop, identity)


@pytest.fixture
def parts(tmp_path: Path) -> list[PlannedPart]:
    """Ten images in parts of two blocks and of one, written in another order."""
    found = [planned(0, 6), planned(6, 10)]
    write_part(tmp_path, found[1], [measured(6, 10)])
    write_part(tmp_path, found[0], [measured(0, 2), measured(2, 6)])
    return found


def test_arrays_come_back_block_by_block_in_image_order(
    tmp_path: Path, parts: list[PlannedPart]
) -> None:
    images = open_measured(tmp_path, parts[::-1])[VALIDATION]
    assert images.count == 10
    for name, values in (("net.pooled", FEATURES), ("visual", CODES), ("psnr", SCORES)):
        blocks = list(images.blocks(name))
        assert [len(block) for block in blocks] == [2, 4, 4]
        np.testing.assert_array_equal(np.concatenate(blocks), values)
        assert {block.dtype for block in blocks} == {values.dtype}
    np.testing.assert_array_equal(images.column("psnr"), SCORES)
    np.testing.assert_array_equal(images.pictures("inputs"), PICTURES)
    assert "net.pooled" in images
    assert "net.logits" not in images


def test_a_unit_that_is_measured_twice_counts_once(
    tmp_path: Path, parts: list[PlannedPart]
) -> None:
    before = sorted(path.read_bytes() for path in tmp_path.iterdir())
    write_part(tmp_path, parts[1], [measured(6, 10)])
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == before
    assert len(open_measured(tmp_path, parts)[VALIDATION].column("psnr")) == 10


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.with_suffix(".json").write_text('{"identity": "one"'),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_part_is_missing(tmp_path: Path, parts: list[PlannedPart], spoil) -> None:
    assert finished_parts(tmp_path, parts) == {part.name for part in parts}
    spoil(tmp_path / parts[0].name)
    assert finished_parts(tmp_path, parts) == {parts[1].name}


def test_a_foreign_part_is_missing_and_told_in_one_line(
    tmp_path: Path, parts: list[PlannedPart], caplog: pytest.LogCaptureFixture
) -> None:
    damage(tmp_path / parts[0].name)
    asked = [parts[0], planned(6, 10, identity="another"), planned(10, 12)]
    with caplog.at_level(logging.WARNING):
        assert finished_parts(tmp_path, asked) == set()
    (line,) = caplog.messages
    assert line.endswith(
        f"2 of 2 parts are damaged or of other blocks, {parts[0].name} first; they are measured again"
    )


def test_a_part_is_known_by_its_settings_and_its_blocks() -> None:
    rows = np.array([3, 5])
    unit = [Block(TRAINING, 0, 2, 4, "a.parquet", rows=rows), Block(TRAINING, 2, 3, 6, "a.parquet")]
    part = planned_part(unit, "settings")
    assert (part.start, part.stop, part.name) == (4, 7, "training-00000004-00000007.parquet")
    assert part == planned_part(list(unit), "settings")
    others = [
        planned_part(unit, "other settings"),
        # The same images in batches of another size, whose features may round differently.
        planned_part([Block(TRAINING, 0, 3, 4, "a.parquet")], "settings"),
        planned_part([unit[0]._replace(rows=rows + 1), unit[1]], "settings"),
        planned_part([unit[0]._replace(file="b.parquet"), unit[1]], "settings"),
    ]
    assert all(other.name == part.name for other in others)
    assert len({one.identity for one in (part, *others)}) == 5


def test_images_that_are_missing_or_counted_twice_are_refused(
    tmp_path: Path, parts: list[PlannedPart]
) -> None:
    def refused(planned_parts: list[PlannedPart], text: str) -> None:
        with pytest.raises(ArtefactError, match=text):
            MeasuredImages(tmp_path, planned_parts)

    refused([parts[0], planned(6, 12)], "images 6 to 11 of validation are missing")
    write_part(tmp_path, planned(7, 10), [measured(7, 10)])
    refused([parts[0], planned(7, 10)], "image 6 of validation is missing; .*--fresh")
    write_part(tmp_path, planned(5, 10), [measured(5, 10)])
    refused([parts[0], planned(5, 10)], "image 5 of validation is counted twice")
    (tmp_path / planned(6, 11).name).write_bytes((tmp_path / parts[1].name).read_bytes())
    refused([parts[0], planned(6, 11)], "images 10 to 10 of validation are missing")
    with pytest.raises(ValueError, match="3 images were measured, and 4 were planned"):
        write_part(tmp_path, parts[1], [measured(6, 9)])


def test_an_actor_that_outlived_its_job_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_part(tmp_path / "gone", planned(0, 6), [measured(0, 6)])
    assert not (tmp_path / "gone").exists()
