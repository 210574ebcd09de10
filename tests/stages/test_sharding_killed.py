"""Sharding of listed images, killed by SIGKILL at every seam of its work, leaves what an undisturbed run does.

test_killed_anywhere.py kills the quickstart's photographs under Ray, whose rows are no columns; here Ray's pool is
replaced by a loop of the process that is killed.
"""

import functools
import itertools
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.five_forms import training_images, validation_images, write_five_forms
from glotok_ray.config import ShardRun
from glotok_ray.data import shard_writing
from glotok_ray.data.row_columns import Rows
from glotok_ray.data.sources import ImageSource
from glotok_ray.data.written_shards import RECEIPTS, receipt_of
from glotok_ray.on_ray import tasks
from glotok_ray.stages import shard_images
from glotok_ray.storage import artefact


class Seam(NamedTuple):
    """Just before the call of a function, counted from 0."""

    module: Any
    function: str
    call: int
    receipts: int
    """Shards that are known to be whole by then, of three and one."""


SEAMS = {
    "before_the_first_shard": Seam(shard_images, "write_task", 0, 0),
    "between_shards": Seam(shard_images, "write_task", 2, 2),
    "between_a_shard_and_its_receipt": Seam(shard_writing, "write_receipt", 1, 1),
    "behind_the_last_shard": Seam(shard_images, "write_dataset", 0, 4),
    "between_the_facts_of_the_splits": Seam(shard_images, "write_dataset", 1, 4),
    "before_the_first_manifest": Seam(artefact, "write_manifest", 0, 4),
    "between_the_manifests": Seam(artefact, "write_manifest", 1, 4),
    "behind_the_manifests": Seam(shard_images, "_remove_receipts", 0, 4),
}


def here(function: Callable[[Any], Any], units: Any, **_: Any) -> Iterator[Any]:
    return (function(pickle.loads(pickle.dumps(unit))) for unit in units)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: Any) -> None:
    monkeypatch.setattr(tasks, "map_tasks", here)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: Any) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("sources")
    return write_five_forms(root, training_images(8), validation_images(3), per_archive=7)


@pytest.fixture(scope="module")
def undisturbed(
    forms: dict[str, dict[str, Any]], tmp_path_factory: Any
) -> Callable[[str], dict[str, Any]]:
    """What a run of a form leaves, made once."""

    @functools.cache
    def made(form: str) -> dict[str, Any]:
        output = tmp_path_factory.mktemp(form)
        shard_images.run(settings(forms[form], output))
        return contents(output)

    return made


def settings(fields: dict[str, Any], output: Path) -> ShardRun:
    return ShardRun(
        **fields, output_path=str(output), image_size=0, upright=False, rows_per_shard=10
    )


def contents(output: Path) -> dict[str, Any]:
    """Every file's bytes; of manifests, which tell times, what they say of files and settings."""
    found: dict[str, Any] = {}
    for path in output.rglob("*"):
        name = path.relative_to(output).as_posix()
        if path.name == artefact.MANIFEST:
            facts = artefact.read_json(path)
            found[name] = (facts["fingerprint"], facts["files"])
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def kill_at(name: str, run: ShardRun) -> None:
    """Run in a process of its own, which must end there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run_to, args=(name, run))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL, name


def _run_to(name: str, run: ShardRun) -> None:
    tasks.map_tasks = here  # pyright: ignore
    seam, calls = SEAMS[name], itertools.count()
    function = getattr(seam.module, seam.function)

    def or_die(*arguments: Any, **named: Any) -> Any:
        if next(calls) == seam.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    setattr(seam.module, seam.function, or_die)
    shard_images.run(run)


def whole_shards(output: Path) -> dict[Path, int]:
    """The shards with receipts, and which file each is: what is written again is another file."""
    shards = output.rglob("*.parquet")
    return {path: path.stat().st_ino for path in shards if receipt_of(path).is_file()}


@pytest.mark.parametrize("name", SEAMS)
def test_killed_at_a_seam_it_goes_on_behind_the_shards_that_are_whole(
    forms: dict[str, dict[str, Any]],
    undisturbed: Callable[[str], dict[str, Any]],
    tmp_path: Path,
    name: str,
) -> None:
    run = settings(forms["folders"], tmp_path)
    assert all(isinstance(part, Rows) for part in ImageSource.of(run).shards()["train"])
    kill_at(name, run)
    there = whole_shards(tmp_path)
    assert len(there) == SEAMS[name].receipts
    shard_images.run(run)
    assert contents(tmp_path) == undisturbed("folders")
    assert {path: path.stat().st_ino for path in there} == there


@pytest.mark.parametrize("form", ["tars", "parquet"])
def test_killed_at_one_seam_after_another(
    forms: dict[str, dict[str, Any]],
    undisturbed: Callable[[str], dict[str, Any]],
    tmp_path: Path,
    form: str,
) -> None:
    run = settings(forms[form], tmp_path)
    for name in ("between_shards", "behind_the_last_shard", "between_the_manifests"):
        kill_at(name, run)
    there = whole_shards(tmp_path)
    assert len(there) == 4
    shard_images.run(run)
    assert contents(tmp_path) == undisturbed(form)
    assert {path: path.stat().st_ino for path in there} == there
    assert not any(tmp_path.rglob(RECEIPTS))
