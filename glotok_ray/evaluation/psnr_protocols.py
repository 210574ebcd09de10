"""PSNR as each system's authors take it: of rounded, truncated or un-rounded pixels, or of luminance alone.

Read next: glotok_ray/metrics/reconstruction.py
"""

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from glotok_ray.data.pixel_range import to_uint8
from glotok_ray.metrics.reconstruction import psnr, psnr_of_error
from glotok_ray.peers.released import PSNRProtocol

# BT.601, of pixels from 0 to 255: luminance from 16 to 235.
_LUMINANCE = np.array([65.481, 128.553, 24.966]) / 255


def own_psnr(
    images: UInt8[np.ndarray, "b h w 3"],
    reconstructions: Float[Tensor, "b 3 h w"],
    protocol: PSNRProtocol,
) -> Float[np.ndarray, " b"]:
    """In dB per image, of pixels and of a decoder's output, about [-1, 1].

    "rounded" is that of `psnr`; "truncated" drops the fraction of the reconstruction's pixels; "unrounded" keeps it;
    "luminance" takes Y of un-rounded pixels.
    """
    if protocol == "rounded":
        return psnr(images, to_uint8(reconstructions))
    if protocol == "truncated":
        return psnr(images, truncated(reconstructions))
    pixels = _levels(reconstructions)
    difference = images.astype(np.float64) - pixels.astype(np.float64)
    if protocol == "luminance":
        # Offsets cancel in a difference.
        difference = difference @ _LUMINANCE
    return psnr_of_error(np.square(difference).reshape(len(images), -1).mean(axis=1))


def truncated(reconstructions: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """8-bit pixels whose fraction is dropped."""
    return _levels(reconstructions).astype(np.uint8)


def _levels(reconstructions: Float[Tensor, "b 3 h w"]) -> Float[np.ndarray, "b h w 3"]:
    """Un-rounded pixels from 0 to 255."""
    return (reconstructions.float().clamp(-1, 1) + 1).mul(127.5).permute(0, 2, 3, 1).cpu().numpy()
