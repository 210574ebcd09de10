"""What each part of the codes holds of an image: decoded from these codes alone (paper Fig. 4).

A part is a codebook of ours; of other systems a scale, or a branch with all its scales.
Read next: glotok_ray/nn/tokenizer.py
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.tokenizer_protocol import Codes
from glotok_ray.peers.base import PeerTokenizer


def retention_names(tokenizer: GloTokTokenizer | PeerTokenizer) -> tuple[str, ...]:
    """The parts that are decoded alone; empty where there is one grid, which alone is the whole."""
    if isinstance(tokenizer, PeerTokenizer):
        return tokenizer.part_names
    names = tokenizer.config.names
    return names if len(names) > 1 else ()


@torch.inference_mode()
def decoded_alone(
    tokenizer: GloTokTokenizer | PeerTokenizer, codes: Codes
) -> dict[str, Float[Tensor, "b 3 H W"]]:
    """By part: the images of its codes alone, about [-1, 1], the features of all others set to 0 as the paper does.

    The features are what enters the decoder: of other systems what the codes of the part add to it.
    """
    if not retention_names(tokenizer):
        return {}
    if isinstance(tokenizer, PeerTokenizer):
        return tokenizer.parts_alone(codes)
    assert isinstance(codes, Tensor)
    return _of_codebooks(tokenizer, codes)


def _of_codebooks(
    tokenizer: GloTokTokenizer, codes: Int64[Tensor, "b k h w"]
) -> dict[str, Float[Tensor, "b 3 H W"]]:
    """Features are codes and their predicted residuals (Eqs. 11 and 12), of which those of the others become zero
    together. A residual predictor sees its own branch alone, so what is kept is as it was.
    """
    config = tokenizer.config
    latents = tokenizer.latents(codes, refine=True)
    parts = latents.split([codebook.width for codebook in config.codebooks], dim=1)
    images = {}
    for place, name in enumerate(config.names):
        kept = [
            part if other == place else torch.zeros_like(part) for other, part in enumerate(parts)
        ]
        images[name] = tokenizer.decode_latents(torch.cat(kept, dim=1), refine=False)
    return images
