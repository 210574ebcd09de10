"""Plan full-size trainings on paper: memory, days, cost, network and ingest at several numbers of GPUs.

    python -m jobs.plan glotok_16k xar_b --gpus 8,64,256 --gpu h100 --price 3

Prints a Markdown table per recipe of jobs.train_tokenizer or jobs.train_generator, then every assumption with its
source. Starts nothing and needs no GPU; takes seconds per recipe. Read next: glotok_ray/training/scale.py
"""

import argparse
import math
import sys
from collections.abc import Sequence

from glotok_ray.config.rules import require
from glotok_ray.recipes import train_generator, train_tokenizer
from jobs.command_line import start_logging
from jobs.failures import DONE, guarded

RECIPES = {**train_tokenizer.RECIPES, **train_generator.RECIPES}
# The names of gpu_kinds.GPUS, which imports torch.
KINDS = ("a100", "h100", "h200", "b200")


def plan(recipes: Sequence[str], gpus: Sequence[int], kind: str, price: float) -> str:
    """The tables and the assumptions, in Markdown; `price` is per GPU and hour. Raises ValueError for a price that is
    negative or not finite, and for a number of GPUs below 1.
    """
    require(
        math.isfinite(price) and price >= 0, "--price", price, "must be a finite number, 0 or more"
    )
    from glotok_ray.training.gpu_kinds import GPUS
    from glotok_ray.training.scale import needs_of, row_of
    from glotok_ray.training.scale_table import assumptions, table

    gpu = GPUS[kind]
    counted = [needs_of(RECIPES[name]()) for name in recipes]
    parts = [
        table(needs, [row_of(needs, asked, gpu) for asked in gpus], gpu, price) for needs in counted
    ]
    return "\n\n".join([*parts, "Assumptions:", assumptions(counted, gpu, price)]) + "\n"


def parser() -> argparse.ArgumentParser:
    """The job's own flags."""
    made = argparse.ArgumentParser(
        prog="python -m jobs.plan", description="Plan trainings on paper."
    )
    made.add_argument(
        "recipes", nargs="+", metavar="RECIPE", choices=sorted(RECIPES), help="of a training"
    )
    made.add_argument("--gpus", default="8,64,256", help="numbers of GPUs, with commas")
    made.add_argument("--gpu", default="h100", choices=KINDS)
    made.add_argument(
        "--price", type=float, default=0.0, help="per GPU and hour; without it no cost is printed"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    start_logging()
    flags = parser().parse_args(argv)

    def job() -> int:
        sys.stdout.write(plan(flags.recipes, _numbers(flags.gpus), flags.gpu, flags.price))
        return DONE

    return guarded("plan", job)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--gpus = {text!r}: must be whole numbers with commas") from error


if __name__ == "__main__":
    raise SystemExit(main())
