"""The blocks of an evaluation."""

from pathlib import Path

import numpy as np
import pytest

from glotok_ray.evaluation.plan import VALIDATION, plan
from tests.evaluation.tiny_inputs import POSITIONS, settings, write_inputs


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
    first, _ = plan(settings(inputs, tmp_path, num_images=8, samples_path="", codes_path=""))
    assert sum(block.stop - block.start for block in first) == 8


def test_baselines_draw_from_the_training_codes(inputs: Path, tmp_path: Path) -> None:
    blocks, _ = plan(settings(inputs, tmp_path))
    marginal = [block.codes for block in blocks if block.kind == "baseline_marginal"]
    visual, semantic = np.concatenate(marginal).swapaxes(0, 1)
    assert semantic.shape == (6, POSITIONS)
    assert (semantic == 3).all()
    np.testing.assert_array_equal(visual, np.tile(np.arange(POSITIONS), (6, 1)))
    uniform = [block.codes for block in blocks if block.kind == "baseline_uniform"]
    assert len(np.unique(np.concatenate([codes[:, 0] for codes in uniform]))) > 16
