"""Evaluations: reconstructions of a tokenizer, samples of a generator, or both."""

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import override
from glotok_ray.config.pool import PoolConfig


def glotok_16k() -> EvaluateRun:
    """Reconstructions of the 50,000 ImageNet validation images by glotok_16k."""
    return EvaluateRun(
        tokenizer_path="runs/glotok_16k",
        data_path="data/imagenet/validation",
        output_path="runs/glotok_16k_evaluation",
        adm_protocol=True,
    )


def glotok_2x() -> EvaluateRun:
    """Reconstructions of the 50,000 ImageNet validation images by glotok_2x."""
    return override(
        glotok_16k(),
        {"tokenizer_path": "runs/glotok_2x", "output_path": "runs/glotok_2x_evaluation"},
    )


def xar_b() -> EvaluateRun:
    """The samples of xar_b, with the two baselines through the same decoder."""
    changes = {
        "samples_path": "runs/xar_b_samples",
        "codes_path": "runs/glotok_16k_codes",
        "output_path": "runs/xar_b_evaluation",
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


RECIPES = {
    "glotok_16k": glotok_16k,
    "glotok_2x": glotok_2x,
    "xar_b": xar_b,
    "quickstart": quickstart,
    "quickstart_far": quickstart_far,
}
