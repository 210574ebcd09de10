"""Exports of tokenizers: a run of this package, or a peer's checkpoint file under its config.

Read next: jobs/export_tokenizer.py
"""

from collections.abc import Callable
from typing import Literal

from glotok_ray.config.jobs import ExportRun
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.recipes import train_tokenizer


def run() -> ExportRun:
    """A run of `jobs.train_tokenizer`, finished or not, or one of its checkpoints: pass --source-path."""
    return ExportRun()


def _of(recipe: TokenizerRun) -> ExportRun:
    return ExportRun(output_path=f"runs/{recipe.name}_imported", model=recipe.model)


def llamagen_vq16() -> ExportRun:
    """LlamaGen's vq_ds16_c2i.pt."""
    return _of(train_tokenizer.llamagen_vq16())


def llamagen_vq8() -> ExportRun:
    """LlamaGen's vq_ds8_c2i.pt."""
    return _of(train_tokenizer.llamagen_vq8())


def fqgan_dual() -> ExportRun:
    """FQGAN's fqgan_dual_ds16.pt, with its contrast head."""
    return _of(train_tokenizer.fqgan_dual())


def fqgan_triple() -> ExportRun:
    """FQGAN's fqgan_triple_ds16.pt, with its contrast heads."""
    return _of(train_tokenizer.fqgan_triple())


def taming_f16_16384() -> ExportRun:
    """taming-transformers' vqgan_imagenet_f16_16384, last.ckpt."""
    return _of(train_tokenizer.taming_f16_16384())


def taming_f16_1024() -> ExportRun:
    """taming-transformers' vqgan_imagenet_f16_1024, last.ckpt."""
    return _of(train_tokenizer.taming_f16_1024())


# Released tokenizers of other systems, as glotok_ray/peers/systems.py names them: name, preferred weights, the file.
PEERS: tuple[tuple[str, Literal["model", "ema"], str], ...] = (
    ("ibq_1024", "ema", "IBQ's imagenet256_1024.ckpt"),
    ("ibq_8192", "ema", "IBQ's imagenet256_8192.ckpt"),
    ("ibq_16384", "ema", "IBQ's imagenet256_16384.ckpt"),
    ("ibq_262144", "ema", "IBQ's imagenet256_262144.ckpt"),
    ("ibq_pretrain_16384", "ema", "IBQ's IBQ_pretrain_16384.ckpt"),
    ("ibq_pretrain_262144", "ema", "IBQ's IBQ_pretrain_262144.ckpt"),
    (
        "imagefolder_4096",
        "model",
        "ImageFolder's MSVR10P2-4096/best_ckpt.pt, or its generator's VAR-d17-MSVR10P2-4096/ar-ckpt-last.pth",
    ),
    ("imagefolder_8192", "model", "ImageFolder's MSVR10P2-8192/best_ckpt.pt"),
    ("imagefolder_16384", "model", "ImageFolder's MSVR10P2-16384/best_ckpt.pt"),
    ("maskbit_10bit", "model", "MaskBit's maskbit_tokenizer_10bit.bin"),
    ("maskbit_12bit", "model", "MaskBit's maskbit_tokenizer_12bit.bin"),
    ("maskbit_14bit", "model", "MaskBit's maskbit_tokenizer_14bit.bin"),
    ("maskbit_16bit", "model", "MaskBit's maskbit_tokenizer_16bit.bin"),
    ("maskbit_18bit", "model", "MaskBit's maskbit_tokenizer_18bit.bin"),
    (
        "maskgit_vqgan",
        "model",
        "MaskGIT's VQGAN as maskgit_tokenizer.bin of the MaskBit repository",
    ),
    ("open_magvit2_256", "ema", "Open-MAGVIT2's imagenet_256_L.ckpt"),
    ("open_magvit2_128", "ema", "Open-MAGVIT2's imagenet_128_L.ckpt"),
    ("open_magvit2_pretrain_16384", "ema", "Open-MAGVIT2's pretrain256_16384.ckpt"),
    ("open_magvit2_pretrain_262144", "ema", "Open-MAGVIT2's pretrain256_262144.ckpt"),
    ("rq_vae", "model", "The RQ-VAE in Kakao Brain's imagenet_1.4B_rqvae_50e.tar.gz"),
    ("titok_s128", "model", "TiTok-S-128's tokenizer_titok_s128.bin, or model.safetensors"),
    ("titok_b64", "model", "TiTok-B-64's tokenizer_titok_b64.bin, or model.safetensors"),
    ("titok_l32", "model", "TiTok-L-32's tokenizer_titok_l32.bin, or model.safetensors"),
    ("tokenflow", "model", "TokenFlow's tokenflow_clipb_32k_enhanced.pt"),
    ("var_256", "model", "VAR's vae_ch160v4096z32.pth, for 256 pixels"),
    ("var_512", "model", "VAR's vae_ch160v4096z32.pth, for 512 pixels"),
    ("vqgan_lc_16384", "model", "VQGAN-LC's vqgan-lc-16384-f16-dim8.pth"),
    ("vqgan_lc_100k", "model", "VQGAN-LC's vqgan-lc-100K-f16-dim8.pth"),
    ("vqgan_plus_10bit", "model", "VQGAN+'s vqgan_plus_paper.bin"),
    ("vqgan_plus_12bit", "model", "VQGAN+'s vqgan_plus_12bit.bin"),
)


def _peer(name: str, weights: Literal["model", "ema"], file: str) -> Callable[[], ExportRun]:
    def recipe() -> ExportRun:
        return ExportRun(output_path=f"runs/{name}_imported", peer=name, weights=weights)

    recipe.__name__, recipe.__doc__ = name, f"{file}."
    return recipe


RECIPES = {
    function.__name__: function
    for function in (
        run,
        llamagen_vq16,
        llamagen_vq8,
        fqgan_dual,
        fqgan_triple,
        taming_f16_16384,
        taming_f16_1024,
    )
} | {name: _peer(name, weights, file) for name, weights, file in PEERS}
