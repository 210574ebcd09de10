"""The floors hold: models and losses load without Ray and DeepSpeed, packages run no code, imports point downward."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# `glotok_ray.config` has its names from its files, so that a reader finds all of them in one place.
CONFIG = ROOT / "glotok_ray" / "config" / "__init__.py"
PACKAGES = [
    *sorted({*ROOT.glob("glotok_ray/**/__init__.py")} - {CONFIG}),
    ROOT / "jobs" / "__init__.py",
]


def _loaded_by(modules: list[str]) -> set[str]:
    """Top-level packages in sys.modules of a new interpreter after importing `modules`."""
    imports = "".join(f"import {name}\n" for name in modules)
    script = imports + "import sys; print('\\n'.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return set(done.stdout.split())


def _modules_below(*packages: str) -> list[str]:
    files = [
        file
        for package in packages
        for file in sorted((ROOT / "glotok_ray" / package).glob("**/*.py"))
    ]
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if file.name != "__init__.py"
    ]


def test_models_and_losses_load_neither_ray_nor_deepspeed() -> None:
    modules = _modules_below("nn", "losses", "sampling", "peers")
    assert "glotok_ray.nn.tokenizer" in modules
    assert "glotok_ray.losses.objective" in modules
    assert not {"ray", "deepspeed"} & _loaded_by(modules)


def test_nothing_below_on_ray_loads_ray() -> None:
    modules = _modules_below(
        *("config", "storage", "data", "metrics", "recipes", "pretrained"),
        *("teacher", "interop", "evaluation", "training", "export", "report"),
    )
    assert "glotok_ray.training.trainer" in modules
    # With launcher = "local" a training needs no Ray.
    stages = ["glotok_ray.stages.train_tokenizer", "glotok_ray.stages.train_generator"]
    assert "ray" not in _loaded_by([*modules, *stages])


def test_the_arithmetic_of_a_run_needs_no_torch() -> None:
    modules = [f"glotok_ray.training.{name}" for name in ("plan", "metrics_file", "stalls")]
    assert not {"torch", "ray"} & _loaded_by(modules)


def test_the_loader_of_these_tests_sees_what_it_forbids() -> None:
    assert "ray" in _loaded_by(["glotok_ray.on_ray.cluster"])


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_package_is_a_docstring_only(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)
    assert isinstance(body[0].value.value, str)


def test_every_package_folder_has_its_init_and_of_the_tests_the_top_alone() -> None:
    folders = {file.parent for file in (ROOT / "glotok_ray").glob("**/*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert list((ROOT / "tests").glob("**/__init__.py")) == [ROOT / "tests" / "__init__.py"]


def test_imports_point_downward() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint_imports, "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
