"""Sweeps of lambda_hist, bin count and alpha (paper Table 4 varies lambda_hist alone)."""

from glotok_ray.config import PoolConfig, SweepRun, override
from glotok_ray.recipes import evaluate, tokenizer


def glotok_16k() -> SweepRun:
    """12 trials of 20,000 steps of glotok_16k; judged by PSNR and FD-EffNet on the validation set."""
    return SweepRun(
        output_path="runs/sweep_glotok_16k",
        max_steps=20000,
        tokenizer=tokenizer.glotok_16k(),
        evaluation=evaluate.glotok_16k(),
    )


def quickstart() -> SweepRun:
    """4 short trials on the quickstart's shards and teacher (run the quickstart first)."""
    reconstructions = override(
        evaluate.quickstart(),
        {"samples_path": "", "codes_path": "", "num_images": 200, "uniformity_repeats": 1},
    )
    return SweepRun(
        output_path="runs/quickstart_sweep",
        num_trials=4,
        max_steps=60,
        tokenizer=tokenizer.quickstart(),
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


RECIPES = {"glotok_16k": glotok_16k, "quickstart": quickstart}
