"""Exports of generators: a run of this package, or a peer's checkpoint file under its config.

Read next: jobs/export_generator.py
"""

from glotok_ray.config.jobs import ExportGeneratorRun
from glotok_ray.config.overrides import override
from glotok_ray.config.runs import AnyGeneratorRun, RQRun, VARRun, XARRun
from glotok_ray.recipes import peer_generators, rq_transformers, train_generator, var_generators


def run() -> ExportGeneratorRun:
    """A finished run of `jobs.train_generator`: pass --source-path."""
    return ExportGeneratorRun()


def _of(recipe: AnyGeneratorRun) -> ExportGeneratorRun:
    output_path = f"runs/{recipe.name}_imported"
    if isinstance(recipe, XARRun):
        return ExportGeneratorRun(
            output_path=output_path, weights="model", architecture="xar", xar=recipe.model
        )
    if isinstance(recipe, VARRun):
        return ExportGeneratorRun(
            output_path=output_path, weights="model", architecture="var", var=recipe.model
        )
    if isinstance(recipe, RQRun):
        return ExportGeneratorRun(
            output_path=output_path, weights="model", architecture="rq", rq=recipe.model
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
    return _of(peer_generators.gpt_b())


def gpt_l() -> ExportGeneratorRun:
    """LlamaGen's GPT-L; its tokenizer: --tokenizer-path runs/llamagen_vq16_imported."""
    return _of(peer_generators.gpt_l())


def gpt_xl() -> ExportGeneratorRun:
    """LlamaGen's GPT-XL, of which only a file for 384 pixels is listed: pass --far.grid-size 24 for it; its tokenizer:
    --tokenizer-path runs/llamagen_vq16_imported.
    """
    return _of(peer_generators.gpt_xl())


def gpt_xxl() -> ExportGeneratorRun:
    """LlamaGen's GPT-XXL; file, flag and tokenizer as of gpt_xl."""
    return _of(peer_generators.gpt_xxl())


def gpt_3b() -> ExportGeneratorRun:
    """LlamaGen's GPT-3B; file, flag and tokenizer as of gpt_xl; takes 40 GB of memory."""
    return _of(peer_generators.gpt_3b())


def ibq_b() -> ExportGeneratorRun:
    """IBQ's AR_256_B.ckpt; its tokenizer: --tokenizer-path runs/ibq_16384_imported."""
    return _of(peer_generators.ibq_b())


def ibq_l() -> ExportGeneratorRun:
    """IBQ's AR_256_L.ckpt; its tokenizer: --tokenizer-path runs/ibq_16384_imported."""
    return _of(peer_generators.ibq_l())


def ibq_xl() -> ExportGeneratorRun:
    """IBQ's AR_256_XL.ckpt; its tokenizer: --tokenizer-path runs/ibq_16384_imported."""
    return _of(peer_generators.ibq_xl())


def ibq_xxl() -> ExportGeneratorRun:
    """IBQ's AR_256_XXL.ckpt; its tokenizer: --tokenizer-path runs/ibq_16384_imported."""
    return _of(peer_generators.ibq_xxl())


def taming_gpt() -> ExportGeneratorRun:
    """taming-transformers' cin_transformer, last.ckpt; its tokenizer: --tokenizer-path
    runs/taming_f16_16384_imported.
    """
    return _of(peer_generators.taming_gpt())


def vqgan_lc_gpt() -> ExportGeneratorRun:
    """VQGAN-LC's gpt-lc-100K-f16.pth; its tokenizer: --tokenizer-path runs/vqgan_lc_100k_imported."""
    return _of(peer_generators.vqgan_lc_gpt())


def var_d16() -> ExportGeneratorRun:
    """VAR's var_d16.pth; its tokenizer: --tokenizer-path runs/var_256_imported."""
    return _of(var_generators.var_d16())


def var_d20() -> ExportGeneratorRun:
    """VAR's var_d20.pth; its tokenizer: --tokenizer-path runs/var_256_imported."""
    return _of(var_generators.var_d20())


def var_d24() -> ExportGeneratorRun:
    """VAR's var_d24.pth; its tokenizer: --tokenizer-path runs/var_256_imported."""
    return _of(var_generators.var_d24())


def var_d30() -> ExportGeneratorRun:
    """VAR's var_d30.pth; its tokenizer: --tokenizer-path runs/var_256_imported; takes 25 GB of memory."""
    return _of(var_generators.var_d30())


def imagefolder_var_d17() -> ExportGeneratorRun:
    """ImageFolder's VAR-d17-MSVR10P2-4096/ar-ckpt-last.pth, for non-commercial research alone; its tokenizer, also in
    the file: --tokenizer-path runs/imagefolder_4096_imported.
    """
    return _of(var_generators.imagefolder_var_d17())


def rq_480m() -> ExportGeneratorRun:
    """RQ-Transformer in Kakao Brain's imagenet_480M.tar.gz, for non-commercial use alone; `--weights ema` takes its
    average; its tokenizer, of 10 epochs and in the same archive: --tokenizer-path runs/rq_vae_10_epochs_imported.
    """
    return _of(rq_transformers.rq_480m())


def rq_821m() -> ExportGeneratorRun:
    """The one in imagenet_821M.tar.gz; licence, weights and tokenizer as of rq_480m."""
    return _of(rq_transformers.rq_821m())


def rq_1400m() -> ExportGeneratorRun:
    """The one in imagenet_1.4B_rqvae_50e.tar.gz; licence and weights as of rq_480m; its tokenizer: --tokenizer-path
    runs/rq_vae_imported. The one in imagenet_1.4B.tar.gz has the tokenizer of rq_480m. Takes 20 GB of memory.
    """
    return _of(rq_transformers.rq_1400m())


def rq_3800m() -> ExportGeneratorRun:
    """The one in imagenet_3.8B_rqvae_50e.tar.gz; licence and weights as of rq_480m; its tokenizer: --tokenizer-path
    runs/rq_vae_imported. Takes 50 GB of memory.
    """
    return _of(rq_transformers.rq_3800m())


RECIPES = {
    function.__name__: function
    for function in (
        run,
        xar_b,
        xar_l,
        xar_h,
        far_b_fqgan,
        far_l_fqgan,
        gpt_b,
        gpt_l,
        gpt_xl,
        gpt_xxl,
        gpt_3b,
        ibq_b,
        ibq_l,
        ibq_xl,
        ibq_xxl,
        taming_gpt,
        vqgan_lc_gpt,
        var_d16,
        var_d20,
        var_d24,
        var_d30,
        imagefolder_var_d17,
        rq_480m,
        rq_821m,
        rq_1400m,
        rq_3800m,
    )
}
