"""What a training pays for the evaluation of its checkpoints beside it: its step time with and without.

    python -m benchmarks.validation_while_training
    python -m benchmarks.validation_while_training --rounds 5 --steps 120 --checkpoint-every 20 --json

The quickstart's tokenizer is trained again and again on a private Ray cluster, by turns with the evaluation and
without it. Both write the same checkpoints. With it, every checkpoint that is the newest when the evaluator is free is
measured, so that the evaluator hardly rests. Steps come from the run's own log; "loop" is a step with what lies between
it and the next: waiting for data, logging and checkpoints.
"""

import argparse
import json
import logging
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measured
from glotok_ray.config import TokenizerRun, override
from glotok_ray.on_ray import cluster
from glotok_ray.recipes.quickstart import chain, quickstart
from glotok_ray.stages import shard_images, train_tokenizer
from glotok_ray.training.evaluated_checkpoints import ROWS_FILE
from glotok_ray.training.metrics_file import METRICS_FILE

SIDES = ("without", "with")


def recipe(root: Path, arguments: argparse.Namespace) -> TokenizerRun:
    """The quickstart's tokenizer without a teacher, on shards that are written here."""
    images = arguments.steps * arguments.batch
    per_class = -(-images // 10)
    config = chain(
        override(
            quickstart(), {"output_path": str(root / "data"), "data.crops_per_class": per_class}
        )
    )
    shard_images.run(config.data)
    changes = {
        "output_path": str(root / "runs"),
        "teacher_path": "",
        "loss.relation_weight": 0.0,
        "data.num_train_images": 0,
        "data.num_validation_images": 0,
        "schedule.global_batch_size": arguments.batch,
        "schedule.epochs": 1,
        "schedule.stop_after_steps": arguments.steps,
        "schedule.log_every_steps": 1,
        "schedule.checkpoint_every_steps": arguments.checkpoint_every,
        "scaling.num_workers": arguments.workers,
        "checkpoint_evaluation.num_images": arguments.images,
        # What is left at the end is of no interest here.
        "checkpoint_evaluation.last_wait_minutes": 0.0,
    }
    return override(config.tokenizer, changes)


def trained(config: TokenizerRun, side: str, number: int) -> dict[str, Any]:
    """Medians of one training, in seconds, and what was evaluated beside it."""
    changes = {
        "name": f"{side}-{number}",
        "checkpoint_evaluation.every_steps": 1 if side == "with" else 0,
    }
    run = override(config, changes)
    train_tokenizer.run(run)
    folder = Path(run.output_path) / run.name
    lines = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    timed = [line for line in lines if "time/step_median_s" in line]
    evaluated = folder / ROWS_FILE
    rows = (
        [json.loads(line) for line in evaluated.read_text().splitlines()]
        if evaluated.exists()
        else []
    )
    batch = run.schedule.global_batch_size
    loops = [batch / line["time/images_per_s"] for line in timed]
    shutil.rmtree(folder)
    return {
        "step_s": statistics.median(line["time/step_median_s"] for line in timed),
        "loop_s": statistics.mean(loops),
        "stall_s": statistics.median(
            line["checkpoint/stall_s"] for line in lines if "checkpoint/stall_s" in line
        ),
        "evaluated": len(rows),
        "evaluating_share": sum(row["seconds"] for row in rows) / sum(loops),
    }


def main() -> None:
    """Train by turns and print."""
    parser = measured.parser(str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each side (3)")
    parser.add_argument("--steps", type=int, default=100, help="of each training (100)")
    parser.add_argument("--checkpoint-every", type=int, default=20, help="steps (20)")
    parser.add_argument("--batch", type=int, default=16, help="images per step (16)")
    parser.add_argument("--images", type=int, default=128, help="of each evaluation (128)")
    parser.add_argument("--workers", type=int, default=1, help="of the training (1)")
    parser.add_argument("--folder", help="where the temporary folder is made; the system's own")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        config = recipe(Path(name), arguments)
        cluster.connect()
        for number in range(arguments.rounds):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                found[side].append(trained(config, side, number))
    _answer(arguments, found)


def _answer(arguments: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    medians = {
        side: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        for side, rounds in found.items()
    }
    ratios = {
        f"{what}, with / without": statistics.median(
            one[name] / other[name]
            for one, other in zip(found["with"], found["without"], strict=True)
        )
        for what, name in (("step", "step_s"), ("loop", "loop_s"))
    }
    measured.answer(
        as_json=arguments.json,
        columns=("evaluation", "ms step", "ms loop", "ms stall", "evaluated", "evaluating"),
        rows=[
            [
                side,
                *(f"{1e3 * one[name]:.1f}" for name in ("step_s", "loop_s", "stall_s")),
                f"{one['evaluated']:g}",
                f"{one['evaluating_share']:.0%}",
            ]
            for side, one in medians.items()
        ],
        figures={"arguments": vars(arguments), "medians": medians, "rounds": found},
        ratios=ratios,
    )


if __name__ == "__main__":
    main()
