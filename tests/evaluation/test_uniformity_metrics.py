"""Table 3 before and behind the residual predictor: the same tokens, what is added, and what the entries say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from glotok_ray.config import EvaluateRun
from glotok_ray.evaluation.uniformity_metrics import (
    RefinedDraw,
    drawn_uniformity,
    refined_vectors,
    tsne_draw,
)
from glotok_ray.metrics.uniformity import Uniformity
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage import artefact
from tests.evaluation.tiny_inputs import TOKENIZER


@pytest.fixture
def tokenizer(tmp_path: Path) -> GloTokTokenizer:
    """With residual predictors that predict something, stored in `tmp_path`."""
    torch.manual_seed(0)
    model = GloTokTokenizer(TOKENIZER).requires_grad_(False).eval()
    for branch in model.branches.values():
        nn.init.normal_(branch.residual.contract.weight)
    model.save_pretrained(tmp_path)
    artefact.write_manifest(tmp_path, "tokenizer")
    return model


def test_refined_vectors_are_codes_and_residuals_of_whole_images(
    tokenizer: GloTokTokenizer, tmp_path: Path
) -> None:
    codes = np.random.default_rng(0).integers(32, size=(70, 16)).astype(np.uint16)
    positions = np.arange(70) % 16
    found = refined_vectors(RefinedDraw(str(tmp_path), "semantic", codes, positions))
    grids = torch.from_numpy(codes.astype(np.int64)).unflatten(1, (4, 4))
    latents = tokenizer.latents(torch.stack([grids, grids], dim=1), refine=True)
    width = TOKENIZER.codebooks[0].width
    every = latents[:, width:].flatten(2).transpose(1, 2).double().numpy()
    tokens = every.reshape(-1, every.shape[-1])
    expected = (every[np.arange(70), positions] - tokens.mean(0)) / tokens.std(0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_both_measures_are_of_the_same_tokens(tokenizer: GloTokTokenizer, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(32, size=(30, 16)).astype(np.uint16)
    config = EvaluateRun(tokenizer_path=str(tmp_path), uniformity_vectors=20, uniformity_repeats=2)
    asked = []

    def answers(draws):
        asked.extend(draws)
        return [Uniformity(0.1 * place, 0.9, 0.2) for place in range(len(draws))]

    found = drawn_uniformity(tokenizer, [codes[:9], codes[9:]], config, answers, "")
    assert found["semantic_tsne_density_cv"]["value"] == pytest.approx(0.05)
    assert found["semantic_tsne_refined_density_cv"]["value"] == pytest.approx(0.25)
    assert found["semantic_tsne_refined_gini"]["std"] == pytest.approx(0)
    assert "before the residual predictor" in found["semantic_tsne_gini"]["protocol"]
    refined = found["semantic_tsne_refined_gini"]
    assert (
        "20 quantized semantic vectors to which the predicted residual is added"
        in refined["protocol"]
    )
    before, behind = asked[:2], asked[2:]
    vectors = tokenizer.quantizer("semantic").matched_codes().double().numpy()
    tokens = vectors[codes.reshape(-1)]
    for drawn, draw in zip(before, behind, strict=True):
        own = vectors[draw.codes[np.arange(20), draw.positions]]
        np.testing.assert_allclose(drawn, (own - tokens.mean(0)) / tokens.std(0))


def test_without_residual_predictors_there_is_nothing_behind_them(tmp_path: Path) -> None:
    without = replace(TOKENIZER, residual=replace(TOKENIZER.residual, enabled=False))
    model = GloTokTokenizer(without).requires_grad_(False)
    config = EvaluateRun(tokenizer_path=str(tmp_path), uniformity_repeats=1)
    codes = np.zeros((5, 16), np.uint16)
    found = drawn_uniformity(model, [codes], config, lambda draws: ["collapsed"] * len(draws), "")
    assert not [name for name in found if "refined" in name]
    assert "undefined here (collapsed" in found["semantic_tsne_gini"]["protocol"]


def test_a_reason_stands_in_both_and_nothing_is_drawn(tokenizer: GloTokTokenizer) -> None:
    def no_draws(draws):
        raise AssertionError(draws)

    codes = np.zeros((5, 16), np.uint16)
    found = drawn_uniformity(tokenizer, [codes], EvaluateRun(), no_draws, "a row is zero")
    assert len(found) == 6
    assert all("a row is zero" in entry["protocol"] for entry in found.values())


def test_a_draw_behind_the_residual_is_measured_or_says_why_not(
    tokenizer: GloTokTokenizer, tmp_path: Path
) -> None:
    same = np.zeros((8, 16), np.uint16)
    answer = tsne_draw(RefinedDraw(str(tmp_path), "semantic", same, np.zeros(8, int)))
    assert isinstance(answer, str)
    assert "distinct vectors" in answer
