"""Exports of tokenizers: a run of this package, or a peer's checkpoint file under its config.

Read next: jobs/export_tokenizer.py
"""

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
}
