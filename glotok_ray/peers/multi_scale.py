"""Residual quantization over scales (VAR, Tian et al. 2024): each scale codes what the smaller ones left over.

VAR, ImageFolder and TokenFlow differ in how a vector finds its code and in what a code adds to the map.
Read next: glotok_ray/peers/imagefolder.py
"""

import functools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.nn.quantizer import Lookup
from glotok_ray.nn.tokenizer_protocol import Codes, Grid, Rate, grids_of
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.look_up import nearest_known, rows_on_map

Scales = tuple[Int[Tensor, "b p p"], ...]
"""The codes of all scales, small to large."""
Find = Callable[[Float[Tensor, "b d p p"]], Int[Tensor, "b p p"]]
"""The code of every position of a map."""
Contribution = Callable[[Int[Tensor, "b p p"], int], Float[Tensor, "b d h w"]]
"""What the codes of a scale, given by its number, add to the map of the last scale's size."""

SMOOTHING_OF_SCALE = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
"""Which of four convolutions smooths which of ten scales, in the peers' code. It finds the nearest of four ticks and
breaks two exact ties by the rounding of fp64; other arithmetic gives other tables.
"""


def encode_scales(
    latents: Float[Tensor, "b d h w"], sides: Sequence[int], find: Find, contribution: Contribution
) -> Scales:
    """The codes of all scales; `sides` end with that of the latents."""
    rest, found = latents, []
    for scale, side in enumerate(sides):
        indices = find(F.interpolate(rest, (side, side), mode="area"))
        rest = rest - contribution(indices, scale)
        found.append(indices)
    return tuple(found)


def decode_scales(scales: Scales, contribution: Contribution) -> Float[Tensor, "b d h w"]:
    """The sum of what the codes of all scales add."""
    parts = [contribution(indices, scale) for scale, indices in enumerate(scales)]
    return functools.reduce(torch.add, parts)


def scale_grids(sides: Sequence[int], num_codes: int) -> tuple[Grid, ...]:
    """One grid of codes per scale."""
    return tuple(Grid((side, side), num_codes) for side in sides)


def upsampled(vectors: Float[Tensor, "b d p p"], side: int) -> Float[Tensor, "b d h w"]:
    """A map at the last scale's side, by bicubic interpolation; unchanged where it has that side."""
    return F.interpolate(vectors, (side, side), mode="bicubic", align_corners=False)


class ScaledTokenizer(PeerTokenizer):
    """A tokenizer of one image size, with a grid per scale of its config's `sides` and one codebook for all."""

    @property
    def side_multiple(self) -> int | None:
        """The scales belong to one image size."""
        return None

    @property
    def rate(self) -> Rate:
        """One grid per scale."""
        return Rate(scale_grids(self.config.sides, self.config.num_codes))

    @property
    def part_names(self) -> tuple[str, ...]:
        """Every scale."""
        return self.grid_names

    def parts_alone(self, codes: Codes) -> dict[str, Float[Tensor, "b 3 H W"]]:
        """Images of every scale alone."""
        grids = grids_of(codes, self.rate)
        return {
            name: self.decode_latents(self.contribution(indices, scale))
            for scale, (name, indices) in enumerate(zip(self.part_names, grids, strict=True))
        }

    def contribution(self, indices: Int[Tensor, "b p p"], scale: int) -> Float[Tensor, "b d h w"]:
        """What the codes of a scale, given by its number, add to the map that is decoded."""
        raise NotImplementedError


class MultiScaleQuantizer(nn.Module):
    """One codebook for all scales, and the convolutions which smooth what is added; inference alone.

    `lookup` is Euclidean in VAR and by cosine in ImageFolder; the rows that are added are the codebook's own in both.
    `smoothing_of_scale` gives each of `sides` the number of its convolution.
    """

    def __init__(
        self,
        codebook_shape: tuple[int, int],
        lookup: Lookup,
        sides: Sequence[int],
        smoothing_of_scale: Sequence[int],
    ) -> None:
        super().__init__()
        width = codebook_shape[1]
        self.lookup: Lookup = lookup
        self.sides = tuple(sides)
        self.smoothing_of_scale = tuple(smoothing_of_scale)
        self.codebook = nn.Parameter(torch.randn(codebook_shape))
        self.smoothings = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in range(max(smoothing_of_scale) + 1)
        )

    def encode(self, latents: Float[Tensor, "b d h w"]) -> Scales:
        """The codes of all scales."""
        return encode_scales(latents, self.sides, self._find, self.contribution)

    def decode(self, scales: Scales) -> Float[Tensor, "b d h w"]:
        """The latents that the codes stand for."""
        return decode_scales(scales, self.contribution)

    def _find(self, latents: Float[Tensor, "b d p p"]) -> Int[Tensor, "b p p"]:
        tokens = latents.permute(0, 2, 3, 1)
        found = nearest_known(tokens.flatten(0, 2), self.codebook, self.lookup)
        return found.unflatten(0, tokens.shape[:3])

    def contribution(self, indices: Int[Tensor, "b p p"], scale: int) -> Float[Tensor, "b d h w"]:
        """What the codes of a scale, given by its number, add to the map."""
        vectors = upsampled(rows_on_map(indices, self.codebook), self.sides[-1])
        return 0.5 * vectors + 0.5 * self.smoothings[self.smoothing_of_scale[scale]](vectors)
