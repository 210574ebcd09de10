"""Recipes that a message, a docstring or a page names are there, under the job that it names them with."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from glotok_ray.interop import generators, tokenizers

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"python -m jobs\.(\w+)\s+(?:\\\s+)?([a-z]\w*)\b(?!/)")
# What begins like a recipe's name and goes on.
FAMILY = re.compile(
    r"\b(?:glotok|xar|far|gpt|llamagen|fqgan|taming|vanilla|dinov2|clip_per|imagenet|photographs|embedded)_\w+"
)
PYTHON = sorted(
    path
    for folder in ("glotok_ray", "jobs", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "DECISIONS.md", "cluster/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]


def recipes_of_jobs() -> dict[str, set[str]]:
    found = {}
    for path in (ROOT / "jobs").glob("[a-z]*.py"):
        module = importlib.import_module(f"jobs.{path.stem}")
        if hasattr(module, "RECIPES"):
            found[path.stem] = set(module.RECIPES)
    return found


RECIPES = recipes_of_jobs()
ALL = set().union(*RECIPES.values())


def texts(path: Path) -> Iterator[str]:
    """String constants of a module, f-strings without what they insert."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", [*PYTHON, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_recipes_of_their_job(path: Path) -> None:
    for job, recipe in COMMAND.findall(path.read_text()):
        if job in RECIPES and job != "check_cluster":  # which takes a file first
            assert recipe in RECIPES[job], f"{path}: jobs.{job} has no recipe {recipe!r}"


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_about_recipes_name_recipes(path: Path) -> None:
    for text in texts(path):
        for name in FAMILY.findall(text) if "recipe" in text.lower() else ():
            assert name in ALL or name == "glotok_ray", f"{path}: {name!r} in {text!r} is no recipe"


@pytest.mark.parametrize(
    ("advice", "job"),
    [(generators.RECIPES, "export_generator"), (tokenizers.RECIPES, "export_tokenizer")],
)
def test_importers_advise_recipes_of_the_job_that_imports(advice: str, job: str) -> None:
    names = set(re.findall(r"\w+", advice)) - {"or"}
    assert names
    assert names <= RECIPES[job]
