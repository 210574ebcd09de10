"""What is known of a system beside its model: its released files, their names of tensors, their licence.

Read next: glotok_ray/peers/systems.py
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor

from glotok_ray.peers.base import PeerTokenizer

PSNRProtocol = Literal["rounded", "truncated", "unrounded", "luminance"]
"""PSNR of 8-bit pixels, rounded or truncated, of un-rounded ones, or of the luminance of these."""
CropProtocol = Literal["adm", "bilinear", "bicubic", "plain_bilinear"]
"""How validation images are resized before the middle square is cut: as ADM's evaluation does, as torchvision does on
8-bit images, or by bilinear samples without antialiasing, as OpenCV does.
"""
Table = tuple[tuple[str, str | None], ...]
"""(regular expression, replacement); every row is applied, in order. None leaves a tensor out whose name matches."""


def as_they_are(tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """For files that hold the model's own tensors, whatever they are called."""
    return dict(tensors)


class Released(NamedTuple):
    """One released file, and what its authors published of it."""

    config: Any
    """Of the model in the file."""
    file: str
    """Where the authors offer it, and its name there."""
    rfid: float | None = None
    """Published rFID on ImageNet validation, by the authors' own protocol."""
    psnr: float | None = None
    """Published PSNR, dB."""
    source: str = ""
    """Where the published numbers are, and what makes them incomparable with others."""


class System(NamedTuple):
    """One entry of `glotok_ray.peers.systems.SYSTEMS`."""

    tokenizer: type[PeerTokenizer]
    """Built as tokenizer(config)."""
    config: type
    """Dataclass of its variants."""
    released: Mapping[str, Released]
    """Files by the names of their recipes of `jobs.export_tokenizer`."""
    names: Callable[[Any], Table]
    """From a config to the names in its file and ours."""
    licence: str
    """Of the weights, in words for the model card."""
    prepare: Callable[[Mapping[str, Tensor], Any], dict[str, Tensor]] = as_they_are
    """From a file's tensors under its names to those that `names` renames: splits, merges and drops what no row of
    names can say. Raises ValueError for tensors that are not as they must be.
    """
    psnr_protocol: PSNRProtocol = "rounded"
    """What the authors take PSNR of, where they take it."""
    crop_protocol: CropProtocol = "adm"
    """How the authors cut validation images."""
    feature_pixels: Literal["rounded", "truncated", "unrounded"] = "rounded"
    """The authors' reconstructions as their feature network gets them."""


def rename(name: str, table: Table) -> str | None:
    """Our name of a released tensor; None where it is left out on purpose. Unknown names come back as they are."""
    for pattern, replacement in table:
        if replacement is not None:
            name = re.sub(pattern, replacement, name)
        elif re.search(pattern, name):
            return None
    return name
