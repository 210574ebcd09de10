"""Finished folders of small tokenizers of other systems, their weights random, beside the smallest shards."""

from dataclasses import replace
from pathlib import Path

import torch

from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.systems import SYSTEMS
from glotok_ray.pretrained.peer_tokenizers import write_peer
from glotok_ray.storage import artefact
from tests.peers.small_systems import SMALL

SIDES = {"var_256": 32}
"""Sides in pixels of those whose small config is larger than the smallest shards."""


def small_config(name: str) -> object:
    """The narrow config of a released file, of images that the smallest shards hold."""
    config = SMALL[name][2]
    if name == "var_256":
        # Of a trunk that halves four times.
        trunk = replace(config.autoencoder, image_size=SIDES[name])
        return replace(config, autoencoder=trunk, sides=(1, 2), smoothing=(0, 1))
    return config


def write_peer_folder(folder: Path, name: str) -> PeerTokenizer:
    """The finished folder of a tokenizer named as a released file; returns what it holds."""
    system = SMALL[name][0]
    torch.manual_seed(0)
    model = SYSTEMS[system].tokenizer(small_config(name)).eval().requires_grad_(False)
    write_peer(folder, model, system, {"released": name})
    artefact.write_manifest(folder, "tokenizer")
    return model
