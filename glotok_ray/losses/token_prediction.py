"""Cross-entropy of the next codes: one term per codebook, and their mean as the loss.

Source: LlamaGen (Sun et al. 2024) for one codebook; FQGAN (Bai et al. 2024), section 3.3, for several; ImageFolder (Li
et al. 2024) for masked inputs.
Read next: glotok_ray/sampling/tokens.py
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def replace_codes(
    codes: Int64[Tensor, "b k n"],
    sizes: Sequence[int],
    probability: float,
    generator: torch.Generator,
) -> Int64[Tensor, "b k n"]:
    """Each code becomes with `probability` a random one below its codebook's of `sizes`, all equally likely."""
    device = generator.device
    replaced = torch.rand(codes.shape, generator=generator, device=device) < probability
    others = [
        torch.randint(size, codes[:, index].shape, generator=generator, device=device)
        for index, size in enumerate(sizes)
    ]
    return torch.where(replaced.to(codes.device), torch.stack(others, 1).to(codes.device), codes)


def masked_inputs(
    shape: tuple[int, int], largest_share: float, generator: torch.Generator
) -> Bool[Tensor, "b m"]:
    """Inputs of a batch to be masked, each with one probability for the whole batch, uniform in [0, largest_share)."""
    device = generator.device
    share = largest_share * torch.rand((), generator=generator, device=device)
    return torch.rand(shape, generator=generator, device=device) < share


def codebook_cross_entropies(
    logits: Sequence[Float[Tensor, "b n size"]], codes: Int64[Tensor, "b k n"]
) -> tuple[Float[Tensor, ""], ...]:
    """Mean over images and positions of -log p(code), for each codebook, in fp32 or better.

    Raises ValueError unless there is one tensor of logits per codebook of `codes`.
    """
    _check_codebooks(logits, codes)
    return tuple(
        F.cross_entropy(_precise(each).flatten(0, 1), codes[:, index].flatten())
        for index, each in enumerate(logits)
    )


def token_prediction_losses(
    logits: Sequence[Float[Tensor, "b n size"]], codes: Int64[Tensor, "b k n"]
) -> Float[Tensor, " b"]:
    """`token_prediction_loss` of each image, whose mean it is."""
    _check_codebooks(logits, codes)
    terms = [
        F.cross_entropy(_precise(each).transpose(1, 2), codes[:, index], reduction="none")
        for index, each in enumerate(logits)
    ]
    return torch.stack(terms).mean(dim=(0, 2))


def _check_codebooks(logits: Sequence[Tensor], codes: Tensor) -> None:
    if len(logits) != codes.shape[1]:
        raise ValueError(
            f"logits: {len(logits)} tensors for {codes.shape[1]} codebooks; give one each"
        )


def token_prediction_loss(terms: Sequence[Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Mean of the `codebook_cross_entropies`: codebooks weigh the same whatever their sizes."""
    return torch.stack(tuple(terms)).mean()


def _precise(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
