"""Images of one codebook alone: what is zeroed, what stays, and how they are scored."""

import numpy as np
import pytest
import torch
from torch import nn

from glotok_ray.evaluation.metrics import retention_metrics
from glotok_ray.evaluation.retention import decoded_alone, retention_names
from glotok_ray.nn.tokenizer import GloTokTokenizer
from tests.small_models import VISUAL, tiny_tokenizer


def tokenizer_and_codes() -> tuple[GloTokTokenizer, torch.Tensor]:
    torch.manual_seed(0)
    tokenizer = GloTokTokenizer(tiny_tokenizer()).requires_grad_(False).eval()
    for branch in tokenizer.branches.values():
        nn.init.normal_(branch.residual.contract.weight)  # at zero it would predict nothing
    return tokenizer, torch.randint(16, (2, 2, 4, 4))


def test_the_other_branch_enters_the_decoder_as_zeros_and_the_own_one_refined() -> None:
    tokenizer, codes = tokenizer_and_codes()
    found = decoded_alone(tokenizer, codes)
    assert list(found) == ["visual", "semantic"]
    for place, (name, kept) in enumerate((("visual", slice(0, 4)), ("semantic", slice(4, 8)))):
        quantizer = tokenizer.quantizer(name)
        vectors = quantizer.code_vectors(codes[:, place])
        latents = torch.zeros(2, 8, 4, 4)
        latents[:, kept] = vectors + tokenizer.branches[name].predicted_residual(vectors)
        expected = tokenizer.decode_latents(latents, refine=False)
        torch.testing.assert_close(found[name], expected)
        assert not torch.allclose(found[name], tokenizer.images_of(codes))


def test_codes_of_the_other_branch_change_nothing() -> None:
    tokenizer, codes = tokenizer_and_codes()
    other = codes.clone()
    other[:, 1] = (other[:, 1] + 1) % 16
    first, second = decoded_alone(tokenizer, codes), decoded_alone(tokenizer, other)
    assert torch.equal(first["visual"], second["visual"])
    assert not torch.equal(first["semantic"], second["semantic"])


def test_a_single_codebook_has_none() -> None:
    assert retention_names(GloTokTokenizer(tiny_tokenizer())) == ("visual", "semantic")
    single = GloTokTokenizer(tiny_tokenizer(VISUAL))
    assert retention_names(single) == ()
    assert decoded_alone(single, torch.zeros(1, 1, 4, 4, dtype=torch.long)) == {}


def test_scores_are_means_over_crops() -> None:
    scores = {"retention_visual_psnr": np.array([20.0, 22.0, np.inf])}
    found = retention_metrics(scores, ["visual"])
    assert list(found) == ["retention_visual_psnr"]
    entry = found["retention_visual_psnr"]
    assert (entry["value"], entry["std"]) == (pytest.approx(21), pytest.approx(1))
    for part in ("3 validation crops", "visual codes alone", "set to 0", "1 identical pairs"):
        assert part in entry["protocol"]
