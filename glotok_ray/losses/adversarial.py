"""The adversarial loss L_G of Eq. 3 and its counterpart for the discriminator, in three kinds.

The paper names no kind; hinge is FQGAN's, LlamaGen's and VQGAN's. LlamaGen's and FQGAN's non-saturating losses have
their arguments swapped, so that nothing is learned from one of the two sides; here a test holds the signs.
Read next: glotok_ray/losses/relation.py
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["hinge", "non_saturating", "vanilla"]


def generator_hinge_loss(fake_logits: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """L_G = -mean D(x_hat); unbounded below."""
    return -fake_logits.mean()


def generator_non_saturating_loss(fake_logits: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """L_G = -mean log sigmoid(D(x_hat)); at least 0, and steep where the discriminator wins."""
    return F.softplus(-fake_logits).mean()


def generator_minimax_loss(fake_logits: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """L_G = mean log(1 - sigmoid(D(x_hat))), the original game; at most 0, and flat where the
    discriminator wins.
    """
    return -F.softplus(fake_logits).mean()


def discriminator_hinge_loss(
    real_logits: Float[Tensor, "b 1 h w"], fake_logits: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """Half of mean relu(1 - D(x)) + mean relu(1 + D(x_hat)); 1 where D is undecided, 0 where both
    margins hold.
    """
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def discriminator_cross_entropy_loss(
    real_logits: Float[Tensor, "b 1 h w"], fake_logits: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """Half of -mean log sigmoid(D(x)) - mean log(1 - sigmoid(D(x_hat))); log 2 where D is
    undecided.
    """
    return 0.5 * (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean())


_GENERATOR = {
    "hinge": generator_hinge_loss,
    "non_saturating": generator_non_saturating_loss,
    "vanilla": generator_minimax_loss,
}


def generator_loss(fake_logits: Float[Tensor, "b 1 h w"], kind: Kind) -> Float[Tensor, ""]:
    """L_G of Eq. 3."""
    return _GENERATOR[kind](fake_logits)


def discriminator_loss(
    real_logits: Float[Tensor, "b 1 h w"], fake_logits: Float[Tensor, "b 1 h w"], kind: Kind
) -> Float[Tensor, ""]:
    """What the discriminator minimises against `generator_loss` of the same kind."""
    if kind == "hinge":
        return discriminator_hinge_loss(real_logits, fake_logits)
    return discriminator_cross_entropy_loss(real_logits, fake_logits)


def lecam_penalty(
    real_logits: Float[Tensor, "b 1 h w"],
    fake_logits: Float[Tensor, "b 1 h w"],
    anchors: Float[Tensor, " 2"],
) -> Float[Tensor, ""]:
    """LeCam regularisation (Tseng et al. 2021), one-sided as trainers use it: mean relu(D(x) - fake
    anchor)^2 + mean relu(real anchor - D(x_hat))^2.

    `anchors` are moving averages of the mean real and the mean fake logit, without gradient. The penalty keeps a
    discriminator that has few images to learn from near them.
    """
    real_anchor, fake_anchor = anchors.detach()
    return (
        F.relu(real_logits - fake_anchor).square().mean()
        + F.relu(real_anchor - fake_logits).square().mean()
    )


def moved_anchors(
    anchors: Float[Tensor, " 2"], means: Float[Tensor, " 2"], *, decay: float
) -> Float[Tensor, " 2"]:
    """The moving averages after one more step with these mean logits (real, fake)."""
    return torch.lerp(means.to(anchors), anchors, decay)
