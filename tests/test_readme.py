"""What the README promises is there: make targets, jobs, recipes, fields, and one map line per module."""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "cluster/README.md")}
TEXT = "\n".join(PAGES.values())
JOB_WORDS = {"--dry-run", "--fresh", "--resume", "--help", "--fields"}


def _commands() -> list[list[str]]:
    """Words of every `python -m jobs.X ...` command, line continuations joined."""
    joined = re.sub(r"\\\n\s*", " ", TEXT)
    found = re.findall(r"python -m (jobs\.\w+[^\n`|]*)", joined)
    return [
        command.split("#")[0].split() for command in found if not command.startswith("jobs.NAME")
    ]


def _map_paths() -> list[str]:
    section = PAGES["README.md"].split("\n## The map\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)


COMMANDS = _commands()


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, flags=re.MULTILINE))
    assert {"quickstart", "test", "lint"} <= named
    assert named <= targets


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_names_a_job_a_recipe_and_fields_that_exist(words: list[str]) -> None:
    module = importlib.import_module(words[0])
    assert callable(module.main)
    if len(words) == 1 or not words[1].isidentifier() or words[1].isupper():
        return
    config = module.RECIPES[words[1]]()
    for flag in (word for word in words[2:] if word.startswith("--") and word not in JOB_WORDS):
        _check_field(config, flag)


def _check_field(config: Any, flag: str) -> None:
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        assert name in {item.name for item in dataclasses.fields(config)}, flag
        config = getattr(config, name)


def test_the_map_has_one_line_per_module_and_none_too_many() -> None:
    mapped = _map_paths()
    assert len(mapped) == len(set(mapped))
    missing = [path for path in mapped if not (ROOT / path).exists()]
    assert not missing
    modules = [*(ROOT / "glotok_ray").glob("**/*.py"), *(ROOT / "jobs").glob("*.py")]
    unmapped = {
        module.relative_to(ROOT).as_posix() for module in modules if module.name != "__init__.py"
    } - set(mapped)
    assert not unmapped


def test_pages_link_to_files_that_exist() -> None:
    for name, text in PAGES.items():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_read_next_lines_name_files_that_exist() -> None:
    for module in [*(ROOT / "glotok_ray").glob("**/*.py"), *(ROOT / "jobs").glob("*.py")]:
        for path in re.findall(r"Read next: (\S+?)[,.]?$", module.read_text(), flags=re.MULTILINE):
            assert (ROOT / path).exists(), f"{module.relative_to(ROOT)}: {path}"
