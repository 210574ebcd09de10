"""What a tokenizer's public methods refuse: images and codes of another kind, range or shape than they take.

The loop that trains calls none of this; the host reads values once per call.
Read next: glotok_ray/nn/tokenizer.py
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glotok_ray.config.tokenizer import TokenizerConfig

# A decoder's images reach 1.3 to 1.4 on either side; pixels from 0 to 255 and most images that are normalised by
# means and deviations reach further.
_LARGEST_PIXEL = 1.5


def check_images(images: Float[Tensor, "*b 3 H W"]) -> None:
    """Raise ValueError for images of another kind than floating-point numbers; looks at no value."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise ValueError(
            f"images: {_kind(images)}; must be a tensor of floating-point numbers in [-1, 1]: "
            "glotok_ray.data.pixel_range.to_model_range makes one of uint8 pixels (b, h, w, 3)"
        )
    if images.ndim not in (3, 4):
        raise ValueError(
            f"images of shape {tuple(images.shape)}: must be (3, H, W) or (batch, 3, H, W), in [-1, 1]"
        )


def check_answer(images: Float[Tensor, "*b 3 H W"], codes: Int[Tensor, "*b k h w"]) -> None:
    """Raise ValueError for images of another range than [-1, 1], which decoders overshoot by up to a half on either
    side, and for codes that are none, by one read of both.
    """
    if not codes.numel():
        return
    bounds = [*torch.aminmax(images.detach()), codes.min()]
    # Not in fp64, which MPS lacks; codes are exact in fp32.
    least, greatest, code = torch.stack([bound.float() for bound in bounds]).tolist()
    _check_bounds(least, greatest)
    _check_least(code)


def check_found(codes: Int[Tensor, "..."]) -> None:
    """Raise ValueError for codes that are none, since the network's output was not finite; one read."""
    if codes.numel():
        _check_least(codes.min().item())


def _check_least(code: float) -> None:
    if code < 0:
        raise ValueError(
            "images: the encoder's output is not finite, so no code is the nearest; look for a diverged tokenizer, or "
            "run it in fp32"
        )


def check_range(images: Float[Tensor, "*b 3 H W"]) -> None:
    """Raise ValueError for images of another range than [-1, 1], which decoders overshoot; one read."""
    if images.numel():
        least, greatest = torch.stack(torch.aminmax(images.detach())).tolist()
        _check_bounds(least, greatest)


def _check_bounds(least: float, greatest: float) -> None:
    # Written so that NaN fails too.
    if not (least >= -_LARGEST_PIXEL and greatest <= _LARGEST_PIXEL):
        raise ValueError(
            f"images reach from {least:.4g} to {greatest:.4g}: must lie in [-1, 1], or beyond it by no more than a "
            f"decoder's overshoot, up to {_LARGEST_PIXEL}; of pixels p from 0 to 255 give p / 127.5 - 1"
        )


def check_codes(codes: Int[Tensor, "*b k h w"], config: TokenizerConfig) -> None:
    """Raise ValueError for codes that are not whole numbers, are in no codebook or have another shape; one read."""
    names, side = config.names, config.autoencoder.grid_size
    is_whole = isinstance(codes, Tensor) and not (codes.is_floating_point() or codes.is_complex())
    if not is_whole or codes.dtype == torch.bool:
        raise ValueError(
            f"codes: {_kind(codes)}; must be a tensor of whole numbers, as encode gives them"
        )
    if codes.ndim not in (3, 4) or codes.shape[-3] != len(names):
        raise ValueError(
            f"codes of shape {tuple(codes.shape)}: must be (codebooks, h, w) or (batch, codebooks, h, w) with "
            f"{len(names)} codebooks ({', '.join(names)})"
        )
    if codes.ndim == 3 and side > 1 and codes.shape[1:] == (len(names), side**2):
        # As (codebooks, h, w) they would be one image of another form.
        raise ValueError(
            f"codes of shape {tuple(codes.shape)}: look like {len(codes)} images with flat grids; give "
            f"codes.unflatten(-1, ({side}, {side}))"
        )
    if not codes.numel():
        return
    by_codebook = codes.long().movedim(-3, 0).flatten(1)
    bounds = torch.stack(torch.aminmax(by_codebook, dim=1), dim=1).tolist()
    for codebook, (least, greatest) in zip(config.codebooks, bounds, strict=True):
        if least < 0 or greatest >= codebook.size:
            raise ValueError(
                f"codes of the codebook {codebook.name!r} reach from {least} to {greatest}: must be in "
                f"[0, {codebook.size}); bring codes of this tokenizer, its codebooks in the order {', '.join(names)}"
            )


def _kind(value: object) -> str:
    return f"of dtype {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
