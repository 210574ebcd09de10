"""Pixel ranges: uint8 to [-1, 1], in which the models work, and back.

Read next: glotok_ray/nn/tokenizer.py
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_model_range(
    images: UInt8[np.ndarray, "b h w 3"], device: torch.device
) -> Float[Tensor, "b 3 h w"]:
    """Pixels to float32 in [-1, 1]; channels stay last in memory, which convolutions prefer. Raises ValueError for
    another dtype.
    """
    return pixels_to_model_range(torch.tensor(images, device=device).permute(0, 3, 1, 2))


def pixels_to_model_range(pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The same for pixels that are a tensor already."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels: of dtype {pixels.dtype}; must be uint8, from 0 to 255")
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_uint8(images: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """[-1, 1] to pixels, clipped and rounded half up: the exact inverse of `to_model_range`.

    Raises ValueError for NaN and infinity, which would become plausible pixels.
    """
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not finite.all():
        first = int(finite.logical_not().nonzero()[0])
        raise ValueError(
            f"image {first} of {len(images)} holds NaN or infinite values: images must be finite; "
            "look for a diverged model"
        )
    levels = (images.detach().float() * 127.5 + 128).floor().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
