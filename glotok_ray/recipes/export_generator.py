"""Exports of generators: a run of this package, or a peer's checkpoint file under its config.

Read next: jobs/export_generator.py
"""

from glotok_ray.config.jobs import ExportGeneratorRun
from glotok_ray.config.overrides import override
from glotok_ray.config.runs import FARRun, XARRun
from glotok_ray.recipes import train_generator


def run() -> ExportGeneratorRun:
    """A finished run of `jobs.train_generator`: pass --source-path."""
    return ExportGeneratorRun()


def _of(recipe: XARRun | FARRun) -> ExportGeneratorRun:
    output_path = f"runs/{recipe.name}_imported"
    if isinstance(recipe, XARRun):
        return ExportGeneratorRun(
            output_path=output_path, weights="model", architecture="xar", xar=recipe.model
        )
    return ExportGeneratorRun(
        output_path=output_path, weights="model", architecture="far", far=recipe.model
    )


def xar_b() -> ExportGeneratorRun:
    """xAR-B as released, on the latents of MAR's KL-16 autoencoder, which no tokenizer of this package decodes."""
    return _of(train_generator.xar_b())


def xar_l() -> ExportGeneratorRun:
    """xAR-L as released, on the latents of MAR's KL-16 autoencoder."""
    return _of(train_generator.xar_l())


def xar_h() -> ExportGeneratorRun:
    """xAR-H as released, on the latents of MAR's KL-16 autoencoder."""
    return _of(train_generator.xar_h())


def far_b_fqgan() -> ExportGeneratorRun:
    """FQGAN's FAR-B; its tokenizer: --tokenizer-path runs/fqgan_dual_imported."""
    return _of(train_generator.far_b_fqgan())


def far_l_fqgan() -> ExportGeneratorRun:
    """FQGAN's FAR-L; its tokenizer: --tokenizer-path runs/fqgan_dual_imported."""
    recipe = train_generator.far_l_2x()  # two codebooks of 16,384 codes, as FQGAN-Dual has
    return override(_of(recipe), {"output_path": "runs/far_l_fqgan_imported"})


def gpt_b() -> ExportGeneratorRun:
    """LlamaGen's GPT-B; its tokenizer: --tokenizer-path runs/llamagen_vq16_imported."""
    return _of(train_generator.gpt_b())


def gpt_l() -> ExportGeneratorRun:
    """LlamaGen's GPT-L; its tokenizer: --tokenizer-path runs/llamagen_vq16_imported."""
    return _of(train_generator.gpt_l())


RECIPES = {
    function.__name__: function
    for function in (run, xar_b, xar_l, xar_h, far_b_fqgan, far_l_fqgan, gpt_b, gpt_l)
}
