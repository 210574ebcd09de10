"""A small VAR and a small IBQ-style transformer, trained on the quickstart's photographs, beside the marginal baseline.

    python -m benchmarks.small_generators --folder runs/small_generators
    python -m benchmarks.small_generators --folder runs/small_generators --json
    python -m benchmarks.small_generators --folder runs/tiny --crops 20 --validation-crops 5 --images 20 --epochs 1 \\
        --tokenizer-epochs 1                     # every stage, to see that it works; its figures mean nothing

The quickstart's own tokenizer, without its relation loss and teacher; the recipes quickstart_ibq and quickstart_var;
300 samples of each, and images whose codes are drawn from how often each code occurs at its position in the same
training codes, through the same decoder. Figures are FD-EffNet from the validation crops; lower is better. Trainings
run in this process, the rest on a private Ray cluster. What is finished is recognised, and an unfinished training goes
on from its last checkpoint, so a command that was killed goes on. About 15 minutes on 2 free cores.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measured
from glotok_ray.config.overrides import override
from glotok_ray.recipes import (
    build_scales,
    encode_images,
    evaluate_images,
    sample_images,
    shard_images,
    train_generator,
    train_tokenizer,
)
from glotok_ray.stages import build_scales as scales_stage
from glotok_ray.stages import encode_images as encode_stage
from glotok_ray.stages import evaluate_images as evaluate_stage
from glotok_ray.stages import sample_images as sample_stage
from glotok_ray.stages import shard_images as shard_stage
from glotok_ray.stages import train_generator as generator_stage
from glotok_ray.stages import train_tokenizer as tokenizer_stage
from glotok_ray.storage import artefact

logger = logging.getLogger(__name__)

NAMES = {"ibq": "IBQ-style", "var": "VAR"}
_NUM_CLASSES = 10
Stage = tuple[str, Callable[[], Any]]


def stages(options: argparse.Namespace) -> list[Stage]:
    """All steps in their order."""
    root = Path(options.folder).absolute()
    data = Path(options.data).absolute() if options.data else root / "data"
    local = {
        "launcher": "local",
        "scaling.num_workers": 1,
        "scaling.engine": "torch",
        "scaling.threads_per_worker": options.threads,
        "schedule.checkpoint_every_minutes": 1.0,
    }
    tokenizer = override(
        train_tokenizer.quickstart(),
        {
            **local,
            "output_path": str(root),
            "teacher_path": "",
            "loss.relation_weight": 0.0,
            "loss.adversarial_start_step": 100_000,
            "data.train_path": f"{data}/train",
            "data.validation_path": f"{data}/validation",
            "data.num_train_images": _NUM_CLASSES * options.crops,
            "data.num_validation_images": min(200, _NUM_CLASSES * options.validation_crops),
            "schedule.epochs": options.tokenizer_epochs,
        },
    )
    shards = override(
        shard_images.quickstart(),
        {
            "output_path": str(data),
            "crops_per_class": options.crops,
            "validation_crops_per_class": options.validation_crops,
        },
    )
    scales_run = build_scales.quickstart()
    scales = override(
        scales_run,
        {
            "tokenizer_path": f"{root}/tokenizer",
            "data_path": f"{data}/train",
            "output_path": f"{root}/scales",
            "num_images": min(scales_run.num_images, _NUM_CLASSES * options.crops),
        },
    )
    return [
        ("shards", lambda: shard_stage.run(shards)),
        ("tokenizer", lambda: tokenizer_stage.run(tokenizer)),
        ("scales", lambda: scales_stage.run(scales)),
        *_of_generator(options, root, data, local, "ibq", "tokenizer"),
        *_of_generator(options, root, data, local, "var", "scales"),
    ]


def _of_generator(
    options: argparse.Namespace,
    root: Path,
    data: Path,
    local: dict[str, Any],
    name: str,
    tokenizer: str,
) -> list[Stage]:
    recipe = f"quickstart_{name}"
    codes = override(
        encode_images.quickstart(),
        {
            "data_path": f"{data}/train",
            "tokenizer_path": f"{root}/{tokenizer}",
            "output_path": f"{root}/{tokenizer}_codes",
        },
    )
    run = override(
        train_generator.RECIPES[recipe](),
        {
            **local,
            "output_path": str(root),
            "tokenizer_path": f"{root}/{tokenizer}",
            "data.train_path": codes.output_path,
            "data.num_train_images": _NUM_CLASSES * options.crops,
            "schedule.epochs": options.epochs,
        },
    )
    samples = override(
        sample_images.RECIPES[recipe](),
        {
            "generator_path": f"{root}/{name}",
            "tokenizer_path": f"{root}/{tokenizer}",
            "output_path": f"{root}/{name}_samples",
            "num_images": options.images,
        },
    )
    evaluation = override(
        evaluate_images.RECIPES[recipe](),
        {
            "data_path": f"{data}/validation",
            "tokenizer_path": f"{root}/{tokenizer}",
            "samples_path": samples.output_path,
            "codes_path": codes.output_path,
            "generator_path": f"{root}/{name}",
            "output_path": f"{root}/{name}_evaluation",
            "uniformity_repeats": 1,
            "probe_images": 0,
        },
    )
    return [
        (f"{name} codes", lambda: encode_stage.run(codes)),
        (f"{name} training", lambda: generator_stage.run(run)),
        (f"{name} samples", lambda: sample_stage.run(samples)),
        (f"{name} evaluation", lambda: evaluate_stage.run(evaluation)),
    ]


def figures(root: Path) -> dict[str, dict[str, float]]:
    """By generator: FD-EffNet of its samples and of marginal codes, and its loss with own and with other labels."""
    found = {}
    for name, title in NAMES.items():
        metrics = artefact.read_json(root / f"{name}_evaluation/metrics.json")
        entries = {
            "samples": "samples_fd_effnet",
            "marginal codes": "baseline_marginal_fd_effnet",
            "loss": "generator_loss",
            "loss, other labels": "generator_loss_shuffled_labels",
        }
        found[title] = {entry: metrics[metric]["value"] for entry, metric in entries.items()}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run all steps and print the distances."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    seconds = {}
    for name, run in stages(options):
        logger.info("small_generators: %s", name)
        started = time.perf_counter()
        run()
        seconds[name] = time.perf_counter() - started
    found = figures(Path(options.folder))
    columns = list(next(iter(found.values())))
    measured.answer(
        as_json=options.json,
        columns=("generator", *columns),
        rows=[(title, *(f"{row[each]:.4g}" for each in columns)) for title, row in found.items()],
        figures={"generators": found, "seconds": seconds},
        ratios={
            f"{title}, FD-EffNet of marginal codes / of samples": row["marginal codes"]
            / row["samples"]
            for title, row in found.items()
        },
    )


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser(str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", required=True, help="everything that is written")
    parser.add_argument("--data", default="", help="shards of the quickstart that are there")
    for name, default, text in (
        ("--crops", 410, "training crops of each of ten photographs"),
        ("--validation-crops", 60, "validation crops of each"),
        ("--tokenizer-epochs", 2, "of the tokenizer over the training crops"),
        ("--epochs", 4, "of each generator"),
        ("--images", 300, "samples of each"),
        ("--threads", 2, "torch threads of trainings"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} ({default})")
    return parser


if __name__ == "__main__":
    main()
