"""Look-up in one learnable codebook (paper section 3.1), by cosine or as VQGAN does, always in full precision.

Under bf16 about 7% of the tokens of a 16384 x 8 codebook would pick another code. L_Q is in losses/quantization.py.
Read next: glotok_ray/nn/residual.py
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.config.tokenizer import CodebookConfig
from glotok_ray.nn.blocks import without_autocast

_TOKENS_PER_BLOCK = 4096

Lookup = Literal["cosine", "euclidean"]
NO_CODE = -1
"""In the place of an index where a vector is not finite and has no nearest code: argmax would answer with a plausible
one.
"""


class Quantized(NamedTuple):
    """One map of tokens and what it was matched with; with cosine look-up all vectors have unit length."""

    latent: Float[Tensor, "b d h w"]
    """The input Z, normalised for cosine look-up."""
    code_vectors: Float[Tensor, "b d h w"]
    """The codes Z-hat that were found; gradients reach the codebook."""
    quantized: Float[Tensor, "b d h w"]
    """Equal to `code_vectors`; gradients pass straight through to Z."""
    indices: Int[Tensor, "b h w"]
    """Rows of the codebook, int64."""
    codebook: Float[Tensor, "n d"]
    """All codes as they were matched; gradients reach the codebook."""


def full_precision(x: Tensor) -> Tensor:
    """fp32, or fp64 where it was fp64 already."""
    return x if x.dtype == torch.float64 else x.float()


@torch.no_grad()
def nearest_codes(
    z: Float[Tensor, "t d"], codebook: Float[Tensor, "n d"], lookup: Lookup = "cosine"
) -> Int[Tensor, " t"]:
    """The row of the codebook nearest to each vector: of the highest cosine, where neither needs to be
    normalised, or of the least Euclidean distance.

    A tie goes to any of the tied rows.
    """
    with without_autocast(z.device):
        codes = full_precision(codebook)
        if lookup == "cosine":
            codes = F.normalize(codes, dim=1)
        # |z - c|^2 / 2 is |c|^2 / 2 - z c and a number that no code changes; unit codes share |c|.
        handicap = codes.square().sum(dim=1) / 2 if lookup == "euclidean" else 0.0
        blocks = full_precision(z).split(_TOKENS_PER_BLOCK)
        return torch.cat([(block @ codes.T - handicap).argmax(dim=1) for block in blocks])


def straight_through(z: Float[Tensor, "..."], q: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Exactly the values of `q`, with the gradient handed to `z` unchanged."""
    return q.detach() + (z - z.detach())


class VectorQuantizer(nn.Module):
    """A codebook; with cosine look-up its rows are directions, kept as unnormalised parameters."""

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.lookup: Lookup = config.lookup
        codes = torch.empty(config.size, config.width).uniform_(-1 / config.size, 1 / config.size)
        self.codebook = nn.Parameter(self.matched(codes))

    def matched(self, vectors: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Vectors as the look-up compares them, along the axis 1: of unit length for cosine look-up, by their cosine;
        as they are for Euclidean look-up, by their distance. A copy; zero vectors stay zero.
        """
        # A copy: ZeRO 3 takes the parameter itself away after the pass, and losses read the codebook later.
        return F.normalize(vectors, dim=1) if self.lookup == "cosine" else vectors.clone()

    def forward(self, z: Float[Tensor, "b d h w"]) -> Quantized:
        """Match every position of a map; the results are fp32, or fp64 for fp64 input."""
        with without_autocast(z.device):
            latent = self.matched(full_precision(z))
            codebook = self.matched_codes()
            tokens = latent.permute(0, 2, 3, 1)
            indices = nearest_codes(tokens.flatten(0, 2), codebook, self.lookup)
            indices = indices.unflatten(0, tokens.shape[:3])
            code_vectors = F.embedding(indices, codebook).permute(0, 3, 1, 2)
            quantized = straight_through(latent, code_vectors)
        return Quantized(latent, code_vectors, quantized, indices, codebook)

    @torch.no_grad()
    def find(self, z: Float[Tensor, "b d h w"]) -> Int[Tensor, "b h w"]:
        """The indices that `forward` finds, and NO_CODE where there is none; the host does not wait for them."""
        with without_autocast(z.device):
            # Of a vector that is not finite, or whose length overflows, this is not finite either.
            length = full_precision(z).square().sum(dim=1)
            codebook = full_precision(self.codebook).square().sum()
            sound = torch.isfinite(length) & torch.isfinite(codebook)
            return torch.where(sound, self(z).indices, NO_CODE)

    def code_vectors(self, indices: Int[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """The code vectors of known indices, as they were matched; NaN where there is no such code, which the host need
        not wait for.
        """
        codebook = self.matched_codes()
        known = (indices >= 0) & (indices < len(codebook))
        vectors = F.embedding(torch.where(known, indices, 0), codebook)
        return vectors.masked_fill(~known.unsqueeze(-1), torch.nan).permute(0, 3, 1, 2)

    def matched_codes(self) -> Float[Tensor, "n d"]:
        """All code vectors as `matched` gives them: what tokens are compared with and what stands for them."""
        return self.matched(full_precision(self.codebook))
