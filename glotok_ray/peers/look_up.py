"""Look-ups that several systems share, on maps; always in full precision.

Read next: glotok_ray/peers/trunk.py
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from glotok_ray.nn.blocks import without_autocast
from glotok_ray.nn.quantizer import NO_CODE, Lookup, full_precision, nearest_codes

# Of 262,144 codes, 256 scores in fp32 take 268 MB.
_TOKENS_PER_BLOCK = 256


def nearest_on_map(
    z: Float[Tensor, "b d h w"], codebook: Float[Tensor, "n d"]
) -> Int[Tensor, "b h w"]:
    """The row of least Euclidean distance at every position, NO_CODE where `z` is not finite."""
    tokens = z.permute(0, 2, 3, 1)
    blocks = tokens.flatten(0, 2).split(_TOKENS_PER_BLOCK)
    found = torch.cat([nearest_known(block, codebook, "euclidean") for block in blocks])
    return found.unflatten(0, tokens.shape[:3])


def nearest_known(
    z: Float[Tensor, "t d"], codebook: Float[Tensor, "n d"], lookup: Lookup = "cosine"
) -> Int[Tensor, " t"]:
    """`nearest_codes`, and NO_CODE for vectors that are not finite; the host does not wait for them."""
    return torch.where(_is_sound(z, dim=1), nearest_codes(z, codebook, lookup), NO_CODE)


def _is_sound(z: Float[Tensor, "..."], *, dim: int) -> Bool[Tensor, "..."]:
    """Whether vectors along an axis, and their squared lengths, are finite."""
    return torch.isfinite(full_precision(z).square().sum(dim=dim))


def largest_product_on_map(
    z: Float[Tensor, "b d h w"], codebook: Float[Tensor, "n d"]
) -> Int[Tensor, "b h w"]:
    """The row of the largest inner product at every position: a long row beats a nearer short one. NO_CODE where `z` is
    not finite.
    """
    tokens = z.permute(0, 2, 3, 1)
    with without_autocast(z.device):
        codes = full_precision(codebook).T
        blocks = full_precision(tokens).flatten(0, 2).split(_TOKENS_PER_BLOCK)
        found = torch.cat([(block @ codes).argmax(dim=1) for block in blocks])
    return torch.where(_is_sound(z, dim=1), found.unflatten(0, tokens.shape[:3]), NO_CODE)


def rows_on_map(
    codes: Int[Tensor, "b h w"], codebook: Float[Tensor, "n d"]
) -> Float[Tensor, "b d h w"]:
    """The codebook's rows at the positions of their codes; NaN at those of NO_CODE."""
    vectors = F.embedding(codes.long().clamp(min=0), codebook)
    return vectors.masked_fill((codes == NO_CODE).unsqueeze(-1), torch.nan).permute(0, 3, 1, 2)


def bits_on_map(z: Float[Tensor, "b d h w"]) -> Int[Tensor, "b h w"]:
    """Look-up without a codebook (LFQ): the bit of a channel is 1 where it is above 0, and the first channel is the
    least significant bit. NO_CODE where `z` is not finite.
    """
    weights = 2 ** torch.arange(z.shape[1], device=z.device)
    codes = ((z > 0).long() * weights.view(-1, 1, 1)).sum(dim=1)
    return torch.where(_is_sound(z, dim=1), codes, NO_CODE)


def signs_on_map(codes: Int[Tensor, "b h w"], num_bits: int) -> Float[Tensor, "b d h w"]:
    """The inverse of `bits_on_map`: +1 for a bit of 1 and -1 for 0, in fp32."""
    places = torch.arange(num_bits, device=codes.device).view(-1, 1, 1)
    return ((codes.long().unsqueeze(1) >> places) & 1).float() * 2 - 1
