"""Count the models of all recipes anew, and record what `--dry-run` says of them without torch.

    python -m tests.training.recorded_counts

Writes glotok_ray/training/recorded_counts.json; to be run after a change of models, of their configs or of how they are
counted, which a test asks for. Half a minute.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from glotok_ray.config.runs import GeneratorRun, TokenizerRun
from glotok_ray.recipes import (
    generator_ablations,
    quickstart,
    sweep_tokenizer,
    tokenizer_ablations,
    train_generator,
    train_tokenizer,
)
from glotok_ray.training.counts import RECORDED, Counts, key_of, sources_digest


def recipe_runs() -> Iterator[tuple[str, TokenizerRun | GeneratorRun]]:
    """Every training that a recipe of any job has, by job and recipe."""
    for name, tokenizer in train_tokenizer.RECIPES.items():
        yield f"train_tokenizer {name}", tokenizer()
    for name, generator in train_generator.RECIPES.items():
        yield f"train_generator {name}", generator()
    for name, sweep in (*sweep_tokenizer.RECIPES.items(), *tokenizer_ablations.RECIPES.items()):
        yield f"sweep_tokenizer {name}", sweep().tokenizer
    for name, ablation in generator_ablations.RECIPES.items():
        yield f"sweep_generator {name}", ablation().generator
    for name, chained in quickstart.RECIPES.items():
        run = chained()
        for stage in ("tokenizer", "twin", "generator", "far"):
            yield f"{name} {stage}", getattr(run, stage)


def record(runs: Mapping[str, TokenizerRun | GeneratorRun], counted: Mapping[str, Counts]) -> str:
    """The text of recorded_counts.json, of runs by name and what was counted of them."""
    found: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        sizes, modules, kept = counted[name]
        entry = {"of": name, "sizes": sizes, "modules": dict(modules), "kept": kept}
        # The first of several that have the same models names them.
        found.setdefault(key_of(run), entry)
    return json.dumps({"sources": sources_digest(), "counts": found}, indent=1) + "\n"


def main() -> None:
    """Count, and write the file."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    from glotok_ray.training.counted import count_run

    runs = dict(recipe_runs())
    counted = {name: count_run(run).counts for name, run in runs.items()}
    RECORDED.write_text(record(runs, counted))


if __name__ == "__main__":
    main()
