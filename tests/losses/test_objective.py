"""Eqs. 3 and 13 as sums of raw terms, the split used by the trainer, and the adaptive adversarial
weight.
"""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from glotok_ray.config import (
    CodebookConfig,
    DiscriminatorConfig,
    RelationConfig,
    TokenizerLossConfig,
)
from glotok_ray.losses.adversarial import generator_hinge_loss
from glotok_ray.losses.entropy import disentanglement_loss, entropy_loss
from glotok_ray.losses.objective import (
    adaptive_adversarial_weight,
    adversarial_is_on,
    discriminator_terms,
    discriminator_total,
    effective_weights,
    glotok_loss,
    image_gradient,
    image_loss,
    latent_loss,
    latent_terms,
    likelihood_loss,
    loss_terms,
    relation_term,
    vqgan_loss,
)
from glotok_ray.losses.reconstruction import reconstruction_loss
from glotok_ray.losses.relation import codebook_histogram, relation_loss
from glotok_ray.losses.terms import LatentTerms, LossTerms
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer, TokenizerOutput
from tests.small_models import ImageTerms, tiny_tokenizer

RELATION = RelationConfig(num_bins=10)
WEIGHTS = TokenizerLossConfig(
    reconstruction_weight=2.0,
    quantization_weight=3.0,
    perceptual_weight=5.0,
    adversarial_weight=7.0,
    residual_weight=11.0,
    relation_weight=13.0,
    entropy_weight=17.0,
    disentanglement_weight=19.0,
    contrastive_weight=23.0,
    relation=RELATION,
)
NAMES = (
    "reconstruction",
    "perceptual",
    "adversarial",
    "quantization",
    "residual",
    "relation",
    "entropy",
    "disentanglement",
    "contrastive",
)


def scalars(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, requires_grad=True) for value in values]


def terms() -> tuple[ImageTerms, LatentTerms]:
    return ImageTerms(*scalars(0.1, 0.2, 0.3, 0.5)), LatentTerms(
        *scalars(0.7, 1.1, 1.3, 1.7, 1.9, 2.3)
    )


def test_eq_3_and_eq_13_are_weighted_sums_of_the_raw_terms():
    image, latent = terms()
    vqgan = 2 * 0.1 + 3 * 0.7 + 5 * 0.2 + 7 * 0.5 * 0.3
    assert vqgan_loss(image, latent, WEIGHTS).item() == pytest.approx(vqgan)
    whole = glotok_loss(image, latent, WEIGHTS)
    assert whole.total.item() == pytest.approx(
        vqgan + 11 * 1.1 + 13 * 1.3 + 17 * 1.7 + 19 * 1.9 + 23 * 2.3
    )
    assert (whole.perceptual.item(), whole.residual.item()) == pytest.approx((0.2, 1.1))


def test_the_two_sides_add_up_to_the_whole():
    image, latent = terms()
    parts = image_loss(image, WEIGHTS) + latent_loss(latent, WEIGHTS)
    torch.testing.assert_close(parts, glotok_loss(image, latent, WEIGHTS).total)


def test_logged_terms_are_named_and_detached():
    logged = loss_terms(*terms(), WEIGHTS)
    assert tuple(logged) == LossTerms._fields
    assert not any(value.requires_grad for value in logged.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zero_removes_the_term_and_its_gradient(name):
    image, latent = terms()
    switched_off = dataclasses.replace(WEIGHTS, **{f"{name}_weight": 0.0})
    side = image if name in ImageTerms._fields else latent
    term = getattr(side, name)
    difference = (
        glotok_loss(image, latent, WEIGHTS).total - glotok_loss(image, latent, switched_off).total
    )
    scale = 0.5 if name == "adversarial" else 1.0
    assert difference.item() == pytest.approx(
        getattr(WEIGHTS, f"{name}_weight") * scale * term.item(), rel=1e-4
    )
    glotok_loss(image, latent, switched_off).total.backward()
    assert term.grad is None
    broken = side._replace(**{name: torch.tensor(math.nan)})
    image, latent = (broken, latent) if side is image else (image, broken)
    assert torch.isfinite(glotok_loss(image, latent, switched_off).total)


SMALL = tiny_tokenizer(
    CodebookConfig(name="visual", size=24, width=4),
    CodebookConfig(name="semantic", size=24, width=4),
    image_size=32,
    channel_multipliers=(1, 2),
)


class Blur(nn.Module):
    """A distance that is not the pixel loss; stands for L_P, whose networks are tested in tests/nn."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (F.avg_pool2d(x, 4) - F.avg_pool2d(y, 4)).abs().mean()


class Scene:
    """A small tokenizer in fp64, a discriminator and a batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = GloTokTokenizer(SMALL).double()
        self.discriminator = PatchDiscriminator(
            DiscriminatorConfig(base_channels=4, num_layers=2)
        ).double()
        self.discriminator.requires_grad_(False)
        self.images = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
        self.teacher = codebook_histogram(torch.randn(24, 4).double() + 0.5, RELATION)

    def latent_terms(
        self, output: TokenizerOutput, weights: TokenizerLossConfig = WEIGHTS
    ) -> LatentTerms:
        relation = self.relation(self.model.quantizer("semantic").codebook)
        return latent_terms(output.branches, weights, relation=relation, image_vectors={})

    def relation(self, codebook: torch.Tensor) -> torch.Tensor:
        return relation_loss(codebook_histogram(codebook, RELATION), self.teacher, reduction="sum")

    def image_terms(self, reconstruction: torch.Tensor) -> ImageTerms:
        return ImageTerms(
            reconstruction_loss(self.images, reconstruction),
            Blur()(self.images, reconstruction),
            generator_hinge_loss(self.discriminator(reconstruction)),
            torch.tensor(0.25, dtype=torch.float64),
        )

    def gradients(self) -> dict[str, torch.Tensor]:
        found = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad(set_to_none=True)
        return found


def test_the_split_gradient_equals_the_direct_gradient():
    scene = Scene()
    output = scene.model(scene.images)
    direct = glotok_loss(
        scene.image_terms(output.reconstruction), scene.latent_terms(output), WEIGHTS
    )
    direct.total.backward()
    expected = scene.gradients()

    output = scene.model(scene.images)
    leaf = output.reconstruction.detach().requires_grad_()
    (at_image,) = torch.autograd.grad(image_loss(scene.image_terms(leaf), WEIGHTS), leaf)
    latent_side = latent_loss(scene.latent_terms(output), WEIGHTS)
    ((output.reconstruction * at_image).sum() + latent_side).backward()
    split = scene.gradients()

    assert split.keys() == expected.keys() == dict(scene.model.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-6, atol=1e-10, msg=name)


def test_the_codebook_gathered_in_the_forward_pass_serves_the_relation_loss_alike():
    scene = Scene()
    output = scene.model(scene.images)
    codebook = scene.model.quantizer("semantic").codebook
    codebook.data *= 1.7  # as after training: rows are not of unit length
    output = scene.model(scene.images)
    gradients = []
    for source in (codebook, output.branches["semantic"].codebook):
        loss = scene.relation(source)
        gradients.append(torch.autograd.grad(loss, codebook, retain_graph=True)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_quantization_and_residual_are_summed_over_branches():
    scene = Scene()
    output = scene.model(scene.images)
    latent = scene.latent_terms(output)
    errors = [F.mse_loss(b.latent, b.code_vectors) for b in output.branches.values()]
    torch.testing.assert_close(latent.quantization, 1.25 * (errors[0] + errors[1]))
    torch.testing.assert_close(
        latent.residual, errors[0] + errors[1]
    )  # the residual starts at zero


def test_switches_are_not_computed_while_off():
    scene = Scene()
    output = scene.model(scene.images)
    latent = scene.latent_terms(output, TokenizerLossConfig(relation=RELATION))
    assert (latent.entropy.item(), latent.disentanglement.item()) == (0.0, 0.0)
    latent = scene.latent_terms(output)
    assert latent.entropy.item() < 0 < latent.disentanglement.item()


def test_entropy_is_lowest_for_sure_and_even_use():
    compass = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    even = compass.T.reshape(1, 2, 2, 2)
    one_code = compass[:1].expand(4, 2).T.reshape(1, 2, 2, 2)
    assert float(entropy_loss(even, compass, temperature=0.01)) == pytest.approx(
        -math.log(4), abs=1e-5
    )
    assert float(entropy_loss(one_code, compass, temperature=0.01)) == pytest.approx(0, abs=1e-5)
    assert float(entropy_loss(even, compass, temperature=1e6)) == pytest.approx(0, abs=1e-5)


def test_disentanglement_is_the_mean_squared_cosine():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    y = torch.tensor([[3.0, 1.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    assert float(disentanglement_loss(x, y)) == pytest.approx((1 + 0.5) / 2)


def test_adaptive_weight_equals_the_ratio_of_gradient_norms_at_the_last_layer():
    scene = Scene()
    output = scene.model(scene.images)
    weight = scene.model.decoder_last_layer.weight
    image = scene.image_terms(output.reconstruction)
    nll = image.reconstruction + image.perceptual
    norms = [
        torch.autograd.grad(loss, weight, retain_graph=True)[0].norm()
        for loss in (nll, image.adversarial)
    ]
    leaf = output.reconstruction.detach().requires_grad_()
    at_leaf = scene.image_terms(leaf)
    (nll_gradient,) = torch.autograd.grad(at_leaf.reconstruction + at_leaf.perceptual, leaf)
    (adversarial_gradient,) = torch.autograd.grad(at_leaf.adversarial, leaf)
    scale = adaptive_adversarial_weight(
        output.last_layer_input, nll_gradient, adversarial_gradient, weight.shape, padding=1
    )
    assert scale.item() == pytest.approx(float(norms[0] / (norms[1] + 1e-4)), rel=1e-5)
    assert not scale.requires_grad


def test_adaptive_weight_is_bounded():
    x, gradient = torch.ones(1, 4, 8, 8), torch.ones(1, 3, 8, 8)
    shape = torch.Size((3, 4, 3, 3))
    assert (
        adaptive_adversarial_weight(x, gradient * 1e9, gradient * 0, shape, padding=1).item() == 1e4
    )
    assert adaptive_adversarial_weight(x, gradient * 0, gradient, shape, padding=1).item() == 0


def test_the_entropy_of_few_tokens_is_that_of_an_evenly_spaced_part():
    latent = torch.nn.functional.normalize(torch.randn(2, 4, 8, 8), dim=1)
    codebook = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    tokens = latent.permute(0, 2, 3, 1).reshape(-1, 4)[::5]
    part = entropy_loss(tokens.T.reshape(1, 4, 1, -1), codebook, temperature=0.1)
    torch.testing.assert_close(entropy_loss(latent, codebook, temperature=0.1, max_tokens=32), part)
    whole = entropy_loss(latent, codebook, temperature=0.1)
    torch.testing.assert_close(
        entropy_loss(latent, codebook, temperature=0.1, max_tokens=128), whole
    )


def test_the_epsilon_of_the_entropy_is_a_floor_or_added_as_fqgan_does():
    """Mean probabilities (1 - q, q) of one-hot-like assignments, so that the entropy of each token vanishes."""
    codebook = torch.eye(2, dtype=torch.float64)
    tokens = codebook[[0, 0, 0, 1]]
    latent = tokens.T.reshape(1, 2, 1, 4)
    p = torch.tensor([0.75, 0.25], dtype=torch.float64)
    for epsilon in (1e-20, 1e-5, 0.3):
        for placing, kept in (("floor", p.clamp_min(epsilon)), ("added", p + epsilon)):
            found = entropy_loss(
                latent, codebook, temperature=0.01, epsilon=epsilon, placing=placing
            )
            assert float(found) == pytest.approx(float((p * kept.log()).sum()), abs=1e-12)


def test_the_peers_epsilon_moves_the_gradient_at_their_codebooks_size():
    torch.manual_seed(0)
    codebook = F.normalize(torch.randn(16384, 8), dim=1)
    latent = F.normalize(torch.randn(1, 8, 16, 16), dim=1)

    def gradient(**options) -> torch.Tensor:
        leaf = latent.clone().requires_grad_()
        entropy_loss(leaf, codebook, temperature=0.01, **options).backward()
        return leaf.grad

    ours = gradient()
    peers = gradient(epsilon=1e-5, placing="added")
    assert torch.equal(ours, gradient(epsilon=1e-20, placing="floor"))
    assert float((peers - ours).norm() / ours.norm()) > 0.02


def test_a_step_takes_the_epsilon_of_its_config():
    weights = dataclasses.replace(
        WEIGHTS, entropy_weight=1.0, entropy_epsilon=0.3, entropy_epsilon_placing="added"
    )
    model = GloTokTokenizer(SMALL)
    branches = model(torch.rand(2, 3, 32, 32) * 2 - 1).branches
    zero = torch.zeros(())
    found = latent_terms(branches, weights, relation=zero, image_vectors={}).entropy
    expected = sum(
        entropy_loss(item.latent, item.codebook, temperature=0.01, epsilon=0.3, placing="added")
        for item in branches.values()
    )
    torch.testing.assert_close(found, expected)


def test_the_gradient_of_the_image_side_is_the_weighted_sum_of_its_parts() -> None:
    leaf = torch.randn(2, 3, 4, 4, requires_grad=True)
    pixel, perceptual, game = leaf.square().mean(), leaf.abs().mean(), leaf.pow(3).mean()
    scale = torch.tensor(0.3)
    terms = ImageTerms(pixel, perceptual, game, scale)
    (expected,) = torch.autograd.grad(image_loss(terms, WEIGHTS), leaf, retain_graph=True)
    likelihood = likelihood_loss(pixel, perceptual, WEIGHTS)
    parts = [torch.autograd.grad(part, leaf)[0] for part in (likelihood, game)]
    torch.testing.assert_close(image_gradient(*parts, scale, WEIGHTS), expected)


def test_the_discriminator_learns_the_scaled_sum_of_its_loss_and_lecam() -> None:
    weights = dataclasses.replace(WEIGHTS, discriminator_loss_scale=0.5, lecam_weight=0.1)
    real, fake = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    alone = discriminator_terms(real, fake, None, weights)
    assert set(alone) == {"discriminator", "logits_real", "logits_fake"}
    torch.testing.assert_close(discriminator_total(alone, weights), 0.5 * alone["discriminator"])
    terms = discriminator_terms(real, fake, torch.tensor([0.2, -0.2]), weights)
    assert terms["lecam"] > 0
    torch.testing.assert_close(
        discriminator_total(terms, weights), 0.5 * (terms["discriminator"] + 0.1 * terms["lecam"])
    )


def test_the_game_begins_at_its_step_and_never_without_weight() -> None:
    weights = dataclasses.replace(WEIGHTS, adversarial_start_step=3)
    assert [adversarial_is_on(weights, step) for step in (2, 3, 4)] == [False, True, True]
    assert not adversarial_is_on(dataclasses.replace(weights, adversarial_weight=0.0), 4)


def test_without_predictors_the_residual_has_no_weight() -> None:
    assert effective_weights(WEIGHTS, has_predictors=True) == WEIGHTS
    assert effective_weights(WEIGHTS, has_predictors=False).residual_weight == 0


def test_the_relation_carries_a_gradient_only_where_it_has_a_weight() -> None:
    codebook, teacher = torch.randn(20, 4, requires_grad=True), torch.full((10,), 0.1)
    assert relation_term(codebook, teacher, WEIGHTS).requires_grad
    off = dataclasses.replace(WEIGHTS, relation_weight=0.0)
    value = relation_term(codebook, teacher, off)
    assert not value.requires_grad
    torch.testing.assert_close(value, relation_term(codebook, teacher, WEIGHTS).detach())
