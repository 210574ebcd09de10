"""Evaluate tokenizers: finished tokenizers of any system and shards in; one table and one grid out, all rows of the
same images under the same protocol, with the rate in a column of its own.

    python -m jobs.evaluate_tokenizers runs/glotok_16k runs/ibq_16384_imported --data-path data/imagenet/validation \\
        --inception-path download
    python -m jobs.evaluate_tokenizers runs/a runs/b --data-path data/shards/validation --no-use-gpu --num-images 64

Machine: one GPU, or the CPU; it starts no Ray. Result: table.md, table.csv, metrics.json and reconstructions.png.
Read next: glotok_ray/stages/evaluate_tokenizers.py
"""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

from glotok_ray.config.tokenizer_comparison import EvaluateTokenizersRun
from jobs import storage_root
from jobs.command_line import run_job
from jobs.failures import guarded

NAME = "evaluate_tokenizers"


def describe(config: EvaluateTokenizersRun) -> dict[str, Any]:
    """What would be measured: system, indices and bits of each tokenizer, and the number of images."""
    from glotok_ray.report.compared_tokenizers import row_of
    from glotok_ray.stages.evaluate_tokenizers import check_inputs

    compared, dataset = check_inputs(config)
    rows = [row_of(one, config.image_size or one.model.image_size, {}) for one in compared]
    return {
        "tokenizers": {
            row.name: {"system": row.system, "indices": row.indices, "bits": row.bits}
            for row in rows
        },
        "images": config.num_images or dataset.num_images,
        "output_path": config.output_path,
    }


def run(config: EvaluateTokenizersRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs."""
    from glotok_ray.stages import evaluate_tokenizers

    return evaluate_tokenizers.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code. Arguments before the first flag are the tokenizers' folders, or one JSON file
    that holds a resolved config.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    if not named or (len(named) == 1 and named[0].endswith(".json")):
        return _run(arguments, ())
    flags = arguments[len(named) :]
    root_flag = _value_after("--storage-root", flags)

    def located() -> int:
        root = storage_root.chosen(root_flag)
        folders = tuple(str(storage_root.given(name, root, "FOLDER")) for name in named)
        return _run(["folders", *flags], folders)

    return guarded(NAME, located, [])


def _run(arguments: Sequence[str], folders: tuple[str, ...]) -> int:
    def recipe() -> EvaluateTokenizersRun:
        """The folders that were named."""
        return EvaluateTokenizersRun(tokenizers=folders)

    return run_job(arguments, name=NAME, recipes={"folders": recipe}, dry_run=describe, run=run)


def _value_after(flag: str, arguments: Sequence[str]) -> str:
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    return ""


if __name__ == "__main__":
    raise SystemExit(main())
