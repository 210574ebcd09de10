"""Randomness of one image, keyed by (seed, image): neither batches nor the number of actors change what is drawn.

Read next: glotok_ray/sampling/flow.py
"""

import hashlib
import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def image_generator(seed: int, image_id: int) -> torch.Generator:
    """The CPU generator of one image.

    Torch's CPU generator keeps 32 bits of its seed, so images count up from a hash of `seed`:
    no two of 2^32 ids share a stream in a run, and runs of different seeds start far apart.
    """
    digest = hashlib.blake2b(str(int(seed)).encode(), digest_size=4).digest()
    start = int.from_bytes(digest, "little")
    return torch.Generator().manual_seed((start + int(image_id)) % 2**32)


def whole_number(value: object, name: str) -> int:
    """A Python, NumPy or torch integer as int; raises ValueError for anything that would have to be rounded, and for
    truth values.
    """
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    try:
        return operator.index("" if is_bool else value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} = {value!r}: must be a whole number") from None


def check_sampling(model: nn.Module, labels: Tensor, image_ids: Sequence[int], seed: int) -> None:
    """Raise ValueError when the model is in training mode, when `image_ids` does not hold one id in [0, 2^32) per
    label, and for labels and a seed that are not whole numbers.
    """
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels: {labels.dtype} of shape {tuple(labels.shape)}; must be a vector of whole numbers"
        )
    whole_number(seed, "seed")
    for place, image_id in enumerate(image_ids):
        if not 0 <= whole_number(image_id, f"image_ids[{place}]") < 2**32:
            raise ValueError(f"image_ids[{place}] = {image_id}: must be in [0, 2^32)")
    if model.training:
        raise ValueError("model: is in training mode, so dropout is on; call model.eval() first")
    if len(image_ids) != labels.shape[0]:
        raise ValueError(
            f"image_ids: {len(image_ids)} ids for {labels.shape[0]} labels; give one each"
        )
