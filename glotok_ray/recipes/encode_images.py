"""Codes of the training set, on which generators train (paper section 3.4).

Two views of an image serve xAR, ten crops FAR and LlamaGen's GPT. ImageNet-1k has 1,281,167 images of 256 positions;
a code of these sizes takes two bytes at most. Read next: glotok_ray/stages/encode_images.py
"""

from glotok_ray.config.jobs import EncodeRun, PoolConfig
from glotok_ray.config.overrides import override


def _imagenet(name: str, tokenizer_path: str) -> EncodeRun:
    return EncodeRun(
        data_path="data/imagenet/train",
        tokenizer_path=tokenizer_path,
        output_path=f"runs/{name}_codes",
        adm_protocol=True,
    )


def _ten_crop(name: str, run: EncodeRun) -> EncodeRun:
    return override(run, {"output_path": f"runs/{name}_codes", "views": "ten_crop"})


def glotok_16k() -> EncodeRun:
    """glotok_16k, the centre and its mirror image, two codebooks: 2.6 GB, for xAR; 8 GPUs."""
    return _imagenet("glotok_16k", "runs/glotok_16k")


def glotok_2x() -> EncodeRun:
    """glotok_2x, the centre and its mirror image, two codebooks: 2.6 GB, for xAR; 8 GPUs."""
    return _imagenet("glotok_2x", "runs/glotok_2x")


def llamagen_vq16() -> EncodeRun:
    """LlamaGen's VQ-16, the centre and its mirror image, one codebook: 1.3 GB, for xAR's baseline; 8 GPUs."""
    return _imagenet("llamagen_vq16", "runs/llamagen_vq16_imported")


def glotok_16k_ten_crop() -> EncodeRun:
    """glotok_16k, ten crops, two codebooks: 13.1 GB, for FAR; 8 GPUs."""
    return _ten_crop("glotok_16k_ten_crop", glotok_16k())


def glotok_2x_ten_crop() -> EncodeRun:
    """glotok_2x, ten crops, two codebooks: 13.1 GB, for FAR; 8 GPUs."""
    return _ten_crop("glotok_2x_ten_crop", glotok_2x())


def fqgan_dual_ten_crop() -> EncodeRun:
    """FQGAN-Dual, ten crops, two codebooks: 13.1 GB, for FAR's baseline; 8 GPUs."""
    run = _imagenet("fqgan_dual", "runs/fqgan_dual_imported")
    return _ten_crop("fqgan_dual_ten_crop", run)


def llamagen_vq16_ten_crop() -> EncodeRun:
    """LlamaGen's VQ-16, ten crops, one codebook: 6.6 GB, for LlamaGen's GPT; 8 GPUs."""
    return _ten_crop("llamagen_vq16_ten_crop", llamagen_vq16())


def taming_f16_16384_ten_crop() -> EncodeRun:
    """taming-transformers' 16,384 codes, ten crops, one codebook: 6.6 GB, for taming_gpt; 8 GPUs."""
    run = _imagenet("taming_f16_16384", "runs/taming_f16_16384_imported")
    return _ten_crop("taming_f16_16384_ten_crop", run)


def taming_f16_1024_ten_crop() -> EncodeRun:
    """taming-transformers' 1,024 codes, ten crops, one codebook: 6.6 GB, for taming_gpt_small; 8 GPUs."""
    run = _imagenet("taming_f16_1024", "runs/taming_f16_1024_imported")
    return _ten_crop("taming_f16_1024_ten_crop", run)


def quickstart() -> EncodeRun:
    """The quickstart's training crops as they are: mirror images would double what its small generators must learn."""
    return EncodeRun(
        data_path="runs/quickstart/data/train",
        tokenizer_path="runs/quickstart/tokenizer",
        output_path="runs/quickstart/codes",
        views="center",
        pool=PoolConfig(
            num_actors=2, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=50
        ),
    )


def ibq_16384_ten_crop() -> EncodeRun:
    """IBQ's 16,384 codes, ten crops, one codebook: 6.6 GB, for ibq_b to ibq_xxl; 8 GPUs."""
    run = _imagenet("ibq_16384", "runs/ibq_16384_imported")
    return _ten_crop("ibq_16384_ten_crop", run)


def vqgan_lc_100k_center() -> EncodeRun:
    """VQGAN-LC's 100,000 codes, the centre, one codebook of four bytes a code: 1.3 GB, for vqgan_lc_gpt; 8 GPUs."""
    run = _imagenet("vqgan_lc_100k_center", "runs/vqgan_lc_100k_imported")
    return override(run, {"views": "center"})


def var_256() -> EncodeRun:
    """VAR's tokenizer, the centre, ten scales: 1.7 GB, for var_d16 to var_d30; 8 GPUs."""
    run = _imagenet("var_256", "runs/var_256_imported")
    return override(run, {"views": "center"})


def imagefolder_4096() -> EncodeRun:
    """ImageFolder's tokenizer, the centre, ten scales in each of two branches: 1.5 GB, for imagefolder_var_d17; 8
    GPUs.
    """
    run = _imagenet("imagefolder_4096", "runs/imagefolder_4096_imported")
    return override(run, {"views": "center"})


def rq_vae() -> EncodeRun:
    """RQ-VAE's residual codes, centre and mirror image, one grid of 8 x 8 x 4: 1.3 GB, for rq_1400m and rq_3800m; 8
    GPUs.
    """
    return _imagenet("rq_vae", "runs/rq_vae_imported")


def rq_vae_10_epochs() -> EncodeRun:
    """As rq_vae, of the tokenizer of 10 epochs, for rq_480m and rq_821m; 8 GPUs."""
    return _imagenet("rq_vae_10_epochs", "runs/rq_vae_10_epochs_imported")


def glotok_16k_scales() -> EncodeRun:
    """Ten scales over glotok_16k, the centre: 1.7 GB, for VAR on this package's tokenizer; 8 GPUs."""
    run = _imagenet("glotok_16k_scales", "runs/glotok_16k_scales")
    return override(run, {"views": "center"})


def quickstart_var() -> EncodeRun:
    """The quickstart's training crops on the scales of `jobs.build_scales quickstart`."""
    changes = {
        "tokenizer_path": "runs/quickstart/scales",
        "output_path": "runs/quickstart/scale_codes",
    }
    return override(quickstart(), changes)


RECIPES = {
    function.__name__: function
    for function in (
        glotok_16k,
        glotok_2x,
        llamagen_vq16,
        glotok_16k_ten_crop,
        glotok_2x_ten_crop,
        fqgan_dual_ten_crop,
        llamagen_vq16_ten_crop,
        taming_f16_16384_ten_crop,
        taming_f16_1024_ten_crop,
        ibq_16384_ten_crop,
        vqgan_lc_100k_center,
        var_256,
        imagefolder_4096,
        rq_vae,
        rq_vae_10_epochs,
        glotok_16k_scales,
        quickstart,
        quickstart_var,
    )
}
