"""Import a tokenizer that LlamaGen, FQGAN or taming-transformers trained: the same function under our names.

Names and shapes alone are checked: the look-up (taming's is "euclidean") and the numbers of attention heads leave no
trace in a checkpoint, and the config must state them. Read next: glotok_ray/interop/tokenizer_layouts.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from glotok_ray.config.tokenizer import DiscriminatorConfig, TokenizerConfig
from glotok_ray.interop import tokenizer_layouts
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import (
    BRING_ANOTHER,
    check_finite,
    misfits,
    read_checkpoint,
    shown_names,
    tensors_of,
    used,
    weights_in,
)

RECIPES = (
    "llamagen_vq16, llamagen_vq8, fqgan_dual, fqgan_triple, taming_f16_16384 or taming_f16_1024"
)

_TAMING_DISCRIMINATOR = "loss.discriminator."


class ImportedTokenizer(NamedTuple):
    """The tensors of a peer's checkpoint under our names, in fp32; they fit the config they were asked for."""

    tokenizer: dict[str, Tensor]
    discriminator: dict[str, Tensor]
    """Of `PatchDiscriminator`; empty where the file has none."""
    left_out: tuple[str, ...]
    """Names in the file that this package has no use for."""
    layout: str
    """A name of `glotok_ray.interop.tokenizer_layouts.LAYOUTS`."""
    sha256: str
    """Digest of the file."""


def import_tokenizer(
    path: str | Path, config: TokenizerConfig, *, weights: Literal["model", "ema"] = "model"
) -> ImportedTokenizer:
    """Read a checkpoint as the state dict of `GloTokTokenizer(config)`; nothing in the file is executed.

    `weights` prefers the raw weights or demands their moving average. Contrast heads that the config does not have are
    left out. Raises ArtefactError, which lists all that does not fit, or all that is not finite.
    """
    path = to_path(path)
    if not isinstance(config, TokenizerConfig):
        raise ValueError(f"config = {config!r}: must be a TokenizerConfig")
    tensors, discriminator = _read(path, weights)
    layout = tokenizer_layouts.detect(tensors)
    if layout is None:
        raise ArtefactError(
            f"{path}: its {len(tensors)} names are of no known layout ({shown_names(tensors)}); known are "
            f"{', '.join(tokenizer_layouts.LAYOUTS)}"
        )
    found, left_out = _renamed(tensors, layout, config)
    _check_tokenizer(path, found, layout, config)
    check_finite(used(tensors, left_out), path, BRING_ANOTHER)
    measured = {
        tokenizer_layouts.rename_discriminator(name): value for name, value in discriminator.items()
    }
    if measured:
        _check_discriminator(path, measured)
        check_finite(discriminator, path, BRING_ANOTHER)
    return ImportedTokenizer(found, measured, left_out, layout, artefact.sha256_of(path))


def _read(
    path: Path, weights: Literal["model", "ema"]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tokenizer's tensors and the discriminator's, under the names in the file."""
    loaded = read_checkpoint(path, purpose="a tokenizer checkpoint")
    tensors = tensors_of(weights_in(path, loaded, weights))
    beside = loaded.get("discriminator")
    discriminator = tensors_of(beside) if isinstance(beside, Mapping) else {}
    inside = [name for name in tensors if name.startswith(_TAMING_DISCRIMINATOR)]
    discriminator |= {
        name.removeprefix(_TAMING_DISCRIMINATOR): tensors.pop(name) for name in inside
    }
    return tensors, discriminator


def _renamed(
    tensors: Mapping[str, Tensor], layout: str, config: TokenizerConfig
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    without_head = tuple(
        f"branches.{name}.contrast."
        for name in tokenizer_layouts.LAYOUTS[layout].codebooks
        if not any(item.name == name and item.contrast.network for item in config.codebooks)
    )
    levels = tokenizer_layouts.count_levels(tensors)
    found: dict[str, Tensor] = {}
    left_out = []
    for peer, value in tensors.items():
        name = tokenizer_layouts.rename(peer, layout, levels)
        if name is None or name.startswith(without_head):
            left_out.append(peer)
        else:
            # A second tensor of one name must not replace the first; so it shows up as an extra one.
            found[f"{name} from {peer}" if name in found else name] = value
    return found, tuple(left_out)


def _check_tokenizer(
    path: Path, found: Mapping[str, Tensor], layout: str, config: TokenizerConfig
) -> None:
    with torch.device("meta"):
        expected = GloTokTokenizer(config).state_dict()
    order = tokenizer_layouts.LAYOUTS[layout].codebooks
    # Names and shapes alone would let two branches of one shape change places before the decoder.
    problems = [
        ""
        if config.names == order
        else f"codebooks in the order {', '.join(config.names)} for {', '.join(order)}",
        misfits(found, expected),
    ]
    if any(problems):
        raise ArtefactError(
            f"{path}: its {layout} names and shapes do not fit the tokenizer's config "
            f"({_described(config)}): {'; '.join(filter(None, problems))}; choose the recipe that fits: {RECIPES}"
        )


def _check_discriminator(path: Path, found: Mapping[str, Tensor]) -> None:
    config = DiscriminatorConfig()
    with torch.device("meta"):
        expected = PatchDiscriminator(config).state_dict()
    problems = misfits(found, expected)
    if problems:
        raise ArtefactError(
            f"{path}: its discriminator is not the recipes' PatchGAN ({config}): {problems}; save the file "
            "without its discriminator to import the tokenizer alone"
        )


def _described(config: TokenizerConfig) -> str:
    trunk = config.autoencoder
    books = ", ".join(
        f"{item.name} {item.size} x {item.width}{' with contrast head' if item.contrast.network else ''}"
        for item in config.codebooks
    )
    return (
        f"codebooks {books}; base_channels {trunk.base_channels} x {trunk.channel_multipliers}, "
        f"image_size {trunk.image_size}, adapter.depth {config.adapter.depth}, "
        f"residual.enabled {config.residual.enabled}"
    )
