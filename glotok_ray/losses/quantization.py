"""The quantization loss of one codebook (paper Eq. 1), averaged over tokens and dimensions.

Read next: glotok_ray/losses/reconstruction.py
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def quantization_loss(
    latent: Float[Tensor, "b d h w"],
    code_vectors: Float[Tensor, "b d h w"],
    *,
    commitment_weight: float,
) -> Float[Tensor, ""]:
    """Eq. 1: L_Q = |sg[Z] - Z_hat|^2 + beta |sg[Z_hat] - Z|^2; the first term moves the codes, the
    second the encoder. Raises ValueError for unequal shapes, which would be broadcast.
    """
    if latent.shape != code_vectors.shape:
        raise ValueError(
            f"latent {tuple(latent.shape)}, code_vectors {tuple(code_vectors.shape)}: must have one shape"
        )
    codebook_term = F.mse_loss(code_vectors, latent.detach())
    commitment_term = F.mse_loss(latent, code_vectors.detach())
    return codebook_term + commitment_weight * commitment_term
