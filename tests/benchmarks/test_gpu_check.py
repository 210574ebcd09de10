"""benchmarks.gpu_check: all its code at a small size on the CPU, its answers without a GPU, and `-m gpu` for real."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_sections
from benchmarks.gpu_check import Child
from benchmarks.gpu_place import LeftOut, Place, Row, covered
from benchmarks.gpu_sections import SECTIONS, Section
from benchmarks.gpu_training import xar_operations
from glotok_ray.recipes.train_generator import xar_b, xar_h

ROOT = Path(__file__).parents[2]
CPU = Place("cpu", tiny=True)
PARAMETERS = {xar_b: 172_638_224, xar_h: 1_186_024_096}


def run(*arguments: str, timeout: float = 600.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("gpu") / "found.json"
    answer = run("--device", "cpu", "--tiny", "--json", "--output", str(output))
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads(answer.stdout)
    assert json.loads(output.read_text())["figures"] == found["figures"]
    return found


def values(found: dict[str, Any], section: str) -> dict[str, float]:
    return {name: row["value"] for name, row in found["figures"][section]["rows"].items()}


@pytest.mark.slow
def test_every_section_runs_or_says_why_not(tiny: dict[str, Any]) -> None:
    ended = {name: (each["status"], each["reason"]) for name, each in tiny["figures"].items()}
    assert list(ended) == list(SECTIONS)
    status, reason = ended.pop("host_waits")
    assert status == "left out"
    assert reason.startswith("only CUDA tells")
    assert set(ended.values()) == {("ok", "")}
    assert tiny["machine"]["torch"] == torch.__version__


@pytest.mark.slow
def test_the_figures_of_the_kernels_are_right(tiny: dict[str, Any]) -> None:
    relation, adam = values(tiny, "relation"), values(tiny, "adam")
    assert 0 < relation["error of the histogram"] < 1e-5
    assert 0 < relation["error of the gradient"] < 1e-5
    assert relation["equal bits in two runs"] == 1
    norm = values(tiny, "group_norm")
    assert [value for name, value in norm.items() if name.startswith("equal bits")] == [1]
    assert all(0 < value < 0.01 for name, value in norm.items() if name.startswith("error of"))
    for stage in range(4):
        assert adam[f"ZeRO {stage}: largest difference"] < 1e-5
        assert adam[f"ZeRO {stage}: resumed with equal losses"] == 1
    assert values(tiny, "collectives")["sum over one worker is the same"] == 1


@pytest.mark.slow
def test_the_shares_of_a_step_add_up(tiny: dict[str, Any]) -> None:
    found = values(tiny, "tokenizer")
    shares = {name: value for name, value in found.items() if name.startswith("share: ")}
    assert sum(shares.values()) == pytest.approx(100)
    assert len(shares) == 11
    assert all(value > 0 for value in shares.values()), shares
    assert tiny["ratios"]["tokenizer: peak / expected memory"] > 0


def test_time_is_covered_once() -> None:
    assert covered([]) == 0
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2), (3, 4)]) == 5


@pytest.mark.parametrize("recipe", PARAMETERS)
def test_operations_are_six_per_parameter_and_token(recipe: Any) -> None:
    model = recipe().model
    # Position embeddings are added, classes looked up, and modulations meet an entity, not a token.
    per_entity = model.depth * 6 * model.width * (model.width + 1)
    per_token = PARAMETERS[recipe] - per_entity - 1001 * model.width - 2 * 256 * model.width
    products = 6 * (model.num_tokens * per_token + model.num_entities * per_entity)
    # What attention adds.
    assert 1 < xar_operations(model) / products < 1.15


def _fails(_: Place) -> Iterator[Row]:
    yield Row("found before", 1.0, "s")
    raise RuntimeError("out of luck")


def _hangs(_: Place) -> Iterator[Row]:
    yield Row("found before", 1.0, "s")
    time.sleep(600)


def _dies(_: Place) -> Iterator[Row]:
    yield Row("found before", 1.0, "s")
    os._exit(7)


def _leaves_out(_: Place) -> Iterator[Row]:
    yield Row("found before", 1.0, "s")
    raise LeftOut("no room")


@pytest.mark.parametrize(
    ("rows", "status", "reason"),
    [
        (_fails, "failed", "RuntimeError: out of luck"),
        (_hangs, "late", "ended at its limit"),
        (_dies, "failed", "its process ended with exit code 7"),
        (_leaves_out, "left out", "no room"),
    ],
)
def test_a_section_that_does_not_end_well_keeps_its_rows(
    rows: Any, status: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Forked, so that the process sees the section, and spared DeepSpeed, which it does not need.
    monkeypatch.setitem(gpu_sections.SECTIONS, "odd", Section(rows, 60))
    monkeypatch.setattr(gpu_sections.importlib, "import_module", lambda name: None)
    outcome = Child(multiprocessing.get_context("fork"), CPU).run("odd", 1.0)
    assert (outcome.status, outcome.reason) == (status, reason)
    assert [row.measure for row in outcome.rows] == ["found before"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    answer = run()
    assert (answer.returncode, answer.stdout.count("\n")) == (0, 1)
    assert answer.stdout.startswith("no GPU: ")
    answer = run("--json")
    found = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert (found["figures"], found["ratios"], found["machine"]["gpu"]) == ({}, {}, None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--sections", "relation,speed"], "--sections speed: must be of relation, "),
        (["--device", "cpu"], "pass --tiny too"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], text: str) -> None:
    answer = run(*arguments)
    assert answer.returncode != 0
    assert text in answer.stderr


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    """For real, in its six minutes; the compiled step at the end may be cut."""
    answer = run("--json", "--output", str(tmp_path / "found.json"))
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads(answer.stdout)
    ended = {name: (each["status"], each["reason"]) for name, each in found["figures"].items()}
    assert ended.pop("compile")[0] != "failed"
    assert set(ended.values()) == {("ok", "")}, ended
    relation, adam = values(found, "relation"), values(found, "adam")
    assert relation["Triton works"] == 1
    assert relation["error of the histogram"] < 1e-5
    assert relation["error of the gradient"] < 1e-5
    assert relation["equal bits in two runs"] == 1
    for stage in range(4):
        row = found["figures"]["adam"]["rows"][f"ZeRO {stage}: largest difference"]
        assert row["value"] < 1e-3
        assert row["note"].endswith("fused: True")
        assert adam[f"ZeRO {stage}: resumed with equal losses"] == 1
    ours = {
        name: value
        for name, value in values(found, "host_waits").items()
        if "waits of glotok_ray" in name
    }
    assert len(ours) == 4
    assert all(count <= 1 for count in ours.values()), found["figures"]["host_waits"]
    assert found["ratios"]["overlap: decoded / there, by a side stream"] < 1.1
