"""Codes of the training set, on which generators train (paper section 3.4)."""

from glotok_ray.config import EncodeRun, PoolConfig, override


def glotok_16k() -> EncodeRun:
    """ImageNet-1k through glotok_16k, both views: 2.6 GB of codes."""
    return EncodeRun(
        data_path="data/imagenet/train",
        tokenizer_path="runs/glotok_16k",
        output_path="runs/glotok_16k_codes",
    )


def glotok_2x() -> EncodeRun:
    """ImageNet-1k through glotok_2x, both views."""
    return override(
        glotok_16k(), {"tokenizer_path": "runs/glotok_2x", "output_path": "runs/glotok_2x_codes"}
    )


def quickstart() -> EncodeRun:
    """The quickstart's training crops, both views."""
    return EncodeRun(
        data_path="runs/quickstart/data/train",
        tokenizer_path="runs/quickstart/tokenizer",
        output_path="runs/quickstart/codes",
        pool=PoolConfig(
            num_actors=2, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=50
        ),
    )


RECIPES = {"glotok_16k": glotok_16k, "glotok_2x": glotok_2x, "quickstart": quickstart}
