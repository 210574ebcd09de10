"""What xAR predicts at once: entities of a latent grid, as one sequence of tokens and back.

Tokens of one entity are adjacent; entities follow in the order of prediction. Source: xAR (Ren et al. 2025),
section 3.2.1 and Algorithm 1. Read next: glotok_ray/nn/xar.py
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from glotok_ray.config.generator import FlowConfig, XARConfig
from glotok_ray.nn.tokenizer import GloTokTokenizer


def to_entities(latents: Float[Tensor, "b c h w"], config: XARConfig) -> Float[Tensor, "b n c"]:
    """The tokens of all entities; "scale" averages the grid down to each side, and all others only reorder it."""
    if config.entity == "scale":
        grids = [F.adaptive_avg_pool2d(latents, side) for side in config.sides]
        return torch.cat([grid.flatten(2) for grid in grids], dim=2).transpose(1, 2)
    return latents.flatten(2)[:, :, _order(config, latents.device)].transpose(1, 2)


@torch.no_grad()
def code_entities(
    codes: Int64[Tensor, "b k h w"],
    tokenizer: GloTokTokenizer,
    latent_scale: Float[Tensor, " c"],
    config: XARConfig,
    flow: FlowConfig,
) -> Float[Tensor, "b n c"]:
    """What an xAR models of the codes of images: their vectors, refined where `flow` says so, times `latent_scale`, as
    the tokens of all entities. Of `tokenizer`, the branches alone are used.
    """
    latents = tokenizer.latents(codes, refine=flow.latent_space == "codes_plus_residual").float()
    return to_entities(latents * latent_scale[:, None, None], config)


def from_entities(tokens: Float[Tensor, "b n c"], config: XARConfig) -> Float[Tensor, "b c h w"]:
    """The grid that the tokens of all entities describe; of "scale" the last entity alone."""
    if config.entity == "scale":
        grid = tokens[:, -config.entity_lengths[-1] :]
    else:
        grid = tokens[:, _order(config, tokens.device).argsort()]
    return rearrange(grid, "b (h w) c -> b c h w", h=config.grid_size)


def token_places(config: XARConfig, device: torch.device) -> Float[Tensor, "n 2"]:
    """Row and column of every token on the full grid; a token of a smaller grid lies in the middle of what it holds."""
    axis = torch.arange(config.grid_size, device=device, dtype=torch.float32)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
    return to_entities(places.unsqueeze(0), config)[0]


def _order(config: XARConfig, device: torch.device) -> Tensor:
    """The position, in raster order, of every token of the sequence."""
    places = torch.arange(config.grid_size**2, device=device)
    places = places.reshape(config.grid_size, config.grid_size)
    if config.entity == "cell":
        pattern = "(m i) (n j) -> (m n i j)"
        return rearrange(places, pattern, i=config.cell_size, j=config.cell_size)
    if config.entity == "subsample":
        # Each axis splits into (coarse, fine): the fine index tells the entity, the coarse one the token in it.
        pattern = "(i m) (j n) -> (m n i j)"
        return rearrange(places, pattern, i=config.cell_size, j=config.cell_size)
    return places.flatten()  # a "token" is an entity of one, an "image" the only one
