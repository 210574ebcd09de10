"""The drills: what happens to a training, and what must be true afterwards.

Each is a function of the ground and of the seconds that shards stay away; it returns the steps that were done twice
and the restarts that the run told. Read next: benchmarks/drill_runs.py
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.drill_runs import (
    RECIPE,
    SHARDS,
    STEPS,
    Call,
    DrillSkipped,
    Ground,
    Run,
    Told,
    require,
    wait_until,
)
from benchmarks.head_node import started_head_node
from glotok_ray.data.records import DATASET, read_rows, write_shard
from glotok_ray.pretrained.tokenizer import DISCRIMINATOR_FILE
from glotok_ray.storage import artefact
from glotok_ray.training.checkpoint import checkpoint_path, newest_checkpoint
from glotok_ray.training.rows_seen import BAD_ROWS_FOLDER

# Many restarts within minutes, and short pauses between them, which grow with those of the last window.
_OFTEN = ("--scaling.max-failures", "9", "--scaling.failure-window-minutes", "0.3")
_IMPATIENT = ("--scaling.storage-retry-minutes", "0.1")
_KILLED = r"rank \d on \S+ (died|lost another rank)"
_FULL_FOR_S = 8.0
_DISK_MIB = 160
_CLONE_NEWNS = 0x20000


class Outcome(NamedTuple):
    """What a passed drill cost."""

    restarts: int
    repeated_steps: int


def ranks_killed(ground: Ground, name: str, faults: dict[str, tuple[int, ...]]) -> Outcome:
    """A run in which each fault, in the order of steps, kills a rank once; it goes on by itself at one of the steps."""
    ground.finish(name, *_OFTEN, fault=",".join(faults))
    run = ground.run(name)
    told = [Told(_KILLED, resumed) for resumed in faults.values()]
    return Outcome(len(told), ground.compare(run, told))


def rank_in_step(ground: Ground, _: float) -> Outcome:
    """SIGKILL of a rank in its forward pass, and of another in its backward pass."""
    faults = {
        "kill:forward:step=3:rank=0": (0, 2),
        "kill:backward:step=7:rank=1": (4, 6),
    }
    return ranks_killed(ground, "rank_in_step", faults)


def rank_in_copy(ground: Ground, _: float) -> Outcome:
    """SIGKILL of a rank while it copies its state for a checkpoint."""
    faults = {
        "kill:checkpoint_copy:step=4:rank=1": (2,),
        "kill:checkpoint_copy:step=8:rank=0": (6,),
    }
    return ranks_killed(ground, "rank_in_copy", faults)


def rank_in_write(ground: Ground, _: float) -> Outcome:
    """SIGKILL of a rank in a checkpoint's write: inside of a file, before the commit, in it, and right after it."""
    faults = {
        "kill:checkpoint_write:step=2:rank=0": (0,),
        "kill:checkpoint_write:step=4:rank=1": (2,),
        "kill:checkpoint_written:step=6:rank=0": (4,),
        # Rank 1 has reported its part, which rank 0 may commit before it sees that rank 1 is gone.
        "kill:checkpoint_written:step=8:rank=1": (6, 8),
        "kill:checkpoint_commit:step=10:rank=0": (8,),
        # Of a run that was complete there is nothing left to train, and all to export.
        "kill:checkpoint_committed:step=12:rank=0": (12,),
    }
    return ranks_killed(ground, "rank_in_write", faults)


def driver_killed(ground: Ground, _: float) -> Outcome:
    """SIGKILL of the whole command, its private Ray with it, while it trains; then the same command."""
    name = "driver_killed"
    call, run = ground.start(name), ground.run(name)
    _wait(call, lambda: run.step() >= 5, "step 5")
    call.kill()
    require(run.step() < STEPS, "the run had ended before it was killed")
    ground.finish(name)
    return Outcome(1, ground.compare(run, [Told("^the driver ended", (2, 4, 6, 8))]))


def job_stopped(ground: Ground, _: float) -> Outcome:
    """`ray job stop` of a submitted training; then the same submit.

    A rank hangs at step 7, since the command that stops the job takes longer to start than all other steps.
    """
    name = "job_stopped"
    run, root = ground.run(name), ("--storage-root", str(ground.folder))
    command = ("python", "-m", "jobs.train_tokenizer", RECIPE, "--name", name, *root)
    fault = '{"env_vars": {"GLOTOK_FAULT": "hang:backward:step=7:rank=1"}}'
    with started_head_node() as node:
        options = ("--no-wait", "--submission-id", "first", "--runtime-env-json", fault)
        begun = node.submit(*command, options=options)
        require(begun.returncode == 0, begun.stderr[-500:])
        wait_until(lambda: run.step() >= 7, "step 7")
        stopped = node.job("stop", "first")
        require(stopped.returncode == 0, stopped.stderr[-500:])
        require("STOPPED" in node.job("status", "first").stdout.upper(), "the job was not stopped")
        again = node.submit(*command)
        require(again.returncode == 0, (again.stdout + again.stderr)[-500:])
    return Outcome(1, ground.compare(run, [Told("^the driver ended", (4, 6))]))


def shards_away(ground: Ground, away_s: float) -> Outcome:
    """All shards away for a while, when their rows are asked for: the run goes on by itself."""
    name = "shards_away"
    call, run = ground.start(name, fault=_held_before(0)), ground.run(name)
    with _stopped_at(call, run, 0) as go_on, _renamed(ground.folder / SHARDS):
        go_on()
        time.sleep(away_s)
        require(call.running, "the run ended while the shards were away")
        require(run.step() == 0, "rows came while the shards were away")
    require(call.wait().code == 0, "the run failed")
    return Outcome(0, ground.compare(run))


def shards_lost(ground: Ground, _: float) -> Outcome:
    """Shards away beyond the limit, then one truncated: each ends the run in one line; then the same command."""
    name = "shards_lost"
    run, shard = ground.run(name), ground.folder / SHARDS / _shard_files(ground)[0]
    ground.finish(name, "--schedule.stop-after-steps", "4")
    call = ground.start(name, *_IMPATIENT, fault=_held_before(4))
    with _stopped_at(call, run, 4) as go_on, _renamed(ground.folder / SHARDS):
        go_on()
        ground.fail(call, 1, rf"{ground.folder / SHARDS}\S*: reading it failed for 0\.1 minutes")
    require(newest_checkpoint(run.checkpoints) == checkpoint_path(run.checkpoints, 4), "step 4")
    shutil.rmtree(run.folder / "faults")
    call, whole = ground.start(name, fault=_held_before(4)), shard.read_bytes()
    with _stopped_at(call, run, 4) as go_on:
        os.truncate(shard, len(whole) // 2)
        go_on()
        try:
            ground.fail(call, 2, rf"{shard}: is damaged")
        finally:
            shard.write_bytes(whole)
    ground.finish(name)
    causes = (rf"{ground.folder / SHARDS}\S*: reading it failed", f"{shard}: is damaged")
    return Outcome(2, ground.compare(run, [Told(cause, (4,)) for cause in causes]))


def disk_full(ground: Ground, _: float) -> Outcome:
    """The disk full while checkpoints are written, for some seconds: the run goes on by itself."""
    name = "disk_full"
    with _small_disk(ground) as disk:
        call, run = ground.start(name, "--output-path", "disk"), ground.run(name, "disk")
        _wait(call, lambda: run.committed(2), "the first checkpoint")
        with _ballast(disk):
            require(call.running, "the run had ended before the disk was full")
            time.sleep(_FULL_FOR_S)
            require(call.running, "the run ended while the disk was full")
        require(call.wait().code == 0, "the run failed")
        waits = [line["checkpoint/write_s"] for line in run.lines() if "checkpoint/write_s" in line]
        require(max(waits) > _FULL_FOR_S / 2, f"no checkpoint waited for the disk: {waits}")
        return Outcome(0, ground.compare(run))


def disk_stays_full(ground: Ground, _: float) -> Outcome:
    """The disk full for longer than the limit: one line, and the older checkpoint intact; then the same command."""
    name = "disk_stays_full"
    with _small_disk(ground) as disk:
        flags = ("--output-path", "disk")
        call, run = ground.start(name, *flags, *_IMPATIENT), ground.run(name, "disk")
        _wait(call, lambda: run.committed(2), "the first checkpoint")
        with _ballast(disk):
            ground.fail(call, 1, rf"{run.folder}\S+: writing it failed for 0\.1 minutes.*No space")
            newest = newest_checkpoint(run.checkpoints)
        require(newest is not None, "no checkpoint is whole")
        ground.finish(name, *flags)
        # Where the disk was too full even for a note of the end, the next start knows of a driver that ended.
        told = Told("No space left|the driver ended", (int(str(newest)[-9:]),))
        return Outcome(1, ground.compare(run, [told]))


def checkpoint_damaged(ground: Ground, _: float) -> Outcome:
    """The newest checkpoint flipped by a byte, truncated, without a file, without a manifest: each start resumes at the
    older one, with a warning that names the file.
    """
    name = "checkpoint_damaged"
    run = ground.run(name)
    ground.finish(name, "--schedule.stop-after-steps", "4")
    damages: list[tuple[Callable[[Path], Any], str]] = [
        (_flip, DISCRIMINATOR_FILE),
        (lambda path: os.truncate(path, path.stat().st_size // 2), DISCRIMINATOR_FILE),
        (Path.unlink, DISCRIMINATOR_FILE),
        (Path.unlink, artefact.MANIFEST),
    ]
    for saved, (damage, file) in zip((4, 6, 8, 10), damages, strict=True):
        newest = checkpoint_path(run.checkpoints, saved)
        damage(newest / file)
        stop = saved + 2 if saved < 10 else 0
        ended = ground.finish(name, "--schedule.stop-after-steps", str(stop))
        warned = f"checkpoint passed over: {newest / file}"
        require(warned in ended.stderr + run.warnings(), f"{warned!r} expected as a warning")
    return Outcome(0, ground.compare(run, resumed=(2, 4, 6, 8)))


def rank_hangs(ground: Ground, _: float) -> Outcome:
    """A rank that hangs, and one that is stopped: named with phase and stack, and the run restarted."""
    name = "rank_hangs"
    limits = ("--scaling.storage-retry-minutes", "0.1", "--scaling.stall-minutes", "0.25")
    # In backward the other rank would wait in the same phase, for this one's gradients, and both would be named.
    fault = "hang:forward:step=3:rank=1,stop:forward:step=7:rank=0"
    ground.finish(name, *_OFTEN, *limits, fault=fault)
    run = ground.run(name)
    hangs = r"^rank 1 on \S+ stalled in phase forward of step 3 for 0\.\d minutes; stack in \S+$"
    stopped = r"^rank 0 on \S+ does not run \(stopped"
    told = [Told(hangs, (2,)), Told(stopped, (4, 6))]
    repeated = ground.compare(run, told)
    stack = Path(run.restarts()[0]["cause"].rsplit(" ", 1)[1])
    require("in _hang" in stack.read_text(), f"{stack} does not show where rank 1 hung")
    return Outcome(len(told), repeated)


def broken_row(ground: Ground, _: float) -> Outcome:
    """A shard written with a broken image: named, counted and replaced where one is allowed, else the run ends."""
    folder = ground.folder / "data" / "broken"
    key = _break_a_row(ground.folder / SHARDS, folder)
    flags = ("--data.train-path", "data/broken")
    ground.finish("row_allowed", *flags, "--data.max-bad-rows", "1")
    run = ground.run("row_allowed")
    ground.compare_keys(run)
    counted = [line["data/bad_rows"] for line in run.lines() if "data/bad_rows" in line]
    require(counted and set(counted) == {1}, f"data/bad_rows = {counted}, 1 expected")
    named = "".join(path.read_text() for path in (run.folder / BAD_ROWS_FOLDER).glob("*.jsonl"))
    require(f"{folder}/" in named and key in named, f"no line names {folder} and {key}")
    require(len({*run.curve()}) == STEPS, "steps are missing")
    pattern = rf"{folder}/\S+\.parquet: row '{re.escape(key)}': its image cannot be decoded"
    ground.fail(ground.start("row_refused", *flags), 2, pattern)
    return Outcome(0, 0)


DRILLS: dict[str, Callable[[Ground, float], Outcome]] = {
    drill.__name__: drill
    for drill in (
        rank_in_step,
        rank_in_copy,
        rank_in_write,
        driver_killed,
        job_stopped,
        shards_away,
        shards_lost,
        disk_full,
        disk_stays_full,
        checkpoint_damaged,
        rank_hangs,
        broken_row,
    )
}


def _wait(call: Call, condition: Callable[[], Any], what: str) -> None:
    wait_until(lambda: condition() or not call.running, what)
    require(condition(), f"the run ended before {what}")


def _held_before(step: int) -> str:
    """Faults that stop both ranks before they ask for the rows of a step."""
    return f"stop:data:step={step}:rank=0,stop:data:step={step}:rank=1"


@contextmanager
def _stopped_at(call: Call, run: Run, step: int) -> Iterator[Callable[[], None]]:
    """Both ranks stopped by `_held_before`; the function that is given lets them go on."""
    markers = [run.folder / "faults" / f"stop-data-{step}-{rank}" for rank in (0, 1)]

    def stopped() -> list[psutil.Process]:
        if not all(marker.exists() for marker in markers):
            return []
        ranks = [psutil.Process(beat.pid) for beat in run.beats()]
        return ranks if all(rank.status() == psutil.STATUS_STOPPED for rank in ranks) else []

    _wait(call, stopped, f"both ranks at step {step}")
    ranks = stopped()

    def go_on() -> None:
        for rank in ranks:
            rank.send_signal(signal.SIGCONT)

    yield go_on


@contextmanager
def _renamed(folder: Path) -> Iterator[None]:
    away = folder.with_name(f"{folder.name}.away")
    folder.rename(away)
    try:
        yield
    finally:
        away.rename(folder)


def _shard_files(ground: Ground) -> list[str]:
    facts = artefact.read_json(ground.folder / SHARDS / DATASET)
    return [shard["file"] for shard in facts["shards"]]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@contextmanager
def _small_disk(ground: Ground) -> Iterator[Path]:
    """A small file system as the folder "disk" of the ground, seen by this process and its children alone."""
    folder = ground.folder / "disk"
    folder.mkdir(exist_ok=True)
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        reason = os.strerror(ctypes.get_errno())
        raise DrillSkipped(f"this user may not have mounts of its own ({reason})")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(folder)]
    for command in (["mount", "--make-rprivate", "/"], mount):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DrillSkipped(f"this user may not mount a tmpfs ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def _ballast(disk: Path) -> Iterator[None]:
    """A file that takes all room, also what others free meanwhile, as long as the block lasts."""
    path, ended = disk / "ballast", threading.Event()

    def fill() -> None:
        with path.open("wb") as stream:
            while not ended.wait(0.01):
                with contextlib.suppress(OSError):
                    free = os.statvfs(disk)
                    os.posix_fallocate(stream.fileno(), stream.tell(), free.f_bavail * free.f_bsize)
                    stream.seek(0, os.SEEK_END)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        path.unlink()


def _break_a_row(whole: Path, folder: Path) -> str:
    """A copy of a folder of shards in which the image of one row is no image; returns the row's key."""
    shutil.copytree(whole, folder)
    facts = artefact.read_json(folder / DATASET)
    manifest = artefact.read_json(folder / artefact.MANIFEST)
    first = facts["shards"][0]
    rows = list(read_rows(folder / first["file"]))
    rows[3] = rows[3]._replace(image=b"no image")
    first["sha256"] = write_shard(folder / first["file"], rows).sha256
    artefact.write_json(folder / DATASET, facts)
    (folder / artefact.MANIFEST).unlink()
    artefact.write_manifest(folder, manifest["kind"], manifest["fingerprint"])
    return rows[3].key
