"""How jobs end: one line with the cause, the traceback in a file, and exit codes for bad input and for failed runs."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from glotok_ray.config import ExportRun
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError
from jobs.command_line import run_job
from jobs.failures import guarded


def ended(error: BaseException, output: Path | None = None) -> int:
    def job() -> int:
        raise error

    return guarded("some_job", job, [output] if output else [])


def named_log(caplog: Any) -> Path:
    (message,) = caplog.messages
    assert "\n" not in message
    return Path(message.rpartition("; log: ")[2])


def from_task(error: Exception) -> BaseException:
    """As Ray raises in the driver what a task raised."""
    return RayTaskError("task", "Traceback ...\n  lines\nlast", error).as_instanceof_cause()


def test_bad_input_is_told_in_one_line_without_a_log(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "begun").touch()
    assert ended(ArtefactError("x.json: broken; mend it"), tmp_path) == 2
    assert caplog.messages == ["some_job: x.json: broken; mend it"]
    assert not (tmp_path / artefact.LOG_FILE).exists()


def test_bad_input_that_a_worker_finds_is_bad_input_too(caplog: Any) -> None:
    assert ended(from_task(ArtefactError("row 3: no image; mend it"))) == 2
    assert caplog.messages == ["some_job: row 3: no image; mend it"]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (StorageError("/a/b: away for 10 minutes; bring it back"), "/a/b: away for 10 minutes;"),
        (OSError(28, "No space left on device", "/a/b"), "OSError: [Errno 28] No space left"),
        (KeyError("k"), "KeyError: 'k'"),
        (MemoryError(), "MemoryError"),
        (from_task(OSError(28, "No space left on device")), "OSError: [Errno 28] No space"),
        (from_task(ValueError("operands")), "ValueError: operands"),
        (WorkerGroupError("text\n of it", {1: RuntimeError("CUDA")}), "RuntimeError: CUDA"),
        (ControllerError(from_task(StorageError("gone; mend it"))), "gone; mend it"),
    ],
)
def test_a_failed_run_names_the_cause_and_the_log(
    tmp_path: Path, caplog: Any, error: BaseException, cause: str
) -> None:
    (tmp_path / "begun").touch()
    assert ended(error, tmp_path) == 1
    log = named_log(caplog)
    assert log == tmp_path / artefact.LOG_FILE
    assert caplog.messages[0].startswith(f"some_job: failed: {cause}")
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "raise error" in text


def test_tracebacks_are_appended_and_no_folder_is_begun_for_them(
    tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        caplog.clear()
        assert ended(RuntimeError("first"), folder) == 1
        log = named_log(caplog)
        assert "RuntimeError: first" in log.read_text()
        assert log.parent != folder
        log.unlink()
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
    (tmp_path / "empty" / "begun").touch()
    ended(RuntimeError("first"), tmp_path / "empty")
    ended(RuntimeError("second"), tmp_path / "empty")
    text = (tmp_path / "empty" / artefact.LOG_FILE).read_text()
    assert text.index("RuntimeError: first") < text.index("RuntimeError: second")


def test_the_log_stays_out_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    ended(RuntimeError("first"), tmp_path)
    assert set(artefact.write_manifest(tmp_path, "thing")["files"]) == {"a"}


def test_ctrl_c_is_one_line_and_130(caplog: Any) -> None:
    assert ended(KeyboardInterrupt()) == 130
    assert caplog.messages == ["some_job: interrupted; the same command goes on"]


def test_a_job_that_fails_knows_its_output_folder(tmp_path: Path, caplog: Any) -> None:
    """Through the command line that all jobs share."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "begun").touch()

    def run(config: ExportRun, *, fresh: bool) -> dict[str, Any]:
        raise StorageError("gone")

    arguments = ["run", "--output-path", "out", "--storage-root", str(tmp_path)]

    def recipe() -> ExportRun:
        """A recipe."""
        return ExportRun(source_path="x")

    code = run_job(arguments, name="j", recipes={"run": recipe}, dry_run=lambda _: {}, run=run)
    assert code == 1
    assert named_log(caplog) == tmp_path / "out" / artefact.LOG_FILE


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_process(sent: int, code: int) -> None:
    script = (
        "import os, time\nfrom jobs.command_line import start_logging\nfrom jobs.failures import guarded\n"
        f"def job():\n    os.kill(os.getpid(), {int(sent)})\n    time.sleep(20)\n"
        "start_logging()\nraise SystemExit(guarded('some_job', job))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # As in a terminal, also where these tests run in the background, which ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if sent == signal.SIGINT:
        assert done.stderr.count("\n") == 1
