"""A tokenizer's folder: tokenizer.safetensors and config.json, read into a frozen model and written from one.

Read next: glotok_ray/nn/tokenizer.py
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from glotok_ray.config.overrides import from_dict, to_dict
from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import load_weights, save_weights

WEIGHTS_FILE = "tokenizer.safetensors"
CONFIG_FILE = "config.json"
DISCRIMINATOR_FILE = "discriminator.safetensors"
"""Beside the weights of a training, which another may start from."""


def load_tokenizer(folder: Path) -> GloTokTokenizer:
    """The frozen tokenizer of a finished tokenizer folder whose manifest verifies, on the CPU, in evaluation mode."""
    artefact.read_manifest(folder, "tokenizer")
    return read_tokenizer(folder)


def tokenizer_config(folder: Path) -> TokenizerConfig:
    """The model's config in a tokenizer's folder; raises ArtefactError when there is none of this version."""
    stored = artefact.read_json(folder / CONFIG_FILE)
    if not isinstance(stored, dict) or "model" not in stored:
        raise ArtefactError(
            f"{folder / CONFIG_FILE}: holds no model section; is {folder} a tokenizer's folder?"
        )
    try:
        return from_dict(TokenizerConfig, stored["model"])
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{folder / CONFIG_FILE}: its model section is no tokenizer of this version ({error}); correct the "
            "path, or export the tokenizer again"
        ) from error


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
