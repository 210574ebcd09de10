"""The latents of a finished tokenizer of this package as codes of rising resolutions, as VAR's tokenizer has them, so
that generators over scales can be trained on it.

The tokenizer stays as it is: a residual pyramid codes what its decoder takes, its codes' vectors with their predicted
residuals, by one clustered codebook (jobs/build_scales.py). Nothing smooths what a code adds. Source: VAR (Tian et al.
2024), section 3.2. Read next: glotok_ray/peers/multi_scale.py
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glotok_ray.config.scales import GloTokScalesConfig
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.tokenizer_protocol import Codes, grids_of
from glotok_ray.peers.look_up import nearest_known, rows_on_map
from glotok_ray.peers.multi_scale import (
    ScaledTokenizer,
    Scales,
    decode_scales,
    encode_scales,
    upsampled,
)
from glotok_ray.peers.released import System, Table


class GloTokScales(ScaledTokenizer):
    """Codes: a tuple of (b, side, side), from the coarsest to the finest."""

    config: GloTokScalesConfig

    def __init__(self, config: GloTokScalesConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = GloTokTokenizer(config.tokenizer)
        self.codebook = nn.Parameter(torch.zeros(config.num_codes, self.code_width))

    @property
    def code_width(self) -> int:
        """Channels of the map that the scales add up to."""
        return self.config.tokenizer.latent_width

    def contribution(self, indices: Int[Tensor, "b p p"], scale: int) -> Float[Tensor, "b d h w"]:
        """What the codes of a scale add to the map: their vectors, enlarged."""
        return upsampled(rows_on_map(indices, self.codebook), self.config.sides[-1])

    def unquantized(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        """What is coded: the vectors of the tokenizer's own codes with their predicted residuals."""
        return self.tokenizer.latents(self.tokenizer.look_up(images), refine=True)

    def find(self, latents: Float[Tensor, "b d h w"]) -> Scales:
        """Per scale the nearest codes of what the scales before it left over."""
        return encode_scales(latents, self.config.sides, self.nearest, self.contribution)

    def look_up(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """The codes of checked images in [-1, 1]."""
        return self.find(self.unquantized(images))

    def images_of(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of checked codes, about [-1, 1] and not clamped."""
        return self.decode_latents(decode_scales(grids_of(codes, self.rate), self.contribution))

    def decode_latents(self, latents: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of what the codes of all scales add up to, about [-1, 1]; not clamped."""
        return self.tokenizer.decode_latents(latents, refine=False)

    def nearest(self, latents: Float[Tensor, "b d p p"]) -> Int[Tensor, "b p p"]:
        """The code of every position of a map, NO_CODE where it is not finite."""
        tokens = latents.permute(0, 2, 3, 1)
        found = nearest_known(tokens.flatten(0, 2), self.codebook, "euclidean")
        return found.unflatten(0, tokens.shape[:3])


def _no_names(config: GloTokScalesConfig) -> Table:
    return ()


SYSTEM = System(
    tokenizer=GloTokScales,
    config=GloTokScalesConfig,
    released={},
    names=_no_names,
    licence="that of the tokenizer it was made of",
)
"""No file of others holds one: `jobs.build_scales` makes it."""
