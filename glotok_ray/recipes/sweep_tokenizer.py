"""Sweeps of lambda_hist, bin count and alpha of a tokenizer."""

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import override
from glotok_ray.config.pool import PoolConfig
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.recipes import evaluate_images, train_tokenizer


def glotok_16k() -> SweepRun:
    """12 trials of 20,000 steps of glotok_16k; measured by PSNR and FD-EffNet on the validation set."""
    return SweepRun(
        output_path="runs/sweep_glotok_16k",
        max_steps=20000,
        tokenizer=train_tokenizer.glotok_16k(),
        evaluation=evaluate_images.glotok_16k(),
    )


def quickstart() -> SweepRun:
    """4 short trials on the quickstart's shards and teacher, which are made first where they are missing."""
    return SweepRun(
        output_path="runs/quickstart_sweep",
        inputs="quickstart",
        num_trials=4,
        max_steps=60,
        tokenizer=train_tokenizer.quickstart(),
        evaluation=quickstart_reconstructions(),
    )


def quickstart_reconstructions() -> EvaluateRun:
    """The quickstart's evaluation of reconstructions alone, by one actor beside the trials."""
    changes = {
        "samples_path": "",
        "codes_path": "",
        "training_path": "",
        "generator_path": "",
        "num_images": 200,
        "uniformity_repeats": 1,
        "pool": PoolConfig(
            num_actors=1, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=50
        ),
    }
    return override(evaluate_images.quickstart(), changes)


RECIPES = {
    "glotok_16k": glotok_16k,
    "quickstart": quickstart,
}
