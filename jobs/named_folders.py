"""The command line of jobs that compare folders: a recipe, a JSON file of a resolved config, or the folders themselves.

Read next: jobs/evaluate_tokenizers.py, jobs/compare_generators.py
"""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs import storage_root
from jobs.command_line import run_job, value_after


def run_job_on_folders(
    argv: Sequence[str] | None,
    *,
    recipes: Mapping[str, Callable[[], Any]],
    of_folders: Callable[[tuple[str, ...]], Any],
    **job: Any,
) -> int:
    """`run_job`, with the folders before the first flag in the recipe's place: `of_folders` makes a config of them."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    is_recipe = len(named) == 1 and (named[0] in recipes or named[0].endswith(".json"))
    if not named or is_recipe:
        return run_job(arguments, recipes=recipes, **job)
    flags = arguments[len(named) :]

    def configured() -> Any:
        """The folders that were named."""
        root = storage_root.chosen(value_after("--storage-root", flags))
        return of_folders(tuple(str(storage_root.given(name, root, "FOLDER")) for name in named))

    return run_job(["folders", *flags], recipes={"folders": configured}, **job)
