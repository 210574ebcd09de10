"""Tokenizers of several scales over finished ones, for VAR on this package's own tokenizers.

Read next: jobs/build_scales.py
"""

from collections.abc import Callable

from glotok_ray.config.scales import ScalesRun
from glotok_ray.config.teacher import KMeansConfig


def glotok_16k() -> ScalesRun:
    """VAR's ten scales over glotok_16k: 4,096 codes of 8,192 training crops; one GPU, minutes."""
    return ScalesRun(
        tokenizer_path="runs/glotok_16k",
        data_path="data/imagenet/train",
        output_path="runs/glotok_16k_scales",
    )


def glotok_2x() -> ScalesRun:
    """VAR's ten scales over glotok_2x, as glotok_16k."""
    return ScalesRun(
        tokenizer_path="runs/glotok_2x",
        data_path="data/imagenet/train",
        output_path="runs/glotok_2x_scales",
    )


def quickstart() -> ScalesRun:
    """Seven scales over the quickstart's tokenizer, 291 codes per image; 2 cores, under a minute."""
    return ScalesRun(
        tokenizer_path="runs/quickstart/tokenizer",
        data_path="runs/quickstart/data/train",
        output_path="runs/quickstart/scales",
        num_codes=512,
        sides=(1, 2, 3, 4, 6, 9, 12),
        num_images=2000,
        vectors_per_scale=16384,
        kmeans=KMeansConfig(seeding="kmeans++", iterations=10),
        use_gpu=False,
        decoding_threads=1,
    )


RECIPES: dict[str, Callable[[], ScalesRun]] = {
    recipe.__name__: recipe for recipe in (glotok_16k, glotok_2x, quickstart)
}
