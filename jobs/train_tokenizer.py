"""Train a tokenizer on shards and a teacher (paper sections 3.2-3.3).

    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.train_tokenizer glotok_16k

Machine: 8 GPUs of 80 GB. Expected at the end of 800,700 steps: rFID 0.92, PSNR 22.4 (paper, Table 1).
Read next: glotok_ray/stages/train_tokenizer.py
"""

from collections.abc import Sequence

from glotok_ray.recipes.train_tokenizer import RECIPES
from glotok_ray.stages import train_tokenizer
from glotok_ray.training.describe import describe_tokenizer
from jobs.command_line import run_job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="train_tokenizer",
        recipes=RECIPES,
        dry_run=describe_tokenizer,
        run=train_tokenizer.run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
