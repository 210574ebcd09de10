"""cluster/Dockerfile: what can be seen without building it, which CI has no network for."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
DESCRIPTION = yaml.safe_load((ROOT / "cluster" / "description.yaml").read_text())
INSTRUCTIONS = re.compile(r"^(ARG|FROM|SHELL|USER|RUN|WORKDIR|COPY|ENV)\s")


def instructions() -> list[str]:
    """One line per instruction, comments and line breaks removed."""
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
    return re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()


def pinned(name: str) -> str:
    found = re.search(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found.group(1)


def argument(name: str) -> str:
    found = re.search(rf"^ARG {name}=(\S*)$", TEXT, re.MULTILINE)
    assert found is not None
    return found.group(1)


def test_every_line_is_an_instruction_of_docker() -> None:
    for line in instructions():
        assert INSTRUCTIONS.match(line), line


def test_its_versions_are_those_of_the_project() -> None:
    assert argument("RAY_VERSION") == pinned("ray") == DESCRIPTION["ray"]
    assert argument("PYTHON_TAG") == DESCRIPTION["python"]
    toolkit = pinned("cuda-toolkit").split(".")
    assert argument("CUDA_TAG") == f"cu{toolkit[0]}{toolkit[1]}"


def test_the_bases_are_rays_images_of_a_pinned_version() -> None:
    bases = [line.split()[1] for line in instructions() if line.startswith("FROM ")]
    assert bases[-1] == "base-${FLAVOR}"
    for base in bases[:-1]:
        assert base.startswith("rayproject/ray:${RAY_VERSION}-${PYTHON_TAG}-")


def test_everything_is_installed_under_the_constraints_and_leaves_no_cache() -> None:
    installs = [
        part for part in re.split(r"&&|\n", "\n".join(instructions())) if "pip install" in part
    ]
    assert len(installs) == 3
    for install in installs:
        assert "--no-cache-dir -c constraints.txt" in install
    for line in instructions():
        if "apt-get install" in line:
            assert "--no-install-recommends" in line
            assert "rm -rf" in line
            assert "/var/lib/apt/lists/*" in line


@pytest.mark.parametrize("line", [line for line in instructions() if line.startswith("COPY ")])
def test_what_is_copied_is_there(line: str) -> None:
    for source in line.split()[2:-1]:
        assert (ROOT / source).exists(), source


def test_nodes_run_as_rays_user_with_the_token_asked_for() -> None:
    users = [line.split()[1] for line in instructions() if line.startswith("USER ")]
    assert users[-1] == "ray"
    assert "ENV RAY_AUTH_MODE=token" in instructions()
    assert not re.search(r"(AUTH_TOKEN|SECRET|PASSWORD)=", TEXT)


def test_what_is_downloaded_is_compared_with_its_digest() -> None:
    for line in instructions():
        if "curl" in line and "--output" in line:
            assert "sha256sum --check" in line
