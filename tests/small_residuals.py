"""RQ-Transformer in small: a tokenizer of residual codes, a file as released, and the folder that is made of it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from glotok_ray.config import ExportGeneratorRun, override, to_dict
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.tokenizer import AutoencoderConfig
from glotok_ray.interop.rq_generator import export_rq
from glotok_ray.nn.rq_transformer import RQTransformer
from glotok_ray.peers.rq_vae import RQVAEConfig, RQVAETokenizer
from glotok_ray.pretrained.generator import copy_tokenizer, save_generator
from glotok_ray.pretrained.peer_tokenizers import write_peer
from glotok_ray.recipes.export_generator import rq_480m
from glotok_ray.storage import artefact

TOKENIZER = RQVAEConfig(
    # 16 pixels to 2 x 2 positions.
    autoencoder=AutoencoderConfig(
        base_channels=8,
        channel_multipliers=(1, 1, 1, 2),
        norm_groups=4,
        latent_channels=6,
        image_size=16,
    ),
    num_codes=24,
    depth=3,
)
TINY_RQ = RQConfig(
    grid_size=2,
    num_residuals=3,
    num_codes=24,
    code_width=6,
    width=16,
    depth=2,
    head_depth=1,
    num_heads=2,
    num_classes=4,
)


def write_tokenizer(folder: Path) -> RQVAETokenizer:
    """A finished folder of an untrained tokenizer; returns what it holds."""
    torch.manual_seed(0)
    model = RQVAETokenizer(TOKENIZER).eval().requires_grad_(False)
    write_peer(folder, model, "rq_vae", {})
    artefact.write_manifest(folder, "tokenizer")
    return model


def random_model(config: RQConfig, *, seed: int) -> RQTransformer:
    """Every weight is random, and large enough that images of one class differ."""
    torch.manual_seed(seed)
    model = RQTransformer(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def write_released(path: Path, config: RQConfig = TINY_RQ) -> dict[str, dict[str, Tensor]]:
    """A checkpoint as released; returns its raw and averaged weights under our names, "model" and "ema"."""
    names = ("model", "ema")
    states = {
        name: random_model(config, seed=seed).state_dict() for seed, name in enumerate(names, 1)
    }
    keys = {"model": "state_dict", "ema": "state_dict_ema"}
    torch.save({keys[name]: export_rq(state, config) for name, state in states.items()}, path)
    return states


def import_run(folder: Path, **changes: object) -> ExportGeneratorRun:
    """The import of model.pt in `folder` with the tokenizer that lies there."""
    own = {
        "source_path": str(folder / "model.pt"),
        "tokenizer_path": str(folder / "tokenizer"),
        "output_path": str(folder / "rq"),
        "rq": TINY_RQ,
    }
    return override(rq_480m(), own | changes)


def write_generator(folder: Path, tokenizer: Path, classes: Sequence[str], **sizes: int) -> None:
    """A finished folder of an untrained generator, on the small tokenizer or one that it names with `sizes`."""
    config = dataclasses.replace(TINY_RQ, num_classes=len(classes), **sizes)
    facts = {
        "architecture": "rq",
        "model": to_dict(config),
        "tokenizer_sha256": artefact.sha256_of(tokenizer / "tokenizer.safetensors"),
        "classes": list(classes),
    }
    save_generator(folder, random_model(config, seed=3).state_dict(), None, facts)
    copy_tokenizer(tokenizer, folder)
    artefact.write_manifest(folder, "generator")
