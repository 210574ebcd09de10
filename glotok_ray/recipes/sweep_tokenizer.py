"""Sweeps of lambda_hist, bin count and alpha, and the rows of the paper's Tables 4 and 5 at small size."""

from glotok_ray.config.jobs import PoolConfig
from glotok_ray.config.overrides import override
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
    reconstructions = override(
        evaluate_images.quickstart(),
        {"samples_path": "", "codes_path": "", "num_images": 200, "uniformity_repeats": 1},
    )
    return SweepRun(
        output_path="runs/quickstart_sweep",
        inputs="quickstart",
        num_trials=4,
        max_steps=60,
        tokenizer=train_tokenizer.quickstart(),
        evaluation=override(
            reconstructions,
            {
                "pool": PoolConfig(
                    num_actors=1,
                    use_gpu=False,
                    cpus_per_actor=1,
                    threads_per_actor=1,
                    batch_size=50,
                )
            },
        ),
    )


def ablations_tiny() -> SweepRun:
    """Tables 4 and 5, and the two systems of Table 1, at the quickstart's size: 6 trials of 256 steps, 2 cores."""
    changes = {
        "output_path": "runs/ablations_tiny",
        "inputs": "quickstart",
        "rows": tuple(train_tokenizer.ROWS),
        "max_steps": 256,
        "tokenizer.loss.adversarial_start_step": 128,
    }
    return override(quickstart(), changes)


RECIPES = {
    "glotok_16k": glotok_16k,
    "quickstart": quickstart,
    "ablations_tiny": ablations_tiny,
}
