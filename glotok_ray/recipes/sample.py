"""Class-conditional samples of a generator: the published guidance and steps of xAR (Ren et al. 2025)."""

from glotok_ray.config import PoolConfig, SamplerConfig, SampleRun, override


def xar_b() -> SampleRun:
    """50,000 images of xar_b, guidance 2.7, 50 steps per cell."""
    return SampleRun(
        generator_path="runs/xar_b",
        tokenizer_path="runs/glotok_16k",
        output_path="runs/xar_b_samples",
    )


def xar_l() -> SampleRun:
    """50,000 images of xar_l, guidance 2.3."""
    return _of("xar_l", 2.3)


def xar_h() -> SampleRun:
    """50,000 images of xar_h, guidance 2.2."""
    return _of("xar_h", 2.2)


def _of(name: str, guidance_scale: float) -> SampleRun:
    changes = {
        "generator_path": f"runs/{name}",
        "output_path": f"runs/{name}_samples",
        "sampler.guidance_scale": guidance_scale,
    }
    return override(xar_b(), changes)


def quickstart() -> SampleRun:
    """400 images of the quickstart's generator."""
    return SampleRun(
        generator_path="runs/quickstart/generator",
        tokenizer_path="runs/quickstart/tokenizer",
        output_path="runs/quickstart/samples",
        num_images=400,
        sampler=SamplerConfig(num_steps=12, guidance_scale=2.0, snap="on"),
        pool=PoolConfig(
            num_actors=2, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=50
        ),
    )


RECIPES = {"xar_b": xar_b, "xar_l": xar_l, "xar_h": xar_h, "quickstart": quickstart}
