"""The equation ledger of docs/equations.md is true: every function exists and names its equation, every test exists."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Row(NamedTuple):
    """One line of the ledger."""

    paper: str
    functions: list[str]
    tests: list[str]


def _ledger() -> list[Row]:
    lines = (ROOT / "docs" / "equations.md").read_text().splitlines()
    start = lines.index("| paper | function | test |")
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        paper, functions, tests = (cell.strip() for cell in line.strip("|").split("|"))
        rows.append(
            Row(paper, re.findall(r"`([^`]+)`", functions), re.findall(r"`([^`]+)`", tests))
        )
    return rows


def _equations(text: str) -> set[int]:
    """Numbers after "Eq." or "Eqs.", ranges written out: "Eqs. 8-10 and 12" gives 8, 9, 10, 12."""
    numbers: set[int] = set()
    for part in re.findall(r"Eqs?\.\s*((?:\d+|\s*-\s*|,\s*|\s+and\s+)+)", text):
        for first, last in re.findall(r"(\d+)(?:\s*-\s*(\d+))?", part):
            numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def _find(dotted: str) -> Any:
    """The object behind `package.module.name[.attribute]`."""
    parts = dotted.split(".")
    file = ROOT
    while parts and ((file / parts[0]).is_dir() or (file / f"{parts[0]}.py").is_file()):
        file /= parts.pop(0)
    found = importlib.import_module(".".join(file.relative_to(ROOT).parts))
    for name in parts:
        found = getattr(found, name)
    return found


LEDGER = _ledger()
FUNCTIONS = [(row.paper, function) for row in LEDGER for function in row.functions]
TESTS = sorted({test for row in LEDGER for test in row.tests})


def test_the_reader_of_equation_numbers_expands_ranges() -> None:
    assert _equations("Eqs. 8-10 and 12, then Eq. 13") == {8, 9, 10, 12, 13}
    assert _equations("Eqs. 11, 12") == {11, 12}
    assert _equations("section 4") == set()


def test_all_thirteen_equations_have_a_row() -> None:
    assert set().union(*(_equations(row.paper) for row in LEDGER)) == set(range(1, 14))
    assert all(row.functions for row in LEDGER)
    assert all(row.tests for row in LEDGER)


@pytest.mark.parametrize(("paper", "dotted"), FUNCTIONS, ids=[dotted for _, dotted in FUNCTIONS])
def test_a_function_exists_and_names_its_equation(paper: str, dotted: str) -> None:
    found = _find(dotted)
    assert callable(found)
    documentation = inspect.getdoc(found) or ""
    if _equations(paper):
        assert _equations(documentation) & _equations(paper), (
            f"{dotted}: {documentation!r} names none of {paper}"
        )


@pytest.mark.parametrize("test", TESTS)
def test_a_named_test_exists(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name.startswith("test_")
    assert name in names
