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
    Computed in fp32 at least.
    """
    difference = images - reconstruction
    difference = difference if difference.element_size() >= 4 else difference.float()
    return difference.square().mean() if kind == "l2" else difference.abs().mean()
