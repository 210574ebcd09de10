"""The adversarial loss L_G of Eq. 3 and its counterpart for the discriminator: hinge losses, as in the peers.

The paper names no kind; hinge is FQGAN's, LlamaGen's and VQGAN's.
Read next: glotok_ray/losses/relation.py
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def generator_hinge_loss(fake_logits: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """L_G = -mean D(x_hat); unbounded below."""
    return -fake_logits.mean()


def discriminator_hinge_loss(
    real_logits: Float[Tensor, "b 1 h w"], fake_logits: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """Half of mean relu(1 - D(x)) + mean relu(1 + D(x_hat)); 1 where D is undecided, 0 where both
    margins hold.
    """
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())
