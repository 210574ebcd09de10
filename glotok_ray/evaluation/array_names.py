"""Names of what is stored per image: one row of each array belongs to one image.

Features are named NETWORK.OUTPUT. Those of a validation crop's reconstruction lie beside the crop's own, under the same
name with a prefix. Read next: glotok_ray/evaluation/parts.py
"""

EFFNET_POOLED = "effnet.pooled"
"""Pooled features of EfficientNet-Lite0."""
LPIPS = "lpips"
"""Distance of each validation crop to its reconstruction."""
RECONSTRUCTION, GREY = "reconstruction", "grey"
"""Prefixes of what was made of all codes, and of an image of mid-grey alone."""
LABELS = "labels"
"""Class numbers of validation and training crops, and of those that samples were drawn for."""
IMAGE_IDS = "image"
"""Position of an image within its kind; every part holds it."""


def array_name(network: str, output: str) -> str:
    """The name of one output of the feature network that is called `network` for short."""
    return f"{network}.{output}"


def is_of_network(name: str, network: str) -> bool:
    """Whether an array holds an output of this network for the images themselves, not for their reconstructions."""
    return name.startswith(f"{network}.")


def of_reconstructions(name: str) -> str:
    """The name of the reconstructions' features."""
    return f"reconstruction.{name}"


def retention_psnr(codebook: str) -> str:
    """The name of a codebook's PSNR when it is decoded alone, of arrays and metrics alike."""
    return f"retention_{codebook}_psnr"


def retention_pictures(codebook: str) -> str:
    """The name of the kept pictures of a codebook that is decoded alone."""
    return f"retention_{codebook}"


def error_parts(row: str) -> str:
    """The name of the parts of the squared error of what was decoded: RECONSTRUCTION, GREY, or `retention_pictures`."""
    return f"{row}_error_parts"
