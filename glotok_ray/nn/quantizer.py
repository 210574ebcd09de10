"""Look-up in one learnable codebook by cosine similarity (paper section 3.1), always in full precision.

Under bf16 about 7% of the tokens of a 16384 x 8 codebook would pick another code. L_Q is in losses/quantization.py.
Read next: glotok_ray/nn/residual.py
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.config import CodebookConfig

_TOKENS_PER_BLOCK = 4096


class Quantized(NamedTuple):
    """One map of tokens and what it was matched with; all vectors have unit length."""

    latent: Float[Tensor, "b d h w"]
    """The normalised input Z."""
    code_vectors: Float[Tensor, "b d h w"]
    """The codes Z-hat that were found; gradients reach the codebook."""
    quantized: Float[Tensor, "b d h w"]
    """Equal to `code_vectors`; gradients pass straight through to Z."""
    indices: Int[Tensor, "b h w"]
    """Rows of the codebook, int64."""
    unit_codebook: Float[Tensor, "n d"]
    """The normalised codebook; gradients reach the codebook."""


def full_precision(x: Tensor) -> Tensor:
    """fp32, or fp64 where it was fp64 already."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep the dtypes as they are; the meta device knows no autocast that could be switched off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@torch.no_grad()
def nearest_codes(z: Float[Tensor, "t d"], codebook: Float[Tensor, "n d"]) -> Int[Tensor, " t"]:
    """The row of the codebook with the highest cosine to each vector; neither needs to be
    normalised.

    On the unit sphere this is also the nearest one in Euclidean distance. A tie goes to any of the
    tied rows.
    """
    with without_autocast(z.device):
        codes = F.normalize(full_precision(codebook), dim=1).T
        blocks = full_precision(z).split(_TOKENS_PER_BLOCK)
        # The length of z does not change which code wins.
        return torch.cat([(block @ codes).argmax(dim=1) for block in blocks])


def straight_through(z: Float[Tensor, "..."], q: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Exactly the values of `q`, with the gradient handed to `z` unchanged."""
    return q.detach() + (z - z.detach())


class VectorQuantizer(nn.Module):
    """A codebook of unit directions; its rows stay unnormalised parameters."""

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        codes = torch.empty(config.size, config.width).uniform_(-1 / config.size, 1 / config.size)
        self.codebook = nn.Parameter(F.normalize(codes, dim=1))

    def forward(self, z: Float[Tensor, "b d h w"]) -> Quantized:
        """Match every position of an unnormalised map; the results are fp32, or fp64 for fp64
        input.
        """
        with without_autocast(z.device):
            latent = F.normalize(full_precision(z), dim=1)
            unit_codebook = F.normalize(full_precision(self.codebook), dim=1)
            tokens = latent.permute(0, 2, 3, 1)
            indices = nearest_codes(tokens.flatten(0, 2), unit_codebook).unflatten(
                0, tokens.shape[:3]
            )
            code_vectors = F.embedding(indices, unit_codebook).permute(0, 3, 1, 2)
            quantized = straight_through(latent, code_vectors)
        return Quantized(latent, code_vectors, quantized, indices, unit_codebook)

    def code_vectors(self, indices: Int[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """The unit code vectors of known indices."""
        unit_codebook = F.normalize(full_precision(self.codebook), dim=1)
        return F.embedding(indices, unit_codebook).permute(0, 3, 1, 2)
