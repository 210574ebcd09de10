"""Two terms of FQGAN that the paper's Eq. 13 lacks; both are off unless their weight is set (DECISIONS.md).

Read next: glotok_ray/losses/objective.py
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def entropy_loss(
    latent: Float[Tensor, "b d h w"],
    codebook: Float[Tensor, "n d"],
    *,
    temperature: float,
    max_tokens: int = 0,
    epsilon: float = 1e-20,
    placing: Literal["floor", "added"] = "floor",
) -> Float[Tensor, ""]:
    """Mean entropy of each token's soft assignment minus the entropy of their mean; from -ln n to
    0, low is good.

    Tokens are assigned by softmax(-distance^2 / temperature). Holds several tensors of tokens x n
    numbers; `max_tokens` (0: all) bounds them by taking evenly spaced tokens. `epsilon` keeps the logarithm of the
    mean assignment p finite: as its "floor", log(max(p, epsilon)), or "added", log(p + epsilon), which changes value
    and gradient as soon as it is not small beside 1 / n.
    """
    tokens = latent.permute(0, 2, 3, 1).flatten(0, 2)
    if 0 < max_tokens < len(tokens):
        # An odd stride visits every column of a grid whose side is a power of two.
        tokens = tokens[:: -(-len(tokens) // max_tokens) | 1]
    # The token's own |z|^2 is the same for all codes, and a constant does not change a softmax.
    nearness = 2 * (tokens @ codebook.T) - codebook.square().sum(dim=1)
    log_assignment = F.log_softmax(nearness / temperature, dim=1)
    assignment = log_assignment.exp()
    token_entropy = -(assignment * log_assignment).sum(dim=1).mean()
    usage = assignment.mean(dim=0)
    kept = usage.clamp_min(epsilon) if placing == "floor" else usage + epsilon
    usage_entropy = -(usage * kept.log()).sum()
    return token_entropy - usage_entropy


def disentanglement_loss(
    one: Float[Tensor, "b d h w"], other: Float[Tensor, "b d h w"]
) -> Float[Tensor, ""]:
    """Mean over positions of the squared cosine between two branches' codes, in [0, 1]; of equal code widths,
    which `TokenizerRun` checks.
    """
    return F.cosine_similarity(one, other, dim=1).square().mean()
