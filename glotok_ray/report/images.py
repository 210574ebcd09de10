"""Images of a run in memory, as the page and the picture show them.

Read next: glotok_ray/report/inputs.py
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray


class ImagePairs(NamedTuple):
    """Validation crops and their reconstructions."""

    inputs: UInt8[ndarray, "n h w 3"]
    reconstructions: UInt8[ndarray, "n h w 3"]


class LabelledImages(NamedTuple):
    """Images with their class."""

    images: UInt8[ndarray, "n h w 3"]
    labels: Sequence[int]


class Retention(NamedTuple):
    """Crops decoded from all codes, and from the codes of one codebook alone (Fig. 4 of the paper)."""

    inputs: UInt8[ndarray, "n h w 3"]
    both: UInt8[ndarray, "n h w 3"]
    alone: Mapping[str, UInt8[ndarray, "n h w 3"]]
    """Name of the codebook -> images."""


def differences(pairs: ImagePairs) -> UInt8[ndarray, "n h w 3"]:
    """Reconstruction minus input around middle grey, which is no difference."""
    signed = pairs.reconstructions.astype(np.int16) - pairs.inputs.astype(np.int16)
    return (128 + signed).clip(0, 255).astype(np.uint8)
