"""The weighted sums: L_VQGAN (paper Eq. 3), GloTok's L (Eq. 13), the discriminator's. Only here do weights meet terms.

Image-side and latent-side terms are apart because the trainer differentiates the first at a detached image
(DECISIONS.md); `split gradient = direct gradient` is a test. A weight of 0 removes its term
from the sum; a term that is not finite still stops a training, whatever its weight.
Read next: glotok_ray/training/tokenizer_step.py
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.grad import conv2d_weight

from glotok_ray.config.losses import TokenizerLossConfig
from glotok_ray.losses import adversarial
from glotok_ray.losses.contrastive import contrastive_loss
from glotok_ray.losses.entropy import disentanglement_loss, entropy_loss
from glotok_ray.losses.pairs.passes import Sharing
from glotok_ray.losses.quantization import quantization_loss
from glotok_ray.losses.relation import codebook_histogram, relation_loss
from glotok_ray.losses.residual import residual_loss
from glotok_ray.losses.terms import Branch, ImageSide, LatentTerms, LossTerms

_LARGEST_SCALE = 1e4


def latent_terms(
    branches: Mapping[str, Branch],
    weights: TokenizerLossConfig,
    *,
    relation: Float[Tensor, ""],
    image_vectors: Mapping[str, Float[Tensor, "b c"]],
) -> LatentTerms:
    """The raw latent-side terms; `relation` is L_hist, `image_vectors` what the contrast heads should predict.

    FQGAN's three switches cost nothing while their weight is 0.
    """
    outputs = list(branches.values())
    zero = relation.new_zeros(())
    entropy = apart = contrastive = zero
    if weights.entropy_weight:
        entropy = _sum(_entropy(item, weights) for item in outputs)
    if weights.disentanglement_weight and len(outputs) > 1:
        pairs = itertools.combinations([item.quantized for item in outputs], 2)
        apart = torch.stack([disentanglement_loss(*pair) for pair in pairs]).mean()
    if image_vectors:
        contrastive = _sum(
            _contrastive(branches[name], target, weights) for name, target in image_vectors.items()
        )
    return LatentTerms(
        quantization=_sum(_quantization(item, weights) for item in outputs),
        residual=_sum(
            residual_loss(item.latent, item.code_vectors, item.residual) for item in outputs
        ),
        relation=relation,
        entropy=entropy,
        disentanglement=apart,
        contrastive=contrastive,
    )


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _quantization(branch: Branch, weights: TokenizerLossConfig) -> Tensor:
    return quantization_loss(
        branch.latent, branch.code_vectors, commitment_weight=weights.commitment_weight
    )


def _entropy(branch: Branch, weights: TokenizerLossConfig) -> Tensor:
    return entropy_loss(
        branch.latent,
        branch.codebook,
        temperature=weights.entropy_temperature,
        max_tokens=weights.entropy_tokens,
        epsilon=weights.entropy_epsilon,
        placing=weights.entropy_epsilon_placing,
    )


def _contrastive(branch: Branch, target: Tensor, weights: TokenizerLossConfig) -> Tensor:
    assert branch.prediction is not None  # a target is only made for a branch with a head
    return contrastive_loss(branch.prediction, target, temperature=weights.contrastive_temperature)


def relation_term(
    codebook: Float[Tensor, "n d"],
    teacher: Float[Tensor, " k"],
    weights: TokenizerLossConfig,
    sharing: Sharing | None = None,
) -> Float[Tensor, ""]:
    """L_hist of the whole codebook on every worker, each of which visits its share of the pairs; without gradient
    where its weight is 0.
    """
    relation = weights.relation
    with torch.set_grad_enabled(torch.is_grad_enabled() and weights.relation_weight > 0):
        student = codebook_histogram(codebook, relation, sharing)
        return relation_loss(student, teacher, reduction=relation.reduction)


def effective_weights(weights: TokenizerLossConfig, *, has_predictors: bool) -> TokenizerLossConfig:
    """The weights for a model: without residual predictors L_res is the quantization error under another name, which
    no weight may add to the sum.
    """
    return weights if has_predictors else dataclasses.replace(weights, residual_weight=0.0)


def adversarial_is_on(weights: TokenizerLossConfig, step: int) -> bool:
    """Whether L_G and the discriminator run at this optimizer step, 0-based."""
    return step >= weights.adversarial_start_step and weights.adversarial_weight > 0


def likelihood_loss(
    reconstruction: Float[Tensor, ""], perceptual: Float[Tensor, ""], weights: TokenizerLossConfig
) -> Float[Tensor, ""]:
    """VQGAN's L_nll, the part of Eq. 3 that compares two images: lambda_R L_R + lambda_P L_P."""
    return _weighted(weights.reconstruction_weight, reconstruction) + _weighted(
        weights.perceptual_weight, perceptual
    )


def image_loss(terms: ImageSide, weights: TokenizerLossConfig) -> Float[Tensor, ""]:
    """The image-side part of Eq. 3: L_nll + lambda_G s L_G, s the adaptive weight."""
    likelihood = likelihood_loss(terms.reconstruction, terms.perceptual, weights)
    return likelihood + _weighted(
        weights.adversarial_weight, terms.adversarial_scale * terms.adversarial
    )


def image_gradient(
    of_likelihood: Float[Tensor, "b 3 h w"],
    of_adversarial: Float[Tensor, "b 3 h w"],
    scale: Float[Tensor, ""],
    weights: TokenizerLossConfig,
) -> Float[Tensor, "b 3 h w"]:
    """The gradient of `image_loss` at the reconstruction, of those of L_nll and of L_G there."""
    return of_likelihood + weights.adversarial_weight * scale * of_adversarial


def discriminator_terms(
    real: Float[Tensor, "b 1 h w"],
    fake: Float[Tensor, "b 1 h w"],
    anchors: Float[Tensor, " 2"] | None,
    weights: TokenizerLossConfig,
) -> dict[str, Float[Tensor, ""]]:
    """The raw terms of the discriminator's turn; "lecam" where there are anchors."""
    # Logits that stay alike for real and fake say that the discriminator learns nothing.
    terms = {
        "discriminator": adversarial.discriminator_loss(real, fake, weights.adversarial_kind),
        "logits_real": real.mean(),
        "logits_fake": fake.mean(),
    }
    if anchors is not None:
        terms["lecam"] = adversarial.lecam_penalty(real, fake, anchors)
    return terms


def discriminator_total(
    terms: Mapping[str, Tensor], weights: TokenizerLossConfig
) -> Float[Tensor, ""]:
    """What the discriminator minimises, of its raw terms."""
    learned = terms["discriminator"]
    if "lecam" in terms:
        learned = learned + weights.lecam_weight * terms["lecam"]
    return weights.discriminator_loss_scale * learned


def latent_loss(terms: LatentTerms, weights: TokenizerLossConfig) -> Float[Tensor, ""]:
    """The rest of Eqs. 3 and 13, and the switches: everything that is not a function of the
    reconstruction.
    """
    return (
        _weighted(weights.quantization_weight, terms.quantization)
        + _weighted(weights.residual_weight, terms.residual)
        + _weighted(weights.relation_weight, terms.relation)
        + _weighted(weights.entropy_weight, terms.entropy)
        + _weighted(weights.disentanglement_weight, terms.disentanglement)
        + _weighted(weights.contrastive_weight, terms.contrastive)
    )


def vqgan_loss(
    image: ImageSide, latent: LatentTerms, weights: TokenizerLossConfig
) -> Float[Tensor, ""]:
    """Eq. 3: L_VQGAN = lambda_R L_R + lambda_Q L_Q + lambda_P L_P + lambda_G L_G."""
    return image_loss(image, weights) + _weighted(weights.quantization_weight, latent.quantization)


def glotok_loss(image: ImageSide, latent: LatentTerms, weights: TokenizerLossConfig) -> LossTerms:
    """Eq. 13: L = L_VQGAN + lambda_res L_res + lambda_hist L_hist, with all raw terms; plus the
    switches, 0 by default.
    """
    # Eq. 3's part of latent_loss is L_Q, which vqgan_loss holds already.
    rest = latent._replace(quantization=torch.zeros_like(latent.quantization))
    total = vqgan_loss(image, latent, weights) + latent_loss(rest, weights)
    return LossTerms(
        reconstruction=image.reconstruction,
        perceptual=image.perceptual,
        adversarial=image.adversarial,
        adversarial_scale=image.adversarial_scale,
        **latent._asdict(),
        total=total,
    )


def loss_terms(
    image: ImageSide, latent: LatentTerms, weights: TokenizerLossConfig
) -> dict[str, Tensor]:
    """`glotok_loss` by name, detached, for logging."""
    return {
        name: value.detach()
        for name, value in glotok_loss(image, latent, weights)._asdict().items()
    }


def adaptive_adversarial_weight(
    layer_input: Float[Tensor, "b c H W"],
    gradient_nll: Float[Tensor, "b 3 H W"],
    gradient_adversarial: Float[Tensor, "b 3 H W"],
    weight_shape: torch.Size,
    padding: int,
) -> Float[Tensor, ""]:
    """VQGAN's |grad L_nll| / (|grad L_G| + 1e-4) at the decoder's last convolution, at most 1e4,
    without gradient.

    Both gradients are given at the convolution's output, the image; its weight's gradients follow
    from them and its input.
    """
    layer_input = layer_input.detach()

    def norm(gradient: Tensor) -> Tensor:
        at_output = gradient.to(layer_input.dtype)
        return conv2d_weight(layer_input, weight_shape, at_output, padding=padding).float().norm()

    return (
        (norm(gradient_nll) / (norm(gradient_adversarial) + 1e-4)).clamp(0, _LARGEST_SCALE).detach()
    )


def _weighted(weight: float, term: Tensor) -> Tensor:
    # A product with 0 would still carry a NaN of a term that is switched off.
    return weight * term if weight else torch.zeros_like(term)
