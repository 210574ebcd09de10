"""Paths of all jobs start at one root and are absolute before anything runs; nothing is written into Ray's copies."""

import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from glotok_ray import config
from glotok_ray.config import ShardRun, TokenizerRun, override
from glotok_ray.recipes import shard_images as shard_recipes
from glotok_ray.recipes import train_tokenizer as tokenizer_recipes
from jobs import quickstart, storage_root, train_tokenizer

ROOT = Path(__file__).parents[2]
JOBS = sorted(
    path.stem
    for path in (ROOT / "jobs").glob("*.py")
    if "return run_job" in path.read_text() and path.stem not in ("command_line", "named_folders")
)
RECIPES = {
    f"{job} {name}": make
    for job in JOBS
    for name, make in importlib.import_module(f"jobs.{job}").RECIPES.items()
}


def texts(values: Any, prefix: str = "") -> dict[str, str]:
    """Every text in a config's plain values, by dotted name."""
    if isinstance(values, str):
        return {prefix: values}
    parts = values.items() if isinstance(values, dict) else enumerate(values)
    found: dict[str, str] = {}
    for name, value in parts:
        if isinstance(value, str | dict | list):
            found |= texts(value, f"{prefix}.{name}")
    return found


def test_there_are_all_jobs() -> None:
    assert {"shard_images", "sweep_generator", "export_tokenizer", "quickstart"} <= set(JOBS)
    assert len(JOBS) == 16
    assert len(RECIPES) > 60


@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES)
def test_no_path_of_a_recipe_stays_relative(make: Any, tmp_path: Path) -> None:
    found = texts(config.to_dict(storage_root.located(make(), tmp_path)))
    before = texts(config.to_dict(make()))
    moved = {name for name in found if found[name] != before[name]}
    assert moved
    for name in moved:
        assert found[name] == str(tmp_path / before[name])
    # Whatever else is a text has no slash in it, so it is no path.
    assert not {name: text for name, text in found.items() if name not in moved and "/" in text}


def test_every_field_that_speaks_of_a_folder_or_file_is_a_path() -> None:
    """A new field with another kind of name must be added to config's list of paths."""
    files = sorted((ROOT / "glotok_ray" / "config").glob("*.py"))
    lines = [line for path in files for line in path.read_text().splitlines()]
    assert sum("_path: str" in line for line in lines) > 20
    for line, below in itertools.pairwise(lines):
        name, _, rest = line.strip().partition(": str")
        is_field = line.startswith("    ") and name.isidentifier() and rest.startswith(" =")
        if is_field and any(word in below.lower() for word in ("folder", " file ", "checkpoint")):
            known = name.endswith(("_path", "source")) or name in ("weights_sha256", "name")
            assert known or "centroids_key" in name or name.endswith("_sha256"), line


def test_paths_of_parts_in_tuples_are_resolved_too(tmp_path: Path) -> None:
    run = override(tokenizer_recipes.fqgan_dual(), {"model.codebooks.1.contrast.weights_path": "w"})
    found = config.with_absolute_paths(run, tmp_path)
    assert found.model.codebooks[1].contrast.weights_path == str(tmp_path / "w")
    assert found.model.codebooks[0] == run.model.codebooks[0]
    assert found.initial_path == ""  # what is not set stays so


def test_sources_are_paths_unless_they_are_the_photographs(tmp_path: Path) -> None:
    assert config.with_absolute_paths(shard_recipes.quickstart(), tmp_path).source == "photographs"
    run = ShardRun(source="mine/train", validation_source="mine/val")
    found = config.with_absolute_paths(run, tmp_path)
    assert found.source == str(tmp_path / "mine" / "train")
    assert found.validation_source == str(tmp_path / "mine" / "val")


def test_absolute_paths_stay_and_the_home_is_expanded(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run = TokenizerRun(output_path="/elsewhere", teacher_path="~/teacher")
    found = config.with_absolute_paths(run, tmp_path)
    assert (found.output_path, found.teacher_path) == (
        "/elsewhere",
        str(tmp_path / "home" / "teacher"),
    )
    # So the fingerprints of a run do not depend on where it was resolved.
    assert config.with_absolute_paths(found, Path("/other")) == found


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("s3:/bucket/runs", "an address is written s3://BUCKET/PREFIX"),
        ("s3:///runs", "an address is written s3://BUCKET/PREFIX"),
        ("s3://KEY:SECRET@bucket/runs", "an address holds no credentials and no account; give"),
        ("ftp://bucket/runs", "ftp:// is not supported; there is s3, gs, abfs"),
    ],
)
def test_what_is_no_address_of_a_store_is_refused_in_one_line(
    value: str, said: str, caplog: Any
) -> None:
    assert train_tokenizer.main(["quickstart", "--output-path", value, "--dry-run"]) == 2
    (message,) = caplog.messages
    assert "output_path" in message
    assert said in message
    assert "SECRET@" not in caplog.text


def test_addresses_stay_and_a_root_may_be_one(tmp_path: Path) -> None:
    run = TokenizerRun(output_path="runs", teacher_path="s3://other/teacher/", initial_path="/x")
    found = storage_root.located(run, storage_root.chosen("s3://bucket/prefix"))
    assert (found.output_path, found.teacher_path, found.initial_path) == (
        "s3://bucket/prefix/runs",
        "s3://other/teacher",
        "/x",
    )
    assert config.with_absolute_paths(found) == found
    assert storage_root.located(run, tmp_path).teacher_path == "s3://other/teacher"


def resolved(capsys: Any, *flags: str) -> str:
    assert train_tokenizer.main(["quickstart", "--dry-run", *flags]) == 0
    return json.loads(capsys.readouterr().out)["config"]["output_path"]


def test_the_root_is_the_flag_then_the_variable_then_the_directory_of_the_call(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(storage_root.VARIABLE, raising=False)
    assert resolved(capsys) == str(tmp_path / "runs" / "quickstart")
    monkeypatch.setenv(storage_root.VARIABLE, "variable")
    assert resolved(capsys) == str(tmp_path / "variable" / "runs" / "quickstart")
    assert resolved(capsys, "--storage-root", "/flag") == "/flag/runs/quickstart"
    assert resolved(capsys, "--storage-root", "flag") == str(tmp_path / "flag/runs/quickstart")


def test_the_quickstart_chains_its_folders_under_the_root(tmp_path: Path, capsys: Any) -> None:
    assert quickstart.main(["quickstart", "--dry-run", "--storage-root", str(tmp_path)]) == 0
    answer = json.loads(capsys.readouterr().out)
    top = tmp_path / "runs" / "quickstart"
    assert answer["stages"]["codes"] == str(top / "codes")
    assert answer["config"]["far"]["data"]["train_path"] == str(top / "codes")


def test_a_recipe_file_is_sought_here_and_then_in_the_root(
    tmp_path: Path, monkeypatch: Any, capsys: Any, caplog: Any
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "storage" / "recipes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")

    def write(path: Path, name: str) -> None:
        run = override(tokenizer_recipes.quickstart(), {"name": name})
        path.write_text(json.dumps(config.to_dict(run)))

    def read() -> str:
        arguments = ["recipes/mine.json", "--dry-run", "--storage-root", "../storage"]
        assert train_tokenizer.main(arguments) == 0
        return json.loads(capsys.readouterr().out)["config"]["name"]

    write(tmp_path / "storage" / "recipes" / "mine.json", "of_the_root")
    assert read() == "of_the_root"
    (tmp_path / "here" / "recipes").mkdir()
    write(tmp_path / "here" / "recipes" / "mine.json", "of_here")
    assert read() == "of_here"
    assert train_tokenizer.main(["recipes/none.json", "--storage-root", "../storage"]) == 2
    assert f"{tmp_path}/storage/recipes/none.json: no such file" in caplog.text.replace(
        "here/../", ""
    )


def test_a_job_in_rays_copy_needs_a_root(
    tmp_path: Path, monkeypatch: Any, capsys: Any, caplog: Any
) -> None:
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0a"
    (copy / "deeper").mkdir(parents=True)
    monkeypatch.chdir(copy / "deeper")
    monkeypatch.delenv(storage_root.VARIABLE, raising=False)
    for flags in ((), ("--storage-root", "results"), ("--dry-run",)):
        caplog.clear()
        assert train_tokenizer.main(["quickstart", *flags]) == 2
        (message,) = caplog.messages
        assert f"starts in {copy}, Ray's temporary copy" in message
        assert "give --storage-root DIR (or set GLOTOK_STORAGE_ROOT)" in message
    assert list(copy.rglob("*")) == [copy / "deeper"]
    assert resolved(capsys, "--storage-root", str(tmp_path)) == str(tmp_path / "runs/quickstart")
    # Without a relative path there is nothing to lose.
    run = config.with_absolute_paths(tokenizer_recipes.quickstart(), tmp_path)
    (copy / "mine.json").write_text(json.dumps(config.to_dict(run)))
    assert train_tokenizer.main(["../mine.json", "--dry-run"]) == 0


def test_the_flag_is_a_flag_of_every_job(capsys: Any) -> None:
    for job in [*JOBS, "verify"]:
        main = importlib.import_module(f"jobs.{job}").main
        with pytest.raises(SystemExit) as ended:
            main(["--help"])
        assert ended.value.code == 0
        assert "--storage-root DIR" in capsys.readouterr().out, job
