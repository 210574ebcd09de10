"""Evaluations: reconstructions of a tokenizer, samples of a generator, or both.

Generators have the names of their rows in glotok_ray/recipes/sample_images.py, which states guidance and steps.
"""

from collections.abc import Callable

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import override
from glotok_ray.config.pool import PoolConfig

_IBQ = ("ibq_16384_imported", "ibq_16384_ten_crop_codes")
_VAR = ("var_256_imported", "var_256_codes")
_IMAGEFOLDER = ("imagefolder_4096_imported", "imagefolder_4096_codes")
_RQ_VAE = ("rq_vae_imported", "rq_vae_codes")
_RQ_VAE_10_EPOCHS = ("rq_vae_10_epochs_imported", "rq_vae_10_epochs_codes")
"""Tokenizer and training codes of a family."""


def glotok_16k() -> EvaluateRun:
    """Reconstructions of the 50,000 ImageNet validation images by glotok_16k."""
    return EvaluateRun(
        tokenizer_path="runs/glotok_16k",
        data_path="data/imagenet/validation",
        output_path="runs/glotok_16k_evaluation",
        statistics_path="runs/statistics",
        adm_protocol=True,
    )


def glotok_2x() -> EvaluateRun:
    """Reconstructions of the 50,000 ImageNet validation images by glotok_2x."""
    return override(
        glotok_16k(),
        {"tokenizer_path": "runs/glotok_2x", "output_path": "runs/glotok_2x_evaluation"},
    )


def xar_b() -> EvaluateRun:
    """The samples of xar_b, with the two baselines through the same decoder; Table 2: gFID 2.12, IS 272.16."""
    return _samples("xar_b", "glotok_16k")


def xar_l() -> EvaluateRun:
    """The samples of xar_l and their baselines; not in Table 2."""
    return _samples("xar_l", "glotok_16k")


def xar_h() -> EvaluateRun:
    """The samples of xar_h and their baselines; Table 2: gFID 1.75, IS 327.50."""
    return _samples("xar_h", "glotok_16k")


def xar_b_2x() -> EvaluateRun:
    """The samples of xar_b_2x and their baselines; Table 2: gFID 2.00, IS 269.25."""
    return _samples("xar_b_2x", "glotok_2x")


def xar_l_2x() -> EvaluateRun:
    """The samples of xar_l_2x and their baselines; not in Table 2."""
    return _samples("xar_l_2x", "glotok_2x")


def xar_h_2x() -> EvaluateRun:
    """The samples of xar_h_2x and their baselines; not in Table 2."""
    return _samples("xar_h_2x", "glotok_2x")


def xar_b_llamagen() -> EvaluateRun:
    """The samples of xar_b_llamagen and their baselines; Table 2, VQ-VAE: gFID 2.47, IS 277.63."""
    return _samples("xar_b_llamagen", "llamagen_vq16_imported", "llamagen_vq16_codes")


def far_b() -> EvaluateRun:
    """The samples of far_b and their baselines; Table 2: gFID 3.13, IS 280.66."""
    return _samples("far_b", "glotok_16k", "glotok_16k_ten_crop_codes")


def far_l() -> EvaluateRun:
    """The samples of far_l and their baselines; Table 2: gFID 2.98, IS 285.34."""
    return _samples("far_l", "glotok_16k", "glotok_16k_ten_crop_codes")


def far_b_2x() -> EvaluateRun:
    """The samples of far_b_2x and their baselines; Table 2: gFID 2.95, IS 261.38."""
    return _samples("far_b_2x", "glotok_2x", "glotok_2x_ten_crop_codes")


def far_l_2x() -> EvaluateRun:
    """The samples of far_l_2x and their baselines; not in Table 2."""
    return _samples("far_l_2x", "glotok_2x", "glotok_2x_ten_crop_codes")


def far_b_fqgan() -> EvaluateRun:
    """The samples of far_b_fqgan and their baselines; Table 2, FQGAN 415M: gFID 3.38, IS 248.26."""
    return _samples("far_b_fqgan", "fqgan_dual_imported", "fqgan_dual_ten_crop_codes")


def far_l_fqgan() -> EvaluateRun:
    """The samples of far_l_fqgan and their baselines; Table 2, FQGAN 898M: gFID 3.08, IS 272.52."""
    return _samples("far_l_fqgan", "fqgan_dual_imported", "fqgan_dual_ten_crop_codes")


def gpt_b() -> EvaluateRun:
    """The samples of gpt_b and their baselines; Table 2, LlamaGen-B: gFID 5.46, IS 193.61."""
    return _samples("gpt_b", "llamagen_vq16_imported", "llamagen_vq16_ten_crop_codes")


def gpt_l() -> EvaluateRun:
    """The samples of gpt_l and their baselines; not in Table 2."""
    return _samples("gpt_l", "llamagen_vq16_imported", "llamagen_vq16_ten_crop_codes")


def gpt_xl() -> EvaluateRun:
    """The samples of gpt_xl and their baselines; not in Table 2; LlamaGen's appendix, 50 epochs: 3.391 / 227.08."""
    return _samples("gpt_xl", "llamagen_vq16_imported", "llamagen_vq16_ten_crop_codes")


def gpt_xxl() -> EvaluateRun:
    """The samples of gpt_xxl and their baselines; Table 2, LlamaGen-XXL: gFID 3.09, IS 253.60 (source: 3.094 /
    253.609, a model of 50 epochs at guidance 1.75).
    """
    return _samples("gpt_xxl", "llamagen_vq16_imported", "llamagen_vq16_ten_crop_codes")


def gpt_3b() -> EvaluateRun:
    """The samples of gpt_3b and their baselines; Table 2, LlamaGen-3B: gFID 3.06, IS 279.71 (source: 3.063 / 279.716,
    a model of 50 epochs at guidance 1.75).
    """
    return _samples("gpt_3b", "llamagen_vq16_imported", "llamagen_vq16_ten_crop_codes")


def ibq_b() -> EvaluateRun:
    """The samples of ibq_b and their baselines; Table 2, IBQ-B: gFID 2.88, IS 254.73, as in IBQ's README."""
    return _samples("ibq_b", *_IBQ)


def ibq_l() -> EvaluateRun:
    """The samples of ibq_l and their baselines; not in Table 2; IBQ's README: 2.45 / 267.48."""
    return _samples("ibq_l", *_IBQ)


def ibq_xl() -> EvaluateRun:
    """The samples of ibq_xl and their baselines; not in Table 2; IBQ's README: 2.14 / 278.99."""
    return _samples("ibq_xl", *_IBQ)


def ibq_xxl() -> EvaluateRun:
    """The samples of ibq_xxl and their baselines; Table 2, IBQ-XXL: gFID 2.05, IS 286.73, as in IBQ's README."""
    return _samples("ibq_xxl", *_IBQ)


def taming_gpt() -> EvaluateRun:
    """The samples of taming_gpt and their baselines; its README: FID 15.98 to 5.20 by torch-fidelity against the
    training set. Table 2's VQGAN is another model: see taming_gpt_small.
    """
    return _samples("taming_gpt", "taming_f16_16384_imported", "taming_f16_16384_ten_crop_codes")


def taming_gpt_small() -> EvaluateRun:
    """The samples of taming_gpt_small and their baselines; Table 2, VQGAN: gFID 18.65, IS 80.4, a baseline of MaskGIT's
    authors with an evaluator that is not documented.
    """
    return _samples(
        "taming_gpt_small", "taming_f16_1024_imported", "taming_f16_1024_ten_crop_codes"
    )


def vqgan_lc_gpt() -> EvaluateRun:
    """The samples of vqgan_lc_gpt and their baselines; Table 2, VQGAN-LC: gFID 15.4 by clean-fid against the training
    images, which ADM's evaluator does not reproduce.
    """
    return _samples("vqgan_lc_gpt", "vqgan_lc_100k_imported", "vqgan_lc_100k_center_codes")


def var_d16() -> EvaluateRun:
    """The samples of var_d16 and their baselines; Table 2, VAR-d16: gFID 3.30, IS 274.4 (VAR's README for the released
    file: 3.55).
    """
    return _samples("var_d16", *_VAR)


def var_d20() -> EvaluateRun:
    """The samples of var_d20 and their baselines; not in Table 2; VAR's paper: 2.57 / 302.6, its README for the
    released file 2.95.
    """
    return _samples("var_d20", *_VAR)


def var_d24() -> EvaluateRun:
    """The samples of var_d24 and their baselines; Table 2, VAR-d24: gFID 2.09, IS 312.9 (VAR's README for the released
    file: 2.33).
    """
    return _samples("var_d24", *_VAR)


def var_d30() -> EvaluateRun:
    """The samples of var_d30 and their baselines; Table 2, VAR-d30: gFID 1.92, IS 323.1 (VAR's README for the released
    file: 1.97).
    """
    return _samples("var_d30", *_VAR)


def imagefolder_var_d17() -> EvaluateRun:
    """The samples of imagefolder_var_d17 and their baselines; Table 2, ImageFolder: gFID 2.60 (its README), IS 295.0
    (its authors' later paper).
    """
    return _samples("imagefolder_var_d17", *_IMAGEFOLDER)


def rq_480m() -> EvaluateRun:
    """The samples of rq_480m and their baselines; not in Table 2; its README: FID 15.72 by statistics of its own, IS
    86.8 by others.
    """
    return _samples("rq_480m", *_RQ_VAE_10_EPOCHS)


def rq_821m() -> EvaluateRun:
    """The samples of rq_821m and their baselines; not in Table 2; its README: FID 13.11 by statistics of its own, IS
    104.3 by others.
    """
    return _samples("rq_821m", *_RQ_VAE_10_EPOCHS)


def rq_1400m() -> EvaluateRun:
    """The samples of rq_1400m, on the tokenizer of 50 epochs, and their baselines; not in Table 2; its README: FID 8.71
    by statistics of its own (3.89 with rejection, which is not released; 11.56 on the tokenizer of 10 epochs).
    """
    return _samples("rq_1400m", *_RQ_VAE)


def rq_3800m() -> EvaluateRun:
    """The samples of rq_3800m and their baselines; not in Table 2; its README: FID 7.55 by statistics of its own (3.80
    with rejection, which is not released), IS 134.0 by others.
    """
    return _samples("rq_3800m", *_RQ_VAE)


def _samples(name: str, tokenizer: str, codes: str = "") -> EvaluateRun:
    """Samples of a generator, and baselines from the marginals of its training codes."""
    changes = {
        "tokenizer_path": f"runs/{tokenizer}",
        "samples_path": f"runs/{name}_samples",
        "codes_path": f"runs/{codes or f'{tokenizer}_codes'}",
        "output_path": f"runs/{name}_evaluation",
    }
    return override(glotok_16k(), changes)


def quickstart() -> EvaluateRun:
    """Reconstructions of the quickstart's validation crops, the samples of xAR, their two baselines and nearest
    training crops, and xAR's loss.
    """
    return EvaluateRun(
        tokenizer_path="runs/quickstart/tokenizer",
        data_path="runs/quickstart/data/validation",
        samples_path="runs/quickstart/samples",
        codes_path="runs/quickstart/codes",
        training_path="runs/quickstart/data/train",
        generator_path="runs/quickstart/generator",
        output_path="runs/quickstart/evaluation",
        feature_size=48,
        uniformity_repeats=3,
        pool=PoolConfig(
            num_actors=2, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=50
        ),
    )


def quickstart_far() -> EvaluateRun:
    """The quickstart's samples of FAR, their nearest training crops, and FAR's loss."""
    changes = {
        "tokenizer_path": "",
        "codes_path": "",
        "samples_path": "runs/quickstart/far_samples",
        "generator_path": "runs/quickstart/far",
        "output_path": "runs/quickstart/far_evaluation",
    }
    return override(quickstart(), changes)


def quickstart_ibq() -> EvaluateRun:
    """The samples of quickstart_ibq, the two baselines of the same codes, and IBQ's loss."""
    return _quickstart_peer("ibq")


def quickstart_var() -> EvaluateRun:
    """The samples of quickstart_var, the two baselines of the codes of its scales, and VAR's loss."""
    changes = {
        "tokenizer_path": "runs/quickstart/scales",
        "codes_path": "runs/quickstart/scale_codes",
    }
    return override(_quickstart_peer("var"), changes)


def _quickstart_peer(name: str) -> EvaluateRun:
    changes = {
        "samples_path": f"runs/quickstart/{name}_samples",
        "training_path": "",
        "generator_path": f"runs/quickstart/{name}",
        "output_path": f"runs/quickstart/{name}_evaluation",
    }
    return override(quickstart(), changes)


RECIPES: dict[str, Callable[[], EvaluateRun]] = {
    "glotok_16k": glotok_16k,
    "glotok_2x": glotok_2x,
    "xar_b": xar_b,
    "xar_l": xar_l,
    "xar_h": xar_h,
    "xar_b_2x": xar_b_2x,
    "xar_l_2x": xar_l_2x,
    "xar_h_2x": xar_h_2x,
    "xar_b_llamagen": xar_b_llamagen,
    "far_b": far_b,
    "far_l": far_l,
    "far_b_2x": far_b_2x,
    "far_l_2x": far_l_2x,
    "far_b_fqgan": far_b_fqgan,
    "far_l_fqgan": far_l_fqgan,
    "gpt_b": gpt_b,
    "gpt_l": gpt_l,
    "gpt_xl": gpt_xl,
    "gpt_xxl": gpt_xxl,
    "gpt_3b": gpt_3b,
    "ibq_b": ibq_b,
    "ibq_l": ibq_l,
    "ibq_xl": ibq_xl,
    "ibq_xxl": ibq_xxl,
    "taming_gpt": taming_gpt,
    "taming_gpt_small": taming_gpt_small,
    "vqgan_lc_gpt": vqgan_lc_gpt,
    "var_d16": var_d16,
    "var_d20": var_d20,
    "var_d24": var_d24,
    "var_d30": var_d30,
    "imagefolder_var_d17": imagefolder_var_d17,
    "rq_480m": rq_480m,
    "rq_821m": rq_821m,
    "rq_1400m": rq_1400m,
    "rq_3800m": rq_3800m,
    "quickstart": quickstart,
    "quickstart_far": quickstart_far,
    "quickstart_ibq": quickstart_ibq,
    "quickstart_var": quickstart_var,
}
