"""FQGAN's local contrastive loss, the baseline that GloTok replaces (paper appendix B.1); off by default.

Read next: glotok_ray/losses/objective.py
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(
    predicted: Float[Tensor, "b c"], target: Float[Tensor, "b c"], *, temperature: float
) -> Float[Tensor, ""]:
    """InfoNCE in one direction: each prediction must pick its own image's vector among the batch's, by cosine.

    log b where all cosines are alike, 0 for a batch of one. The target is held fixed.
    """
    cosines = F.normalize(predicted.float(), dim=1) @ F.normalize(target.detach().float(), dim=1).T
    own = torch.arange(len(cosines), device=cosines.device)
    return F.cross_entropy(cosines / temperature, own)
