"""The scale that brings latents near unit variance for a generator, measured from code usage.

xAR divides its latents by their standard deviation and leaves the mean in; other tokenizers need
their own figure.
Read next: glotok_ray/training/generator_run.py
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from glotok_ray.config.tokenizer import TokenizerConfig


def latent_scale_from_counts(codes: Float[Tensor, "n d"], counts: Shaped[Tensor, " n"]) -> float:
    """1 / standard deviation over all elements of one branch: `codes` as they are matched, code i seen counts[i] times.

    The deviation is taken about the mean of all elements, one number per branch; the latents keep
    that mean (xAR's convention). Codes of unit length have the second moment 1 / d, so their result
    is at least sqrt(d). Raises ValueError when `counts` is not one non-negative number per code, is all
    zero, or the codes in use hold one single value or one that is not finite.
    """
    if counts.shape != codes.shape[:1]:
        raise ValueError(
            f"counts of shape {tuple(counts.shape)}: needs one per code, "
            f"({codes.shape[0]},); count the codes of the tokenizer that made them"
        )
    if bool((counts < 0).any()) or not bool((counts > 0).any()):
        raise ValueError(
            "counts: must hold no negative number and at least one positive; encode images first"
        )
    # In use means counted: a code that no image has may be any vector.
    used = counts > 0
    share = counts[used].double() / counts[used].double().sum()
    vectors = codes.detach()[used].double()
    mean = share @ vectors.mean(dim=1)
    variance = float(share @ (vectors - mean).square().mean(dim=1))
    # Written so that NaN fails too.
    if not 1e-12 <= variance < math.inf:
        raise ValueError(
            f"codebook: the codes in use have a variance of {variance:.3g}: must be positive and finite; train the "
            "tokenizer on"
        )
    return variance**-0.5


def latent_scale(scales: Sequence[float], config: TokenizerConfig) -> Float[Tensor, " c"]:
    """One factor per latent channel, for `XAR`; `scales` holds one per codebook, in the tokenizer's order."""
    widths = torch.tensor([codebook.width for codebook in config.codebooks])
    return torch.repeat_interleave(torch.tensor(scales), widths)
