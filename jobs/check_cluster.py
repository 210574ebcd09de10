"""Check a cluster file, for `ray up` or for KubeRay, without any cloud.

    python -m jobs.check_cluster cluster/aws.yaml [RECIPE]

Prints one line per problem and exits with 2, or says that none was found. RECIPE (default glotok_16k) is a recipe of
jobs.train_tokenizer or jobs.train_generator whose workers must fit. Read next: glotok_ray/on_ray/preflight.py
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from glotok_ray.recipes import train_generator, train_tokenizer
from jobs.failures import BAD_INPUT, DONE, guarded

logger = logging.getLogger(__name__)

RECIPES = {**train_tokenizer.RECIPES, **train_generator.RECIPES}


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    logging.getLogger("ray").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m jobs.check_cluster", description=__doc__)
    parser.add_argument("file", type=Path, help="the YAML that `ray up` or `kubectl` would get")
    parser.add_argument("recipe", nargs="?", default="glotok_16k", choices=sorted(RECIPES))
    flags = parser.parse_args(argv)
    return guarded("check_cluster", lambda: _check(flags.file, flags.recipe))


def _check(file: Path, recipe: str) -> int:
    from glotok_ray.on_ray.preflight import placeholders, validate_cluster

    problems = validate_cluster(file, RECIPES[recipe]().scaling)
    for problem in problems:
        logger.error("%s", problem)
    if problems:
        return BAD_INPUT
    logger.info("%s: no problem found; the workers of %s fit", file, recipe)
    left = placeholders(file)
    if left:
        logger.info("%s: still to be filled in: %s", file, ", ".join(left))
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
