"""What each codebook holds of an image: decoded from its codes alone (paper Fig. 4).

Read next: glotok_ray/nn/tokenizer.py
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.nn.tokenizer import GloTokTokenizer


def has_retention(config: TokenizerConfig) -> bool:
    """Whether there is more than one codebook, so that one of them alone is not the whole."""
    return len(config.codebooks) > 1


@torch.inference_mode()
def decoded_alone(
    tokenizer: GloTokTokenizer, codes: Int64[Tensor, "b k h w"]
) -> dict[str, Float[Tensor, "b 3 H W"]]:
    """By codebook: the images of its codes alone, about [-1, 1], the features of all others set to 0 as the paper does.

    The features are what enters the decoder: codes and their predicted residuals (Eqs. 11 and 12), of which those of
    the others become zero together. A residual predictor sees its own branch alone, so what is kept is as it was.
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
