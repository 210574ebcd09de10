"""The loss of a generator with true and with other labels: that of training, by hand, and alike in all batches."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config import FlowConfig
from glotok_ray.config.var import VARConfig
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.evaluation.generator_loss import (
    LOSS,
    SHUFFLED,
    UNLEARNED,
    Codes,
    FlowLoss,
    ScaleLoss,
    TokenLoss,
    other_labels,
)
from glotok_ray.evaluation.generator_metrics import generator_loss_metrics, loss_metrics
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.var import VAR
from glotok_ray.training.generator_step import FlowObjective, ScaleObjective, TokenObjective
from tests.evaluation.tiny_inputs import (
    TINY_FAR,
    TINY_XAR,
    TOKENIZER,
    random_generator,
    settings,
    write_inputs,
)
from tests.small_pyramid import TINY_BRANCHES, TINY_VAR, SmallPyramid

# An evaluation masks no inputs.
BRANCHES = dataclasses.replace(TINY_BRANCHES, input_masking=0.0)
LABELS = np.array([0, 1, 1, 0, 1], np.int32)


def tokenizer() -> GloTokTokenizer:
    torch.manual_seed(0)
    return GloTokTokenizer(TOKENIZER).requires_grad_(False).eval()


def codes(images: range = range(5)) -> Codes:
    """The same codes of an image in any batch."""
    grids = [
        torch.randint(32, (2, 4, 4), generator=torch.Generator().manual_seed(i)) for i in images
    ]
    return Codes(torch.stack(grids).unbind(1), LABELS[images.start : images.stop], images)


def engine_of(model: nn.Module):
    """What an objective needs of a training's engine."""

    class Engine:
        module = model

        def __call__(self, *inputs: Tensor) -> Tensor:
            return model(*inputs)

    return Engine()


def batch_of(drawn: Codes, labels: np.ndarray, image: int) -> dict[str, Tensor]:
    named = zip(TOKENIZER.names, drawn.grids, strict=True)
    batch = {name: grid[image : image + 1].flatten(1) for name, grid in named}
    return {**batch, "label": torch.from_numpy(labels[image : image + 1])}


def test_other_labels_are_never_the_own_and_every_other_one_alike() -> None:
    labels = np.arange(3000) % 4
    found = other_labels(labels, range(3000), 4, seed=0)
    assert (found != labels).all()
    counts = np.bincount(found[labels == 2], minlength=4)
    assert counts[2] == 0
    assert (np.abs(counts[[0, 1, 3]] - 250) < 60).all()
    np.testing.assert_array_equal(
        found[100:110], other_labels(labels[100:110], range(100, 110), 4, 0)
    )
    assert (found != other_labels(labels, range(3000), 4, seed=1)).any()


@pytest.mark.parametrize("context", ["random", "clean"])
@pytest.mark.parametrize("latent_space", ["codes", "codes_plus_residual"])
@torch.no_grad()
def test_the_loss_of_xar_is_that_of_its_training(context: str, latent_space: str) -> None:
    model, drawn = random_generator("xar", seed=0), codes()
    model.latent_scale.fill_(2.0)
    flow = FlowConfig(context=context, latent_space=latent_space, label_dropout=0.0)
    found = FlowLoss(model, tokenizer(), flow, num_draws=2, seed=7)(drawn)
    objective = FlowObjective(tokenizer(), model.latent_scale, TINY_XAR, flow)
    others = other_labels(LABELS, range(5), 2, seed=7)
    for name, labels in ((LOSS, LABELS), (SHUFFLED, others)):
        for image in range(5):
            terms = []
            for draw in range(2):
                key = int(seeded_generator("noise", 7, image, draw).integers(2**32))
                source = torch.Generator().manual_seed(key)
                batch = batch_of(drawn, labels, image)
                terms.append(objective(engine_of(model), batch, source)["flow_matching"].item())
            assert found[name][image] == pytest.approx(np.mean(terms), rel=1e-5)


@torch.no_grad()
def test_the_loss_of_far_is_that_of_its_training() -> None:
    model, drawn = random_generator("far", seed=0), codes()
    found = TokenLoss(model, tokenizer(), seed=7)(drawn)
    objective = TokenObjective(TINY_FAR, label_dropout=0.0)
    others = other_labels(LABELS, range(5), 2, seed=7)
    for name, labels in ((LOSS, LABELS), (SHUFFLED, others)):
        for image in range(5):
            batch = batch_of(drawn, labels, image)
            terms = objective(engine_of(model), batch, torch.Generator())
            assert found[name][image] == pytest.approx(terms["cross_entropy"].item(), rel=1e-5)
    np.testing.assert_allclose(found[UNLEARNED], math.log(32))


@pytest.mark.parametrize("size", [TINY_VAR, BRANCHES], ids=["one", "branches"])
@torch.no_grad()
def test_the_loss_of_var_is_that_of_its_training(size: VARConfig) -> None:
    torch.manual_seed(0)
    model, pyramid = VAR(size).eval(), SmallPyramid(size)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)

    class Scales:
        contribution = staticmethod(pyramid)

    sides = size.num_branches * size.scale_sides
    grids = [torch.randint(24, (5, side, side)) for side in sides]
    names = [f"grid_{place}" for place in range(len(sides))]
    found = ScaleLoss(model, Scales(), seed=7)(Codes(grids, LABELS, range(5)))
    objective = ScaleObjective(Scales(), size, names, label_dropout=0.0, total_steps=9)
    others = other_labels(LABELS, range(5), size.num_classes, seed=7)
    for name, labels in ((LOSS, LABELS), (SHUFFLED, others)):
        for image in range(5):
            own = slice(image, image + 1)
            codes_of = {n: grid[own].flatten(1) for n, grid in zip(names, grids, strict=True)}
            batch = {**codes_of, "label": torch.from_numpy(labels[own])}
            terms = objective(engine_of(model), batch, torch.Generator())
            assert found[name][image] == pytest.approx(terms["cross_entropy"].item(), rel=1e-5)
            if size.num_branches > 1:
                both = [terms[f"branch_{branch}_cross_entropy"].item() for branch in range(2)]
                assert both[0] != both[1]
                assert np.mean(both) == pytest.approx(terms["cross_entropy"].item(), rel=1e-5)
    assert (found[LOSS] != found[SHUFFLED]).all()
    np.testing.assert_allclose(found[UNLEARNED], math.log(24), rtol=1e-6)
    nn.init.zeros_(model.output.weight)
    nn.init.zeros_(model.output.bias)
    blind = ScaleLoss(model, Scales(), seed=7)(Codes(grids, LABELS, range(5)))
    np.testing.assert_allclose(blind[LOSS], blind[UNLEARNED], rtol=1e-6)


class Blind(nn.Module):
    """An xAR that answers with a constant velocity, whatever it sees."""

    def __init__(self, velocity: float) -> None:
        super().__init__()
        self.config, self.velocity = TINY_XAR, velocity
        self.register_buffer("latent_scale", torch.ones(8))

    def forward(self, noisy: Float[Tensor, "b n c"], times: Tensor, labels: Tensor) -> Tensor:
        return torch.full_like(noisy, self.velocity)


@torch.no_grad()
def test_a_model_that_ignores_labels_has_no_gap_and_one_that_learned_nothing_the_chance() -> None:
    nothing = FlowLoss(Blind(0.0), tokenizer(), FlowConfig(), num_draws=3, seed=0)(codes())
    np.testing.assert_allclose(nothing[LOSS], nothing[UNLEARNED])
    worse = FlowLoss(Blind(2.0), tokenizer(), FlowConfig(), num_draws=3, seed=0)(codes())
    np.testing.assert_array_equal(worse[LOSS], worse[SHUFFLED])
    np.testing.assert_allclose(worse[UNLEARNED], nothing[UNLEARNED])
    assert (worse[LOSS] > worse[UNLEARNED]).all()
    # The noise has the variance 1 and unit code vectors of four numbers, two codebooks, the second moment 1/4.
    assert nothing[UNLEARNED].mean() == pytest.approx(1.25, abs=0.15)


@pytest.mark.parametrize("kind", ["xar", "far"])
@torch.no_grad()
def test_batches_change_no_loss(kind: str) -> None:
    model = random_generator(kind, seed=0)
    loss = (
        FlowLoss(model, tokenizer(), FlowConfig(), num_draws=2, seed=1)
        if kind == "xar"
        else TokenLoss(model, tokenizer(), seed=1)
    )
    whole = loss(codes())
    parts = [loss(codes(images)) for images in (range(2), range(2, 5))]
    for name, values in whole.items():
        together = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(together, values, rtol=1e-5)


def test_metrics_are_means_with_standard_errors_chance_and_gap() -> None:
    arrays = {
        LOSS: np.array([1.0, 2.0, 3.0, 4.0]),
        SHUFFLED: np.array([1.5, 2.5, 3.5, 4.5]),
        UNLEARNED: np.full(4, 5.0),
    }
    flow, tokens = (
        loss_metrics(arrays, architecture, 4, chance)
        for architecture, chance in (("xar", 4.5), ("far", 5.0))
    )
    assert flow[LOSS]["value"] == 2.5
    assert flow[LOSS]["std"] == pytest.approx(np.sqrt(5 / 3) / 2)
    assert flow[SHUFFLED]["value"] == 3
    assert flow[LOSS]["chance"] == flow[SHUFFLED]["chance"] == 4.5
    assert flow[LOSS]["facts"]["chance_is"] == "the best linear guess"
    assert "would have 4.5, a velocity of zero 5." in flow[LOSS]["protocol"]
    assert "higher by 0.5 ± 0 per crop" in flow[SHUFFLED]["protocol"]
    assert "4 draws of noise and times" in flow[LOSS]["protocol"]
    assert flow[LOSS]["label"] == "Flow-matching loss"
    assert tokens[SHUFFLED]["label"] == "Cross-entropy of codes with shuffled labels"
    assert "equally likely would have 5" in tokens[LOSS]["protocol"]


@pytest.mark.parametrize(("architecture", "chance"), [("xar", 1.744), ("far", 2.003)])
def test_the_chance_of_a_finished_xar_is_that_of_the_best_linear_guess(
    tmp_path: Path, architecture: str, chance: float
) -> None:
    """Of latents whose mean square is 1.003, at the times of xAR's recipe."""
    inputs = write_inputs(tmp_path)
    config = settings(inputs, tmp_path, generator_path=str(inputs / architecture))
    arrays = {LOSS: np.ones(3), SHUFFLED: np.ones(3), UNLEARNED: np.full(3, 2.003)}
    for entry in generator_loss_metrics(arrays, config).values():
        assert entry["chance"] == pytest.approx(chance, abs=0.001)


def test_a_single_class_has_no_other_label() -> None:
    arrays = {LOSS: np.ones(3), SHUFFLED: np.full(3, np.nan), UNLEARNED: np.full(3, 2.0)}
    found = loss_metrics(arrays, "far", 1, 2.0)
    assert found[LOSS]["value"] == 1
    assert found[SHUFFLED]["value"] is None
    assert found[SHUFFLED]["protocol"].startswith("Undefined with a single class")
