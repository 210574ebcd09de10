"""What the pages promise is there: commands, recipes, fields, files, folders and links; README stays short."""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "cluster/README.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
PROSE = {**PAGES, "DECISIONS.md": (ROOT / "DECISIONS.md").read_text()}
TEXT = "\n".join(PAGES.values())
JOB_WORDS = {"--section.field", "--dry-run", "--fresh", "--help", "--fields", "--storage-root"}
# Of Ray's command line.
FOREIGN_FLAGS = {
    *("--working-dir", "--no-wait", "--num-cpus", "--temp-dir", "--runtime-env"),
    *("--submission-id", "--address"),
}
TREE = PAGES["README.md"].split("\n## The code\n")[1].split("\n## ")[0]


def _commands() -> list[list[str]]:
    """Words of every `python -m jobs.X ...` command, line continuations joined."""
    joined = re.sub(r"\\\n\s*", " ", TEXT)
    found = re.findall(r"python -m (jobs\.\w+[^\n`|]*)", joined)
    return [
        command.split("#")[0].split() for command in found if not command.startswith("jobs.NAME")
    ]


COMMANDS = _commands()


def _job_configs() -> list[Any]:
    """A config of every recipe of every job."""
    modules = (
        importlib.import_module(f"jobs.{path.stem}") for path in (ROOT / "jobs").glob("[a-z]*.py")
    )
    return [make() for module in modules for make in getattr(module, "RECIPES", {}).values()]


def _field_names(config: Any, prefix: str = "") -> set[str]:
    """Dotted names of a config's fields, those of sections included."""
    names = set()
    for item in dataclasses.fields(config):
        names.add(prefix + item.name)
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            names |= _field_names(value, f"{prefix}{item.name}.")
    return names


def test_readme_is_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 12_000


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/")])
def test_a_page_is_short(name: str) -> None:
    assert len((ROOT / name).read_bytes()) <= 20_000


def test_every_page_can_be_reached_from_readme() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in PAGES:
            continue
        reached.add(name)
        for target in _links(name):
            waiting.append(((ROOT / name).parent / target).resolve().relative_to(ROOT).as_posix())
    assert {name for name in PAGES if name.startswith("docs/")} <= reached


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, flags=re.MULTILINE))
    assert {"quickstart", "test", "lint"} <= named
    assert named <= targets


def test_continuous_integration_runs_lint_and_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make lint", "make test"]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_names_a_job_a_recipe_and_fields_that_exist(words: list[str]) -> None:
    module = importlib.import_module(words[0])
    assert callable(module.main)
    if not hasattr(module, "RECIPES"):
        return
    if len(words) == 1 or not words[1].isidentifier() or words[1].isupper():
        return
    config = module.RECIPES[words[1]]()
    # Of the job's own parser.
    own = set(re.findall(r'"(--[a-z-]+)"', Path(str(module.__file__)).read_text()))
    known = JOB_WORDS | own
    for flag in (word for word in words[2:] if word.startswith("--") and word not in known):
        _check_field(config, flag)


def _check_field(config: Any, flag: str) -> None:
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        assert name in {item.name for item in dataclasses.fields(config)}, flag
        config = getattr(config, name)


def test_a_flag_in_a_sentence_is_a_field_of_some_job() -> None:
    known = set().union(*(_field_names(config) for config in _job_configs()))
    known |= {re.sub(r"(^|\.)(\w+)$", r"\1no_\2", name) for name in known}
    sources = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "jobs").glob("*.py")]
    of_programs = {
        flag for path in sources for flag in re.findall(r'"(--[a-z-]+)"', path.read_text())
    }
    for name, text in PAGES.items():
        for flag in re.findall(r"`[^`\n]*?(--[a-z][\w.-]*)", text):
            dotted = flag.removeprefix("--").replace("-", "_")
            others = JOB_WORDS | FOREIGN_FLAGS | of_programs
            assert dotted in known or flag in others, f"{name}: {flag}"


@pytest.mark.parametrize("name", PROSE)
def test_a_file_in_a_sentence_exists(name: str) -> None:
    for path in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|yaml))(?:::\w+)?`", PROSE[name]):
        places = (ROOT, ROOT / "glotok_ray", (ROOT / name).parent)
        is_result = path.startswith("runs/") or "NAME" in path
        assert is_result or any((place / path).exists() for place in places), f"{name}: {path}"


def test_python_on_pages_imports_what_exists() -> None:
    found = re.findall(r"^from (glotok_ray[\w.]*) import (\w+)$", TEXT, flags=re.MULTILINE)
    assert found
    for module, attribute in found:
        assert hasattr(importlib.import_module(module), attribute), f"{module}.{attribute}"


def test_the_tree_has_every_folder_of_code_and_none_too_many() -> None:
    listed = re.findall(r"^\| `([^`]+)/` \|", TREE, flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    folders = {file.parent for file in (ROOT / "glotok_ray").glob("*/**/*.py")}
    wanted = {folder.relative_to(ROOT).as_posix() for folder in folders}
    wanted |= {"jobs", "benchmarks", "cluster", "tests", "docs"}
    assert set(listed) == wanted


def _links(name: str) -> list[str]:
    return re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGES[name])


def test_pages_link_to_files_that_exist() -> None:
    for name in PAGES:
        for target in _links(name):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_read_next_lines_name_files_that_exist() -> None:
    for module in [*(ROOT / "glotok_ray").glob("**/*.py"), *(ROOT / "jobs").glob("*.py")]:
        for path in re.findall(r"Read next: (\S+?)[,.]?$", module.read_text(), flags=re.MULTILINE):
            assert (ROOT / path).exists(), f"{module.relative_to(ROOT)}: {path}"
