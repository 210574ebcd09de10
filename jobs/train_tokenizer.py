"""Train a tokenizer on shards and a teacher (paper sections 3.2-3.3).

    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.train_tokenizer glotok_16k

Machine: 8 GPUs of 80 GB. Expected at the end of 800,700 steps: rFID 0.92, PSNR 22.4 (paper, Table 1).
Read next: glotok_ray/stages/train_tokenizer.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.runs import TokenizerRun
from glotok_ray.recipes.train_tokenizer import RECIPES
from jobs.command_line import run_job


def describe(config: TokenizerRun) -> dict[str, Any]:
    """What would run."""
    from glotok_ray.training.describe import describe_tokenizer

    return describe_tokenizer(config)


def run(config: TokenizerRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import train_tokenizer

    return train_tokenizer.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="train_tokenizer",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
