"""Rows that fail: kept with their reason, not trained again unasked."""

import logging
from types import SimpleNamespace

import pytest
from ray.exceptions import RayTaskError

from glotok_ray.on_ray.attempts import RunFailed
from glotok_ray.on_ray.failures import reason_of
from glotok_ray.on_ray.tune import trial_result
from glotok_ray.stages.failed_rows import FAILED, attempt, failed_of, not_of_the_row
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.begun import FolderInUseError
from glotok_ray.storage.retries import StorageError


def raising(error):
    def work():
        raise error

    return work


def test_a_row_that_fails_is_not_tried_again_unasked(tmp_path):
    path = tmp_path / "trials" / "a_failure.json"
    reason = "step 3: total not finite"
    assert attempt(path, raising(ArtefactError(reason)), retry=False) == {FAILED: reason}
    assert attempt(path, raising(AssertionError("trained again")), retry=False) == {FAILED: reason}
    assert "raise error" in "".join(artefact.read_json(path)["traceback"])
    assert attempt(path, lambda: {"psnr": 20.0}, retry=True) == {"psnr": 20.0}
    assert not path.exists()


@pytest.mark.parametrize("kind", [StorageError, FolderInUseError])
def test_what_says_nothing_of_the_row_ends_the_whole(tmp_path, kind):
    with pytest.raises(kind):
        attempt(tmp_path / "a_failure.json", raising(kind("away")), retry=False)
    assert not (tmp_path / "a_failure.json").exists()


def test_so_does_what_a_run_stopped_for(tmp_path):
    stopped = RunFailed("training stopped at step 3: storage is away")
    stopped.__cause__ = StorageError("away")
    with pytest.raises(RunFailed):
        attempt(tmp_path / "a_failure.json", raising(stopped), retry=False)
    assert not (tmp_path / "a_failure.json").exists()


def test_so_do_a_store_that_answers_with_an_error_and_a_full_disk(tmp_path):
    path = tmp_path / "a_failure.json"
    for error in (OSError("s3://bucket/x: SlowDown"), PermissionError("s3://bucket/x: Forbidden")):
        with pytest.raises(type(error)):
            attempt(path, raising(error), retry=False)
        assert not path.exists()
    # What a row asks for is its own.
    assert attempt(path, raising(FileNotFoundError("no such weights")), retry=False)[FAILED]


def test_so_does_what_an_actor_stopped_for_of_which_the_text_alone_arrives(tmp_path):
    text = (
        'Traceback (most recent call last):\n  File "a.py", line 1, in read\n    raise\n'
        "glotok_ray.storage.retries.StorageError: s3://b/part: reading it failed for 5 minutes\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\nUserCodeException: the task failed"
    )
    kind = type("UserCodeException", (Exception,), {"__module__": "ray.exceptions"})
    wrapped = RayTaskError("map", text, kind(text))
    for error in (wrapped, wrapped.as_instanceof_cause()):
        assert isinstance(not_of_the_row(error), StorageError)
        with pytest.raises(type(error)):
            attempt(tmp_path / "a_failure.json", raising(error), retry=False)
    assert not_of_the_row(RuntimeError("its own")) is None


def test_a_trial_that_was_interrupted_is_no_row():
    """Ray Tune returns after Ctrl-C as if all trials had ended."""
    config = {"trial": "trial_00"}
    for metrics in (None, {}):
        with pytest.raises(KeyboardInterrupt):
            trial_result(SimpleNamespace(config=config, error=None, metrics=metrics))
    row = {"trial": "trial_00", FAILED: ""}
    found = trial_result(SimpleNamespace(config=config, error=None, metrics={"row": row}))
    assert found == ("trial_00", row, None)


def test_the_reason_is_one_line_out_of_what_ray_wraps():
    def chained(outer, inner):
        outer.__cause__ = inner
        return outer

    wrapped = RayTaskError("f", "Traceback\n  of it\nlast", RuntimeError("CUDA out of\nmemory"))
    assert reason_of(wrapped.as_instanceof_cause()) == "RuntimeError: CUDA out of memory"
    stopped = chained(RunFailed("training stopped at step 3: rank 0 died"), wrapped)
    assert reason_of(stopped) == "training stopped at step 3: rank 0 died"
    assert reason_of(KeyError("x")) == "KeyError: 'x'"


def test_when_all_fail_the_first_reason_is_the_error(caplog):
    rows = {name: {FAILED: f"{name} is broken"} for name in ("a", "b")}
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(
            RuntimeError, match=r"^all 2 rows failed; the first, a: a is broken; .*--retry"
        ),
    ):
        failed_of(rows, "rows")
    assert failed_of({"a": {FAILED: ""}}, "rows") == {}
