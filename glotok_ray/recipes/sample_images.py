"""Class-conditional samples of every generator: 50,000 images each, at the guidance of its paper.

GloTok's paper states neither guidance nor steps, so each row has those of the system that it builds on; on GPUs all of
them sample under autocast. Read next: jobs/sample_images.py
"""

from collections.abc import Callable

from glotok_ray.config.jobs import (
    AnySampleRun,
    FARSampleRun,
    PoolConfig,
    VARSampleRun,
    XARSampleRun,
)
from glotok_ray.config.overrides import override
from glotok_ray.config.samplers import FlowSamplerConfig, ScaleSamplerConfig, TokenSamplerConfig


def xar_b() -> XARSampleRun:
    """xar_b: guidance 2.7, 50 steps per cell as in xAR's paper (Table 6); its README samples B with 40, which
    `--sampler.num-steps 40` does.
    """
    return _xar("xar_b", "glotok_16k", 2.7)


def xar_b_fast() -> XARSampleRun:
    """xar_b with 50 steps in the first cell, falling to 15 in the last (DiSA): faster, and approximate."""
    changes = {"sampler.last_num_steps": 15, "output_path": "runs/xar_b_fast_samples"}
    return override(xar_b(), changes)


def xar_l() -> XARSampleRun:
    """xar_l: guidance 2.3."""
    return _xar("xar_l", "glotok_16k", 2.3)


def xar_h() -> XARSampleRun:
    """xar_h: guidance 2.2."""
    return _xar("xar_h", "glotok_16k", 2.2)


def xar_b_2x() -> XARSampleRun:
    """xar_b_2x: guidance 2.7, 50 steps per cell (40 in xAR's README; see xar_b)."""
    return _xar("xar_b_2x", "glotok_2x", 2.7)


def xar_l_2x() -> XARSampleRun:
    """xar_l_2x: guidance 2.3."""
    return _xar("xar_l_2x", "glotok_2x", 2.3)


def xar_h_2x() -> XARSampleRun:
    """xar_h_2x: guidance 2.2."""
    return _xar("xar_h_2x", "glotok_2x", 2.2)


def xar_b_llamagen() -> XARSampleRun:
    """xar_b_llamagen, the baseline of Table 2: guidance 2.7, 50 steps per cell (40 in xAR's README; see xar_b)."""
    return _xar("xar_b_llamagen", "llamagen_vq16_imported", 2.7)


def far_b() -> FARSampleRun:
    """far_b: guidance 2.0, draws among all codes."""
    return _far("far_b", "glotok_16k")


def far_l() -> FARSampleRun:
    """far_l: guidance 2.0, draws among all codes."""
    return _far("far_l", "glotok_16k")


def far_b_2x() -> FARSampleRun:
    """far_b_2x: guidance 2.0, draws among all codes."""
    return _far("far_b_2x", "glotok_2x")


def far_l_2x() -> FARSampleRun:
    """far_l_2x: guidance 2.0, draws among all codes."""
    return _far("far_l_2x", "glotok_2x")


def far_b_fqgan() -> FARSampleRun:
    """far_b_fqgan: guidance 2.0, draws among all codes."""
    return _far("far_b_fqgan", "fqgan_dual_imported")


def far_l_fqgan() -> FARSampleRun:
    """far_l_fqgan: guidance 2.0, draws among all codes."""
    return _far("far_l_fqgan", "fqgan_dual_imported")


def gpt_b() -> FARSampleRun:
    """gpt_b: guidance 2.0, draws among all codes."""
    return _far("gpt_b", "llamagen_vq16_imported")


def gpt_l() -> FARSampleRun:
    """gpt_l: guidance 2.0, draws among all codes."""
    return _far("gpt_l", "llamagen_vq16_imported")


def gpt_xl() -> FARSampleRun:
    """gpt_xl: guidance 1.75, the best of LlamaGen's appendix."""
    return _far("gpt_xl", "llamagen_vq16_imported", 1.75)


def gpt_xxl() -> FARSampleRun:
    """gpt_xxl: guidance 1.75 (LlamaGen's appendix: 3.84 / 195.5 at 1.5, 3.094 / 253.609 at 1.75, 3.64 / 296.5 at 2)."""
    return _far("gpt_xxl", "llamagen_vq16_imported", 1.75)


def gpt_3b() -> FARSampleRun:
    """gpt_3b: guidance 1.75, Table 2's row; LlamaGen's appendix has a lower FID, 3.050 / 222.33, at 1.5."""
    return _far("gpt_3b", "llamagen_vq16_imported", 1.75)


def ibq_b() -> FARSampleRun:
    """ibq_b: guidance 2.25, then temperature 1.10."""
    return _far("ibq_b", "ibq_16384_imported", 2.25, 1.10)


def ibq_l() -> FARSampleRun:
    """ibq_l: guidance 2.0, temperature 1."""
    return _far("ibq_l", "ibq_16384_imported", 2.0)


def ibq_xl() -> FARSampleRun:
    """ibq_xl: guidance 2.35, then temperature 1.15."""
    return _far("ibq_xl", "ibq_16384_imported", 2.35, 1.15)


def ibq_xxl() -> FARSampleRun:
    """ibq_xxl: guidance 2.85, then temperature 1.20."""
    return _far("ibq_xxl", "ibq_16384_imported", 2.85, 1.20)


def taming_gpt() -> FARSampleRun:
    """taming_gpt: top-k 600, top-p 0.92, no guidance (its README's FID without rejection: 15.78, IS 74.3 by others)."""
    run = _far("taming_gpt", "taming_f16_16384_imported", 1.0)
    return override(run, {"sampler.top_k": 600, "sampler.top_p": 0.92})


def taming_gpt_small() -> FARSampleRun:
    """taming_gpt_small: as taming_gpt, since how MaskGIT's authors sampled this baseline is not published."""
    changes = {
        "generator_path": "runs/taming_gpt_small",
        "tokenizer_path": "runs/taming_f16_1024_imported",
        "output_path": "runs/taming_gpt_small_samples",
    }
    return override(taming_gpt(), changes)


def vqgan_lc_gpt() -> FARSampleRun:
    """vqgan_lc_gpt: draws among all codes, no guidance."""
    return _far("vqgan_lc_gpt", "vqgan_lc_100k_imported", 1.0)


def var_d16() -> VARSampleRun:
    """var_d16: guidance 1.5, which ends at 2.5 in the other samplers' convention, top-k 900, top-p 0.96."""
    return _var("var_d16")


def var_d20() -> VARSampleRun:
    """var_d20: as var_d16."""
    return _var("var_d20")


def var_d24() -> VARSampleRun:
    """var_d24: as var_d16."""
    return _var("var_d24")


def var_d30() -> VARSampleRun:
    """var_d30: as var_d16."""
    return _var("var_d30")


def imagefolder_var_d17() -> VARSampleRun:
    """imagefolder_var_d17: guidance 3.25 in VAR's convention, which ends at 4.25 in the other samplers', then in each
    branch top-k 750 and top-p 0.95; its authors cut pixels to whole numbers, here they are rounded.
    """
    changes = {
        "tokenizer_path": "runs/imagefolder_4096_imported",
        "sampler.guidance_scale": 3.25,
        "sampler.top_k": 750,
        "sampler.top_p": 0.95,
    }
    return override(_var("imagefolder_var_d17"), changes)


def rq_480m() -> FARSampleRun:
    """rq_480m: as rq_1400m, since its own file's settings are not known here."""
    return _rq("rq_480m")


def rq_821m() -> FARSampleRun:
    """rq_821m: as rq_1400m, since its own file's settings are not known here."""
    return _rq("rq_821m")


def rq_1400m() -> FARSampleRun:
    """rq_1400m: no guidance, top-p 0.92, as its file's config.yaml has it; without the published rejection, whose code
    is not released.
    """
    return _rq("rq_1400m")


def rq_3800m() -> FARSampleRun:
    """rq_3800m: as rq_1400m, since its own file's settings are not known here."""
    return _rq("rq_3800m")


def _rq(name: str) -> FARSampleRun:
    # Its top-k is all 16,384 codes; 50 images of each class. The tokenizer is the copy in the generator's folder: files
    # of one size come with RQ-VAEs of 10 and of 50 epochs.
    return FARSampleRun(
        generator_path=f"runs/{name}",
        output_path=f"runs/{name}_samples",
        sampler=TokenSamplerConfig(guidance_scale=1.0, top_p=0.92, precision="bf16_autocast"),
    )


def _var(name: str) -> VARSampleRun:
    # VAR's README; its paper names guidance 2.0.
    return VARSampleRun(
        generator_path=f"runs/{name}",
        tokenizer_path="runs/var_256_imported",
        output_path=f"runs/{name}_samples",
        sampler=ScaleSamplerConfig(precision="bf16_autocast"),
    )


def _xar(name: str, tokenizer: str, guidance_scale: float) -> XARSampleRun:
    # Guidance 2.7, 2.3, 2.2 for B, L, H: README of OliverRensu/xAR and Table 6 of arXiv 2502.20388, which samples by
    # Euler-Maruyama (the default solver) with 50 steps; the README has 40 for B, and 50 for L and H.
    return XARSampleRun(
        generator_path=f"runs/{name}",
        tokenizer_path=f"runs/{tokenizer}",
        output_path=f"runs/{name}_samples",
        sampler=FlowSamplerConfig(guidance_scale=guidance_scale, precision="bf16_autocast"),
    )


def _far(
    name: str, tokenizer: str, guidance_scale: float = 2.0, temperature: float = 1.0
) -> FARSampleRun:
    # Guidance 2.0 on all heads, top-k 0, top-p 1, temperature 1: FQGAN's script for FAR-B (its README's 3.38; FAR-L's
    # command is not published), and LlamaGen's README for B and L at 256 tokens. LlamaGen's appendix (Table 8) has its
    # best FID for L at 1.75 (3.80); for B at 2.0 (5.46). Both draw classes at random, this package takes them in turn,
    # as IBQ, taming-transformers and VQGAN-LC do. IBQ's README has its scales and temperatures.
    return FARSampleRun(
        generator_path=f"runs/{name}",
        tokenizer_path=f"runs/{tokenizer}",
        output_path=f"runs/{name}_samples",
        sampler=TokenSamplerConfig(
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            precision="bf16_autocast",
        ),
    )


# Fréchet distances of few samples are too large: 61 % of the marginal baseline's with 800 of an xAR, 59 % with 1,600.
_QUICKSTART_IMAGES = 1600
_QUICKSTART_POOL = PoolConfig(
    num_actors=2, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=50
)


def quickstart() -> XARSampleRun:
    """1,600 images of the quickstart's xAR."""
    return XARSampleRun(
        generator_path="runs/quickstart/generator",
        tokenizer_path="runs/quickstart/tokenizer",
        output_path="runs/quickstart/samples",
        num_images=_QUICKSTART_IMAGES,
        sampler=FlowSamplerConfig(num_steps=10, guidance_scale=6.0, snap="on"),
        pool=_QUICKSTART_POOL,
    )


def quickstart_far() -> FARSampleRun:
    """1,600 images of the quickstart's FAR."""
    return FARSampleRun(
        generator_path="runs/quickstart/far",
        tokenizer_path="runs/quickstart/tokenizer",
        output_path="runs/quickstart/far_samples",
        num_images=_QUICKSTART_IMAGES,
        sampler=TokenSamplerConfig(guidance_scale=2.5, temperature=0.75),
        pool=_QUICKSTART_POOL,
    )


def quickstart_ibq() -> FARSampleRun:
    """1,600 images of quickstart_ibq."""
    changes = {
        "generator_path": "runs/quickstart/ibq",
        "output_path": "runs/quickstart/ibq_samples",
        "sampler.temperature": 0.9,
    }
    return override(quickstart_far(), changes)


def quickstart_var() -> VARSampleRun:
    """1,600 images of quickstart_var."""
    return VARSampleRun(
        generator_path="runs/quickstart/var",
        tokenizer_path="runs/quickstart/scales",
        output_path="runs/quickstart/var_samples",
        num_images=_QUICKSTART_IMAGES,
        sampler=ScaleSamplerConfig(top_k=0, top_p=1.0, temperature=0.9),
        pool=_QUICKSTART_POOL,
    )


RECIPES: dict[str, Callable[[], AnySampleRun]] = {
    "xar_b": xar_b,
    "xar_b_fast": xar_b_fast,
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
