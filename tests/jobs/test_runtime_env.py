"""cluster/runtime_env.yaml: a submitted job brings the code, all of it, and little else."""

import zipfile
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).parents[2]
ENVIRONMENT = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text())
MOST_BYTES = 4_000_000


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that `ray job submit` would send."""
    path = tmp_path_factory.mktemp("package") / "package.zip"
    create_package(str(ROOT), path, include_gitignore=True, excludes=ENVIRONMENT["excludes"])
    return path


def test_ray_takes_it() -> None:
    assert RuntimeEnv(**{**ENVIRONMENT, "working_dir": str(ROOT)})
    assert ENVIRONMENT["working_dir"] == "."


def test_the_package_has_all_code_and_is_small(package: Path) -> None:
    names = set(zipfile.ZipFile(package).namelist())
    for folder in ("glotok_ray", "jobs", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert path.relative_to(ROOT).as_posix() in names
    assert "glotok_ray/report/published.csv" in names
    assert {name.split("/")[0] for name in names} & {
        "tests",
        "docs",
        "runs",
        "data",
        ".venv",
    } == set()
    assert package.stat().st_size < MOST_BYTES
