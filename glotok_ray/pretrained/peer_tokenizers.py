"""Folders of other systems' tokenizers: tokenizer.safetensors and config.json, which names the system.

Read next: glotok_ray/peers/systems.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from glotok_ray.config.overrides import from_dict, to_dict
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.systems import SYSTEMS
from glotok_ray.pretrained.tokenizer import CONFIG_FILE, WEIGHTS_FILE
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.weights import load_weights, save_weights


def built(system: str, config: Any) -> PeerTokenizer:
    """A system's model without numbers, on the meta device, in evaluation mode."""
    with torch.device("meta"):
        return SYSTEMS[system].tokenizer(config).eval()


def empty_peer(folder: Path, stored: Mapping[str, Any]) -> PeerTokenizer:
    """The tokenizer in a folder whose config.json holds `stored`, without numbers; raises ArtefactError for a system or
    a config that this version does not know.
    """
    system, named_in = stored["system"], folder / CONFIG_FILE
    # A list or a mapping has no hash to be looked up by.
    if not isinstance(system, str) or system not in SYSTEMS:
        raise ArtefactError(
            f"{named_in}: system = {system!r}: this version knows {', '.join(SYSTEMS)}; export the tokenizer again"
        )
    try:
        return built(system, from_dict(SYSTEMS[system].config, stored["model"]))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ArtefactError(
            f"{named_in}: its model section is no {system} of this version ({error}); export the tokenizer again"
        ) from error


def read_peer(folder: Path, stored: Mapping[str, Any]) -> PeerTokenizer:
    """The frozen tokenizer in such a folder, on the CPU, in evaluation mode; raises ArtefactError as `empty_peer`, and
    for weights that do not fit.
    """
    model = empty_peer(folder, stored).to_empty(device="cpu")
    load_weights(model, folder / WEIGHTS_FILE)
    return model.requires_grad_(False).to(memory_format=torch.channels_last)


def write_peer(
    folder: Path, model: PeerTokenizer, system: str, facts: Mapping[str, object]
) -> None:
    """Write what `load_tokenizer` reads; `facts` go into config.json beside the model's config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS_FILE, model.state_dict())
    stored = {**facts, "system": system, "model": to_dict(model.config)}
    artefact.write_json(folder / CONFIG_FILE, stored)
