"""The raw terms of a tokenizer's losses, by name, and what is read of a branch to compute them.

Read next: glotok_ray/losses/objective.py
"""

from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor


class Branch(Protocol):
    """What is read of one branch's output; nn/tokenizer.py: BranchOutput."""

    @property
    def latent(self) -> Tensor: ...
    @property
    def code_vectors(self) -> Tensor: ...
    @property
    def quantized(self) -> Tensor: ...
    @property
    def residual(self) -> Tensor: ...
    @property
    def codebook(self) -> Tensor: ...
    @property
    def prediction(self) -> Tensor | None: ...


class ImageSide(Protocol):
    """Raw image-side terms, scalars; `adversarial_scale` is 1 without adaptive weight, and 0 before the start."""

    @property
    def reconstruction(self) -> Tensor: ...
    @property
    def perceptual(self) -> Tensor: ...
    @property
    def adversarial(self) -> Tensor: ...
    @property
    def adversarial_scale(self) -> Tensor: ...


class LatentTerms(NamedTuple):
    """Raw terms that are functions of latents and codebooks, summed over the branches where each
    branch has one.
    """

    quantization: Float[Tensor, ""]
    residual: Float[Tensor, ""]
    relation: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    disentanglement: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]


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
    contrastive: Float[Tensor, ""]
    total: Float[Tensor, ""]
