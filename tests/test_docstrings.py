"""Modules and folders say what they are: what a module map would say, at the place where it stays true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path
    for folder in ("glotok_ray", "jobs", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
)
FOLDERS = [*sorted((ROOT / "glotok_ray").rglob("__init__.py")), ROOT / "jobs" / "__init__.py"]
LONGEST_LINE = 120


def paragraphs_of(path: Path) -> list[str]:
    """The paragraphs of a module's docstring; none where it has no docstring."""
    text = ast.get_docstring(ast.parse(path.read_text()))
    return re.split(r"\n\s*\n", text) if text else []


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*MODULES, *FOLDERS], ids=relative)
def test_a_module_begins_with_a_sentence(path: Path) -> None:
    paragraphs = paragraphs_of(path)
    assert paragraphs, "has no docstring: say in a sentence what the module is"
    assert len(paragraphs[0].splitlines()[0]) <= LONGEST_LINE
    assert paragraphs[0].endswith("."), f"{paragraphs[0]!r} is no sentence"


@pytest.mark.parametrize("path", FOLDERS, ids=relative)
def test_a_folder_says_what_it_holds_and_what_it_may_import(path: Path) -> None:
    text = " ".join(paragraphs_of(path))
    assert len(re.findall(r"[.:](?:\s|$)", text)) >= 2, "say what it holds, and what it may import"
    assert "import" in text.lower(), "say what its modules may import"
