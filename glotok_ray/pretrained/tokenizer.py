"""A tokenizer's folder: tokenizer.safetensors and config.json, read into a frozen model and written from one.

Read next: glotok_ray/nn/tokenizer.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from glotok_ray.config.overrides import from_dict, to_dict
from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.data.code_layout import CodeColumn, CodeLayout
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.tokenizer_protocol import Rate, Tokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import (
    load_weights,
    misfits,
    misfitting,
    save_weights,
    stored_shapes,
)

if TYPE_CHECKING:
    from glotok_ray.peers.base import PeerTokenizer

WEIGHTS_FILE = "tokenizer.safetensors"
CONFIG_FILE = "config.json"
SYSTEM = "system"
"""Entry of config.json that names another system; ours has none."""
DISCRIMINATOR_FILE = "discriminator.safetensors"
"""Beside the weights of a training, which another may start from."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """The frozen tokenizer of a finished folder whose manifest verifies, ours or another system's, on the CPU, in
    evaluation mode.
    """
    return load_any_tokenizer(folder)


def load_any_tokenizer(folder: Path) -> "GloTokTokenizer | PeerTokenizer":
    """`load_tokenizer` where a module's own methods are needed, and `look_up` and `images_of`, which do not wait."""
    artefact.read_manifest(folder, "tokenizer")
    return read_any_tokenizer(folder)


def read_any_tokenizer(folder: Path) -> "GloTokTokenizer | PeerTokenizer":
    """The same of a folder without a manifest, such as the copy beside a generator."""
    stored = _stored(folder)
    if SYSTEM not in stored:
        return read_tokenizer(folder)
    from glotok_ray.pretrained.peer_tokenizers import read_peer

    return read_peer(folder, stored)


def what_is_decoded(folder: Path) -> TokenizerConfig | Rate:
    """What tells whether a tokenizer decodes a generator's codes: of ours its config, of another system's its grids."""
    if SYSTEM in _stored(folder):
        return empty_tokenizer(folder).rate
    return tokenizer_config(folder)


def empty_tokenizer(folder: Path) -> "GloTokTokenizer | PeerTokenizer":
    """The tokenizer of a folder without numbers, on the meta device: for its rate and its size."""
    stored = _stored(folder)
    if SYSTEM in stored:
        from glotok_ray.pretrained.peer_tokenizers import empty_peer

        return empty_peer(folder, stored)
    with torch.device("meta"):
        return GloTokTokenizer(tokenizer_config(folder)).eval()


def load_glotok_tokenizer(folder: Path) -> GloTokTokenizer:
    """`load_tokenizer` where the branches of a `GloTokTokenizer` are needed; raises ArtefactError for another
    system's.
    """
    artefact.read_manifest(folder, "tokenizer")
    return read_tokenizer(folder)


def check_stored_tokenizer(folder: Path) -> None:
    """Raise ArtefactError where the tensors in a tokenizer's folder do not fit the config beside them. No value is
    read, so that a driver can look before it starts a cluster.
    """
    path = folder / WEIGHTS_FILE
    problems = misfits(stored_shapes(path), empty_tokenizer(folder).state_dict())
    if problems:
        raise misfitting(path, problems)


def code_layout(folder: Path) -> CodeLayout:
    """What files of codes hold of a tokenizer of any system, in a folder with or without a manifest; raises
    ArtefactError when there is none of this version.
    """
    system = _stored(folder).get(SYSTEM)
    if system is None:
        return CodeLayout.glotok(tokenizer_config(folder))
    model = empty_tokenizer(folder)
    named = zip(model.grid_names, model.rate.grids, strict=True)
    columns = tuple(CodeColumn(name, grid.num_codes, grid.shape) for name, grid in named)
    return CodeLayout(model.image_size, columns, system)


def tokenizer_config(folder: Path) -> TokenizerConfig:
    """The model's config in a tokenizer's folder; raises ArtefactError when there is none of this version, and for
    another system's.
    """
    stored = _stored(folder)
    if SYSTEM in stored:
        raise ArtefactError(
            f"{folder / CONFIG_FILE}: holds a tokenizer of the system {stored[SYSTEM]}, and this job takes GloTok's, "
            "LlamaGen's, FQGAN's and taming's alone; jobs.encode_images, jobs.evaluate_images and "
            "jobs.evaluate_tokenizers take all"
        )
    try:
        return from_dict(TokenizerConfig, stored["model"])
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{folder / CONFIG_FILE}: its model section is no tokenizer of this version ({error}); correct the "
            "path, or export the tokenizer again"
        ) from error


def _stored(folder: Path) -> dict[str, Any]:
    stored = artefact.read_json(folder / CONFIG_FILE)
    if not isinstance(stored, dict) or "model" not in stored:
        raise ArtefactError(
            f"{folder / CONFIG_FILE}: holds no model section; is {folder} a tokenizer's folder?"
        )
    return stored


def read_tokenizer(folder: str | Path) -> GloTokTokenizer:
    """The frozen tokenizer in a folder, with or without a manifest; raises ArtefactError when files are missing or do
    not fit.
    """
    folder = to_path(folder)
    model = GloTokTokenizer(tokenizer_config(folder))
    load_weights(model, folder / WEIGHTS_FILE)
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def write_tokenizer(
    folder: str | Path, model: GloTokTokenizer, facts: Mapping[str, object]
) -> None:
    """Write what `read_tokenizer` reads; `facts` go into config.json beside the model's config."""
    folder = to_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS_FILE, model.state_dict())
    artefact.write_json(folder / CONFIG_FILE, {**facts, "model": to_dict(model.config)})
