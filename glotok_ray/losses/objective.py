"""The weighted sums: L_VQGAN (paper Eq. 3) and GloTok's L (Eq. 13). The only place where weights meet terms.

Image-side and latent-side terms are apart because the trainer differentiates the first at a detached image
(DECISIONS.md); `split gradient = direct gradient` is a test. A weight of 0 removes its term.
Read next: glotok_ray/training/step.py
"""

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.grad import conv2d_weight

from glotok_ray.config import TokenizerLossConfig
from glotok_ray.losses.entropy import disentanglement_loss, entropy_loss
from glotok_ray.losses.quantization import quantization_loss
from glotok_ray.losses.residual import residual_loss

_LARGEST_SCALE = 1e4


class Branch(Protocol):
    """What is read of one branch's output; nn/tokenizer.py: BranchOutput."""

    @property
    def latent(self) -> Tensor: ...
    @property
    def code_vectors(self) -> Tensor: ...
    @property
    def residual(self) -> Tensor: ...
    @property
    def unit_codebook(self) -> Tensor: ...


class Output(Protocol):
    """What is read of a forward pass; nn/tokenizer.py: TokenizerOutput."""

    @property
    def semantic(self) -> Any: ...
    @property
    def visual(self) -> Any: ...


class ImageSide(Protocol):
    """The raw image-side terms; `ImageTerms`, or the trainer's own record of them."""

    @property
    def reconstruction(self) -> Tensor: ...
    @property
    def perceptual(self) -> Tensor: ...
    @property
    def adversarial(self) -> Tensor: ...
    @property
    def adversarial_scale(self) -> Tensor: ...


class ImageTerms(NamedTuple):
    """Raw terms that are functions of the reconstruction."""

    reconstruction: Float[Tensor, ""]
    perceptual: Float[Tensor, ""]
    adversarial: Float[Tensor, ""]
    adversarial_scale: Float[Tensor, ""]
    """The adaptive weight; 1 where it is off, 0 before the discriminator's start."""


class LatentTerms(NamedTuple):
    """Raw terms that are functions of latents and codebooks, summed over the branches where each
    branch has one.
    """

    quantization: Float[Tensor, ""]
    residual: Float[Tensor, ""]
    relation: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    disentanglement: Float[Tensor, ""]


class LossTerms(NamedTuple):
    """All raw terms and their weighted sum."""

    reconstruction: Float[Tensor, ""]
    perceptual: Float[Tensor, ""]
    adversarial: Float[Tensor, ""]
    adversarial_scale: Float[Tensor, ""]
    quantization: Float[Tensor, ""]
    residual: Float[Tensor, ""]
    relation: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    disentanglement: Float[Tensor, ""]
    total: Float[Tensor, ""]


def latent_terms(
    output: Output, relation: Float[Tensor, ""], weights: TokenizerLossConfig
) -> LatentTerms:
    """The raw latent-side terms, `relation` being L_hist; the two switches of FQGAN cost nothing while
    their weight is 0.
    """
    branches: tuple[Branch, Branch] = (output.semantic, output.visual)
    quantization, residual = (
        torch.stack(terms).sum()
        for terms in zip(*(_branch_terms(branch, weights) for branch in branches), strict=True)
    )
    zero = quantization.new_zeros(())
    entropy = zero
    if weights.entropy_weight:
        temperature = weights.entropy_temperature
        parts = [
            entropy_loss(
                item.latent,
                item.unit_codebook,
                temperature=temperature,
                max_tokens=weights.entropy_tokens,
            )
            for item in branches
        ]
        entropy = torch.stack(parts).sum()
    apart = zero
    if weights.disentanglement_weight:
        apart = disentanglement_loss(output.visual.quantized, output.semantic.quantized)
    return LatentTerms(quantization, residual, relation, entropy, apart)


def _branch_terms(branch: Branch, weights: TokenizerLossConfig) -> tuple[Tensor, Tensor]:
    quantization = quantization_loss(
        branch.latent, branch.code_vectors, commitment_weight=weights.commitment_weight
    )
    return quantization, residual_loss(branch.latent, branch.code_vectors, branch.residual)


def image_loss(terms: ImageSide, weights: TokenizerLossConfig) -> Float[Tensor, ""]:
    """The image-side part of Eq. 3: lambda_R L_R + lambda_P L_P + lambda_G s L_G, s the adaptive
    weight.
    """
    return (
        _weighted(weights.reconstruction_weight, terms.reconstruction)
        + _weighted(weights.perceptual_weight, terms.perceptual)
        + _weighted(weights.adversarial_weight, terms.adversarial_scale * terms.adversarial)
    )


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
    total = (
        vqgan_loss(image, latent, weights)
        + _weighted(weights.residual_weight, latent.residual)
        + _weighted(weights.relation_weight, latent.relation)
        + _weighted(weights.entropy_weight, latent.entropy)
        + _weighted(weights.disentanglement_weight, latent.disentanglement)
    )
    return LossTerms(
        reconstruction=image.reconstruction,
        perceptual=image.perceptual,
        adversarial=image.adversarial,
        adversarial_scale=image.adversarial_scale,
        quantization=latent.quantization,
        residual=latent.residual,
        relation=latent.relation,
        entropy=latent.entropy,
        disentanglement=latent.disentanglement,
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
