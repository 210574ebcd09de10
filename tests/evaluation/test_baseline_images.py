"""The codes of baselines: drawn from the training codes, block by block as all at once, and after a trip to disk."""

from pathlib import Path

import numpy as np
import pytest

from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.evaluation.baseline_images import (
    BaselineCodes,
    count_training_codes,
    read_counts,
    write_counts,
)
from glotok_ray.evaluation.files import BASELINES
from glotok_ray.evaluation.plan import Block, plan
from tests.evaluation.tiny_inputs import POSITIONS, TOKENIZER, settings, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("evaluate"))


def test_baselines_draw_from_the_training_codes(inputs: Path, tmp_path: Path) -> None:
    config = settings(inputs, tmp_path)
    layout = CodeLayout.glotok(TOKENIZER)
    write_counts(tmp_path, count_training_codes(config, layout), layout)
    codes = read_counts(tmp_path, config, layout)
    blocks, _ = plan(config)

    def drawn(kind: str) -> np.ndarray:
        found = [codes.draw(block) for block in blocks if block.kind == kind]
        return np.concatenate(found, axis=1)

    visual, semantic = drawn("baseline_marginal")
    assert semantic.shape == (6, POSITIONS)
    assert (semantic == 3).all()
    np.testing.assert_array_equal(visual, np.tile(np.arange(POSITIONS), (6, 1)))
    assert len(np.unique(drawn("baseline_uniform")[0])) > 16
    for kind in BASELINES:
        np.testing.assert_array_equal(drawn(kind), codes.draw(Block(kind, 0, 6, 0)))
    other = BaselineCodes(codes.counts, seed=1).draw(Block("baseline_uniform", 0, 6, 0))
    assert (other != drawn("baseline_uniform")).any()
