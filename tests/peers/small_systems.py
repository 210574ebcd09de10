"""Systems in small: files of the released layouts, a thousandth of their size."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glotok_ray.config.tokenizer import AutoencoderConfig
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.ibq import IBQConfig
from glotok_ray.peers.imagefolder import ImageFolderConfig
from glotok_ray.peers.magvit_trunk import MagvitConfig
from glotok_ray.peers.maskbit import MaskBitConfig
from glotok_ray.peers.released import Released, rename
from glotok_ray.peers.rq_vae import RQVAEConfig
from glotok_ray.peers.systems import SYSTEMS
from glotok_ray.peers.titok import TiTokConfig
from glotok_ray.peers.tokenflow import TokenFlowConfig
from glotok_ray.peers.var import VARConfig
from glotok_ray.peers.vqgan_lc import VQGANLCConfig
from glotok_ray.peers.vqgan_plus import VQGANPlusConfig
from tests.peers.pseudo_weights import released_shapes

_NARROW = {"base_channels": 8, "norm_groups": 4, "latent_channels": 8, "image_size": 32}


def _trunk(**changes: Any) -> AutoencoderConfig:
    return AutoencoderConfig(**(_NARROW | changes))


_SMALL_VQGAN_PLUS = VQGANPlusConfig(image_size=32, num_codes=32, code_width=4, base_channels=32)
SMALL: dict[str, tuple[str, str, Any]] = {
    "ibq_16384": (
        "ibq",
        "ibq_16384",
        IBQConfig(autoencoder=_trunk(num_res_blocks=4), num_codes=32),
    ),
    "imagefolder_4096": (
        "imagefolder",
        "imagefolder_msvr10p2_4096",
        ImageFolderConfig(image_size=64, num_codes=32, code_width=4, width=32, num_heads=2),
    ),
    "maskbit_14bit": (
        "maskbit",
        "maskbit_tokenizer_14bit",
        MaskBitConfig(image_size=32, num_bits=6, base_channels=32),
    ),
    "maskgit_vqgan": (
        "vqgan_plus",
        "maskgit_vqgan_1024",
        replace(_SMALL_VQGAN_PLUS, pooling="average"),
    ),
    "open_magvit2_256": (
        "open_magvit2",
        "open_magvit2_256_262144",
        MagvitConfig(base_channels=8, norm_groups=4, num_bits=6, image_size=32),
    ),
    "rq_vae": (
        "rq_vae",
        "rqvae_imagenet_8x8x4_16384",
        RQVAEConfig(autoencoder=_trunk(channel_multipliers=(1, 1, 2, 2, 4, 4)), num_codes=32),
    ),
    "titok_s128": (
        "titok",
        "titok_s128",
        TiTokConfig(
            image_size=32, width=32, num_heads=2, num_latents=5, num_codes=32, base_channels=32
        ),
    ),
    "tokenflow": (
        "tokenflow",
        "tokenflow_clipb_32k_enhanced",
        TokenFlowConfig(
            encoder=_trunk(image_size=256),
            decoder=_trunk(image_size=256, num_res_blocks=4),
            width=16,
            num_heads=2,
            num_codes=32,
        ),
    ),
    "var_256": (
        "var",
        "var_vqvae_ch160v4096z32",
        VARConfig(autoencoder=_trunk(image_size=256), num_codes=32),
    ),
    "vqgan_lc_100k": (
        "vqgan_lc",
        "vqgan_lc_100k_f16",
        VQGANLCConfig(autoencoder=_trunk(), num_codes=32, feature_width=6, code_width=4),
    ),
    "vqgan_plus_12bit": ("vqgan_plus", "vqgan_plus_12bit", _SMALL_VQGAN_PLUS),
}
"""By the released file's name: its system, the name of its shapes, and a narrow config with the same names."""


def small_model(name: str, monkeypatch: pytest.MonkeyPatch) -> PeerTokenizer:
    """A model of random numbers, whose narrow config the systems have from now on under the released file's name."""
    system, _, config = SMALL[name]
    entry = SYSTEMS[system]
    file = Released(config, entry.released[name].file, 1.5, 20.0, "SOURCE")
    monkeypatch.setitem(SYSTEMS, system, entry._replace(released={name: file}))
    torch.manual_seed(0)
    return entry.tokenizer(config).eval().requires_grad_(False)


def released_tensors(name: str, model: PeerTokenizer) -> dict[str, Tensor]:
    """The model under the names of a released file, with all that such a file holds beside it."""
    system, shapes, config = SMALL[name]
    ours, table = model.state_dict(), SYSTEMS[system].names(config)
    found = {}
    for peer, shape in released_shapes(shapes).items():
        if system == "var" and ".qkv." in peer:
            parts = [ours[str(rename(peer.replace(".qkv.", f".{x}."), table))] for x in "qkv"]
            found[peer] = torch.cat(parts)
        elif peer.startswith("quantizer.codebooks.") and peer.endswith("weight"):
            found[peer] = torch.cat([ours["codebook"], torch.zeros_like(ours["codebook"][:1])])
        else:
            new = rename(peer, table)
            found[peer] = (
                torch.zeros([min(side, 2) for side in shape]) if new is None else ours[new]
            )
    return found


def saved(path: Path, name: str, model: PeerTokenizer, **beside: Any) -> Path:
    """A checkpoint file with the tensors under "state_dict"."""
    torch.save({"state_dict": released_tensors(name, model), **beside}, path)
    return path
