"""What a person sees of a job on a terminal, and what is read from a pipe: a process of its own, behind both."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COLUMNS = 72
CLEAR = "\r\x1b[2K"
JOB = r"""
import ctypes, logging, os, sys
from pathlib import Path
from glotok_ray.console import CONSOLE, NOTE
from glotok_ray.progress import ProgressLine
from glotok_ray.stage_progress import StageLines
from jobs.command_line import start_logging
from jobs.failures import guarded

logger = logging.getLogger("glotok_ray.tests")

def work(name, total):
    line = ProgressLine(name, total, interval_s=0.0)
    for done in range(total + 1):
        line._shown = 0
        line.update(done, "loss 0.25  gradient 1.5")

def job():
    titles = {"first": "a stage that ends", "second": "a stage that fails", "third": "never begun"}
    with CONSOLE.alone(Path(sys.argv[1])), StageLines(titles, dict.fromkeys(titles, 60)) as lines:
        with lines.stage("first"):
            work("first", 3)
            print("Tip: printed by a library")
            os.write(2, b"(raylet) written by C++\n")
            logging.getLogger("other").info("a library's INFO")
            logger.info("our INFO")
            logger.info("our note", extra=NOTE)
            logger.warning("our warning")
        with lines.stage("second"):
            work("piece", 2)
            raise RuntimeError("the cause")

start_logging()
raise SystemExit(guarded("some_job", job, [Path(sys.argv[1]).parent]))
"""


def on_a_terminal(arguments: list[str], **environment: str) -> tuple[int, str]:
    """Exit code and what a terminal of COLUMNS columns was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=os.environ | environment,
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),  # type: ignore[call-overload]
    )
    os.close(theirs)
    sent = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not part:
            break
        sent += part
    os.close(ours)
    return process.wait(timeout=60), sent.decode().replace("\r\n", "\n")


def screen(sent: str) -> list[str]:
    """The lines that stay on the terminal."""
    lines = [line.rpartition(CLEAR)[2] for line in sent.split("\n")]
    assert not any("\x1b" in line or "\r" in line for line in lines)
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines if line]


def shown(sent: str) -> list[str]:
    """The lines of a terminal, for text and the few control sequences that are used."""
    lines, row = [""], 0
    for part in re.findall(r"\n|\r|\x1b\[2K|\x1b\[1A|[^\n\r\x1b]+", sent):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part != "\r":
            lines[row] += part
    return lines


TWO_LANES = """
import logging, threading
from glotok_ray.progress import ProgressLine
from glotok_ray.stage_progress import StageLines
from jobs.command_line import start_logging

def work(name, done):
    line = ProgressLine(name, 4)
    line._shown = 0
    line.update(done)

start_logging()
logging.getLogger("glotok_ray").setLevel(logging.WARNING)
titles = {"first": "of one lane", "second": "of the other", "third": "behind the first"}
begun, other_over, over = (threading.Event() for _ in range(3))
with StageLines(titles, dict.fromkeys(titles, 60), [("first", "third"), ("second",)]) as lines:
    def other():
        with lines.stage("second"):
            work("second", 1)
            begun.set()
            over.wait()
            work("second", 2)
        other_over.set()
    threading.Thread(target=other).start()
    with lines.stage("first"):
        begun.wait()
        work("first", 3)
        logging.getLogger("glotok_ray.tests").warning("a warning")
    with lines.stage("third"):
        work("third", 2)
        %s
        over.set()
        other_over.wait()
"""


def test_stages_side_by_side_have_a_line_each_below_those_that_have_ended() -> None:
    begin = [sys.executable, "-c"]
    code, sent = on_a_terminal([*begin, TWO_LANES % "import os; os._exit(0)"], TERM="xterm")
    assert code == 0
    ended = ["a warning", "1/3 first      0:00  of one lane"]
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in shown(sent)]
    assert [line[:40] for line in lines] == [
        *ended,
        "2/3 second  [#####...............]  1/4 ",
        "3/3 third  [##########..........]  2/4 i",
    ]
    code, sent = on_a_terminal([*begin, TWO_LANES % "pass"], TERM="xterm")
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in shown(sent)]
    assert lines == [
        *ended,
        "2/3 second     0:00  of the other",
        "3/3 third      0:00  behind the first",
        "",
    ]


def test_a_terminal_keeps_one_line_per_stage_and_the_log_has_the_rest(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    code, sent = on_a_terminal([sys.executable, "-c", JOB, str(log)], TERM="xterm")
    assert code == 1
    assert screen(sent) == [
        "our note",
        "our warning",
        "1/3 first      0:00  a stage that ends",
        "2/3 second  failed after 0:00",
        f"some_job: failed: RuntimeError: the cause; log: {log}",
    ]
    drawn = [part.split("\n")[0] for part in sent.split(CLEAR)]
    first = [line for line in drawn if line.startswith("1/3 first  [")]
    assert len(first) >= 4
    assert first[-1].startswith("1/3 first  [####################]  3/3 images")
    assert any(line.startswith("2/3 second, piece  [") for line in drawn)
    # A line that is redrawn must not wrap; log lines may.
    assert max(len(line) for line in drawn if re.match(r"\d/3 ", line)) < COLUMNS
    text = log.read_text()
    for line in ("Tip: printed by a library", "(raylet) written by C++", "a library's INFO"):
        assert text.count(line) == 1
        assert line not in sent
    assert "our INFO" in text
    assert "our INFO" not in sent
    assert "Traceback" in text


@pytest.mark.parametrize("is_piped", [True, False])
def test_without_a_terminal_that_can_redraw_there_are_plain_lines(
    tmp_path: Path, is_piped: bool
) -> None:
    log = tmp_path / "log.txt"
    arguments = [sys.executable, "-c", JOB, str(log)]
    if is_piped:
        done = subprocess.run(
            arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        code, sent = done.returncode, done.stderr
        assert done.stdout == ""
    else:
        code, sent = on_a_terminal(arguments, TERM="dumb")
    assert code == 1
    assert sent.replace("\n", "").isprintable()
    lines = screen(sent)
    assert lines[0] == "stage 1/3 first: a stage that ends; all: about 3:00"
    assert re.fullmatch(
        r"1/3 first: 1/3 images  \S+ images/s  ETA 0:00 · all \d:\d\d  loss 0.25  gradient 1.5",
        lines[2],
    )
    assert {"our INFO", "our note", "our warning"} <= set(lines)
    assert lines[-1] == f"some_job: failed: RuntimeError: the cause; log: {log}"
    assert "a library's INFO" not in sent
    assert "(raylet) written by C++" in log.read_text()


def test_a_single_jobs_line_ends_before_what_comes_after_it(tmp_path: Path) -> None:
    script = JOB.replace("    titles =", "    return alone()\n    titles =").replace(
        "def job():",
        "def alone():\n    work('features', 2)\n    line = ProgressLine('k-means', 9)\n"
        "    line._shown = 0\n    line.update(3)\n    logger.info('between')\n    line.end()\n"
        "    line = ProgressLine('rest', 9)\n    line._shown = 0\n    line.update(3)\n"
        "    raise RuntimeError('the cause')\n\ndef job():",
    )
    code, sent = on_a_terminal(
        [sys.executable, "-c", script, str(tmp_path / "log.txt")], TERM="xterm"
    )
    assert code == 1
    lines = screen(sent)
    assert lines[0].startswith("features  [####################]  2/2 images")
    assert lines[1] == "between"
    assert lines[2].startswith("k-means  [######..............]  3/9 images")
    assert lines[3].startswith("rest  [######..............]  3/9 images")
    assert lines[4].startswith("some_job: failed: RuntimeError: the cause; log: ")
