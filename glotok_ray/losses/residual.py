"""The residual loss of one branch (paper Eq. 10), averaged over tokens and dimensions.

The paper's norm has no power; mean squared matches Eq. 1.
Read next: glotok_ray/losses/objective.py
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def residual_loss(
    latent: Float[Tensor, "b d h w"],
    code_vectors: Float[Tensor, "b d h w"],
    residual: Float[Tensor, "b d h w"],
) -> Float[Tensor, ""]:
    """Eq. 10: |sg[Z] - Z_hat - Z_res|^2 of one branch; its gradient is that of `residual` alone.

    Eq. 10 leaves Z_hat outside sg. Its gradient would repeat Eq. 1's first term, so the whole target
    Z - Z_hat is held fixed. Z_res = R(Z_hat) of Eq. 8 is as it is: through R's straight-through
    input a small part of the gradient goes on to the encoder, as that of the reconstruction does.
    Raises ValueError for unequal shapes, which would be broadcast.
    """
    if not latent.shape == code_vectors.shape == residual.shape:
        raise ValueError(
            f"latent {tuple(latent.shape)}, code_vectors {tuple(code_vectors.shape)}, residual "
            f"{tuple(residual.shape)}: must have one shape"
        )
    return F.mse_loss(residual, (latent - code_vectors).detach())
