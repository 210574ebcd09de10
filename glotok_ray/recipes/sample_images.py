"""Class-conditional samples of every generator: 50,000 images each, at the guidance of its paper.

GloTok's paper states neither guidance nor steps, so each row has those of the system that it builds on; on GPUs all of
them sample under autocast. Read next: jobs/sample_images.py
"""

from collections.abc import Callable

from glotok_ray.config.generator import FlowSamplerConfig, TokenSamplerConfig
from glotok_ray.config.jobs import FARSampleRun, PoolConfig, XARSampleRun
from glotok_ray.config.overrides import override


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


def _xar(name: str, tokenizer: str, guidance_scale: float) -> XARSampleRun:
    # Guidance 2.7, 2.3, 2.2 for B, L, H: README of OliverRensu/xAR and Table 6 of arXiv 2502.20388, which samples by
    # Euler-Maruyama (the default solver) with 50 steps; the README has 40 for B, and 50 for L and H.
    return XARSampleRun(
        generator_path=f"runs/{name}",
        tokenizer_path=f"runs/{tokenizer}",
        output_path=f"runs/{name}_samples",
        sampler=FlowSamplerConfig(guidance_scale=guidance_scale, precision="bf16_autocast"),
    )


def _far(name: str, tokenizer: str) -> FARSampleRun:
    # Guidance 2.0 on all heads, top-k 0, top-p 1, temperature 1: FQGAN's script for FAR-B (its README's 3.38; FAR-L's
    # command is not published), and LlamaGen's README for B and L at 256 tokens. LlamaGen's appendix (Table 8) has its
    # best FID for L at 1.75 (3.80); for B at 2.0 (5.46). Both draw classes at random, this package takes them in turn.
    return FARSampleRun(
        generator_path=f"runs/{name}",
        tokenizer_path=f"runs/{tokenizer}",
        output_path=f"runs/{name}_samples",
        sampler=TokenSamplerConfig(
            guidance_scale=2.0, top_k=0, top_p=1.0, precision="bf16_autocast"
        ),
    )


_QUICKSTART_POOL = PoolConfig(
    num_actors=2, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=50
)


def quickstart() -> XARSampleRun:
    """800 images of the quickstart's xAR."""
    return XARSampleRun(
        generator_path="runs/quickstart/generator",
        tokenizer_path="runs/quickstart/tokenizer",
        output_path="runs/quickstart/samples",
        num_images=800,
        sampler=FlowSamplerConfig(num_steps=10, guidance_scale=6.0, snap="on"),
        pool=_QUICKSTART_POOL,
    )


def quickstart_far() -> FARSampleRun:
    """800 images of the quickstart's FAR."""
    return FARSampleRun(
        generator_path="runs/quickstart/far",
        tokenizer_path="runs/quickstart/tokenizer",
        output_path="runs/quickstart/far_samples",
        num_images=800,
        sampler=TokenSamplerConfig(guidance_scale=2.5, temperature=0.9),
        pool=_QUICKSTART_POOL,
    )


RECIPES: dict[str, Callable[[], XARSampleRun | FARSampleRun]] = {
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
    "quickstart": quickstart,
    "quickstart_far": quickstart_far,
}
