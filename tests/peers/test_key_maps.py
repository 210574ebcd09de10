"""The names and shapes of released files are those of the models, both ways; what is left out is known."""

import pytest
import torch

from glotok_ray.peers.released import rename
from glotok_ray.peers.systems import SYSTEMS, released
from tests.peers.pseudo_weights import released_names, released_shapes

# By the released file: its list of names, and the beginnings of those that inference has no use for.
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ibq_16384": ("ibq_16384", ()),
    "imagefolder_4096": (
        "imagefolder_msvr10p2_4096",
        (
            "encoder.lvl1LC",
            "decoder.lvl1LC",
            "quantizes.0.ema_vocab_hit_SV",
            "quantizes.1.ema_vocab_hit_SV",
        ),
    ),
    "maskbit_14bit": ("maskbit_tokenizer_14bit", ("quantize.",)),
    "maskgit_vqgan": ("maskgit_vqgan_1024", ()),
    "open_magvit2_256": ("open_magvit2_256_262144", ()),
    "open_magvit2_pretrain_16384": ("open_magvit2_pretrain_16384", ()),
    "rq_vae": (
        "rqvae_imagenet_8x8x4_16384",
        tuple(
            f"quantizer.codebooks.{place}.{name}"
            for place in range(4)
            for name in ("cluster_size_ema", "embed_ema")
        ),
    ),
    "titok_s128": ("titok_s128", ()),
    "titok_b64": ("titok_b64", ()),
    "titok_l32": ("titok_l32", ()),
    "tokenflow": (
        "tokenflow_clipb_32k_enhanced",
        ("decoder_vqkd.", "decode_task_layer.", "quantize.codebook_used"),
    ),
    "var_256": ("var_vqvae_ch160v4096z32", ("quantize.ema_vocab_hit_SV",)),
    "vqgan_lc_100k": ("vqgan_lc_100k_f16", ("discriminator.",)),
    "vqgan_plus_12bit": ("vqgan_plus_12bit", ()),
}


@pytest.mark.parametrize("name", FILES)
def test_released_names_and_shapes_are_the_models(name: str) -> None:
    shapes, _ = FILES[name]
    system, file = released(name)
    with torch.device("meta"):
        expected = SYSTEMS[system].tokenizer(file.config).state_dict()
    found = released_names(SYSTEMS[system], file.config, shapes)
    assert found == {name: tuple(value.shape) for name, value in expected.items()}


@pytest.mark.parametrize("name", FILES)
def test_what_is_left_out_is_known(name: str) -> None:
    shapes, beginnings = FILES[name]
    system, file = released(name)
    table = SYSTEMS[system].names(file.config)
    left_out = {peer for peer in released_shapes(shapes) if rename(peer, table) is None}
    assert left_out == {peer for peer in released_shapes(shapes) if peer.startswith(beginnings)}
