"""The pixel loss (paper Eq. 2), averaged over images, channels and pixels.

Read next: glotok_ray/losses/adversarial.py
"""

from jaxtyping import Float
from torch import Tensor


def reconstruction_loss(
    images: Float[Tensor, "b 3 H W"], reconstruction: Float[Tensor, "b 3 H W"]
) -> Float[Tensor, ""]:
    """Eq. 2: L_R = |x - x_hat|^2, for images in [-1, 1]; computed in fp32 at least."""
    difference = images - reconstruction
    return (difference if difference.element_size() >= 4 else difference.float()).square().mean()
