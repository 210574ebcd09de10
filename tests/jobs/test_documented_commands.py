"""Every command of the pages and of the jobs' own texts is taken by its job's command line as it stands there: flags,
values, lists and quotes.
"""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from jobs import command_line
from tests.test_readme import ROOT, TEXT


def _written_out() -> list[str]:
    """Commands that name a recipe; words in capitals, and dots, stand for what a reader puts there."""
    jobs = [path.read_text().replace("\\\\\n", "\\\n") for path in (ROOT / "jobs").glob("*.py")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join([TEXT, *jobs]))
    found = (command for command in re.findall(r"python -m (jobs\.\w+ [a-z][^\n`|#&]*)", joined))
    return sorted({" ".join(command.split()) for command in found if "..." not in command})


COMMANDS = _written_out()


def parsed(command: str) -> Any:
    """The config that a command gives, paths as they are written; None for a job without recipes."""
    module_name, *words = shlex.split(command)
    module, name = importlib.import_module(module_name), module_name.removeprefix("jobs.")
    if not hasattr(module, "RECIPES"):
        return None
    if hasattr(module, "parser"):  # a job with flags of its own
        module.parser().parse_args(words)
        return None
    flags, rest = command_line._parser(name, module.RECIPES).parse_known_args(words)
    if flags.recipe not in module.RECIPES:
        assert "/" in flags.recipe or flags.recipe.endswith(".json"), flags.recipe
        return None
    return command_line._configure(name, module.RECIPES[flags.recipe](), rest, flags.recipe)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_taken_as_it_stands(command: str) -> None:
    parsed(command)


def the_one(*parts: str) -> Any:
    """What the command with all these parts gives."""
    (command,) = (command for command in COMMANDS if all(part in command for part in parts))
    return parsed(command)


def test_values_arrive_as_they_are_meant() -> None:
    parquet = the_one("shard_images imagenet_256", "imagenet-1k/data")
    assert Path(parquet.source) == Path("imagenet-1k/data")
    assert (parquet.validation_source, parquet.class_names_path) == ("", "LOC_synset_mapping.txt")
    swept = the_one("sweep_guidance xar_b", "--guidance-scales")
    assert swept.guidance_scales == (1.0, 1.5, 2.0, 3.0)
    assert swept.evaluation.inception_path == "download"
    assert the_one("export_generator", "--checkpoint").checkpoint == "best"
    compared = the_one("evaluate_images quickstart", "--samples-paths")
    assert compared.samples_paths == ("SAMPLES_A", "SAMPLES_B")
