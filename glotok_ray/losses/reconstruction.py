"""The pixel loss (paper Eq. 2), averaged over images, channels and pixels.

Read next: glotok_ray/losses/adversarial.py
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor


def reconstruction_loss(
    images: Float[Tensor, "b 3 H W"],
    reconstruction: Float[Tensor, "b 3 H W"],
    kind: Literal["l2", "l1"] = "l2",
) -> Float[Tensor, ""]:
    """Eq. 2: L_R = |x - x_hat|^2, for images in [-1, 1]; "l1" takes |x - x_hat|, as taming-transformers does.
    Computed in fp32 at least. Raises ValueError for whole numbers, whose differences would wrap, and for unequal
    shapes, which would be broadcast.
    """
    if images.shape != reconstruction.shape or not images.is_floating_point():
        raise ValueError(
            f"images {images.dtype} {tuple(images.shape)}, reconstruction {tuple(reconstruction.shape)}: must be "
            "floating-point numbers in [-1, 1] of one shape"
        )
    difference = images - reconstruction
    difference = difference if difference.element_size() >= 4 else difference.float()
    return difference.square().mean() if kind == "l2" else difference.abs().mean()
