"""A run's status in lines of text, and what about it a person should look at.

Read next: glotok_ray/training/run_status.py
"""

import collections
import json
import time
from collections.abc import Iterator

from glotok_ray.progress import duration, per_second
from glotok_ray.storage import artefact
from glotok_ray.training.metrics_file import EVENT, METRICS_FILE, metric_lines
from glotok_ray.training.plan import LOG_FOLDER
from glotok_ray.training.run_status import Status
from glotok_ray.training.shown_progress import describe_metrics
from glotok_ray.training.stalls import STALL_FILE, STALL_FOLDER

# Well under it when reading keeps up (docs/full_size_runs.md).
_MOST_DATA_SHARE = 0.05
_RECENT_S = 86_400
# Named in one line; a run of 64 GPUs has 8.
_MOST_HOSTS = 8


def describe_status(status: Status, *, now: float | None = None) -> list[str]:
    """One line for the run, and one per problem below it."""
    parts = [status.state]
    if status.total_steps:
        share = status.step / status.total_steps
        parts.append(f"step {status.step:,} of {status.total_steps:,} ({share:.1%})")
    elif status.step:
        parts.append(f"step {status.step:,}")
    if status.epoch is not None:
        parts.append(f"epoch {status.epoch:.2f}")
    if status.phase:
        parts.append(f"in {status.phase}")
    if status.state == "running" and status.metrics.get("time/images_per_s"):
        parts.append(per_second(status.metrics["time/images_per_s"], "images"))
    if status.seconds_left is not None:
        parts.append(f"ETA {duration(status.seconds_left)}")
    if status.saved is not None:
        ago = f", {duration(status.saved.age_s)} ago" if status.state != "finished" else ""
        parts.append(f"last checkpoint step {status.saved.step:,}{ago}")
    if status.restarts:
        parts.append(f"{status.restarts} restart{'s' if status.restarts > 1 else ''}")
    # Restarts are told above, those too that no line of metrics has met yet.
    facts = describe_metrics({**status.metrics, "run/restarts": None})
    lines = [f"{status.folder}: {', '.join(parts)}{f'  {facts}' if facts else ''}"]
    if status.owner:
        lines.append(f"  by {status.owner}{_workers(status)}")
    return lines + [f"  problem: {problem}" for problem in problems(status, now=now)]


def _workers(status: Status) -> str:
    """How many workers the present attempt has, and on which machines."""
    if not status.beats:
        return ""
    hosts = collections.Counter(beat.host for _, beat in sorted(status.beats.items()))
    shown = ", ".join(f"{host} ({count})" for host, count in hosts.most_common(_MOST_HOSTS))
    rest = f" and {len(hosts) - _MOST_HOSTS} more" if len(hosts) > _MOST_HOSTS else ""
    count = len(status.beats)
    return f"; {count} worker{'s' if count > 1 else ''} on {shown}{rest}"


def problems(status: Status, *, now: float | None = None) -> Iterator[str]:
    """What a person should look at, a line each."""
    now = time.time() if now is None else now
    log = status.folder / artefact.LOG_FILE
    if status.state == "failed":
        yield f"it ended: {status.attempt.get('cause') or 'no cause was noted'}; log: {log}"
    if status.state == "stopped":
        yield "nobody works on it; the same command goes on"
    if status.state == "silent":
        assert status.beat_age_s is not None
        yield f"no worker has given a sign for {duration(status.beat_age_s)}; logs: {status.folder / LOG_FOLDER}"
    if status.state == "finished":
        return
    yield from _without_checkpoint(status)
    if status.metrics.get("time/data_share", 0) > _MOST_DATA_SHARE:
        yield (
            f"steps wait for their images {status.metrics['time/data_share']:.0%} of the time; give the cluster CPUs"
        )
    if status.metrics.get("data/bad_rows"):
        yield f"{status.metrics['data/bad_rows']:g} images were broken and replaced; see bad_rows/"
    for path in sorted(status.folder.glob(f"{STALL_FOLDER}/*/{STALL_FILE}")):
        if now - path.stat().st_mtime < _RECENT_S:
            yield f"workers stalled; see {path.parent}"
    yield from _recent_restarts(status, now)


def _without_checkpoint(status: Status) -> Iterator[str]:
    config = status.folder / "config.json"
    if status.state not in ("running", "silent") or not config.is_file():
        return
    try:
        minutes = json.loads(config.read_text())["schedule"]["checkpoint_every_minutes"]
    except (ValueError, LookupError, TypeError):
        return
    if minutes and status.saved is not None and status.saved.age_s > 60 * (2 * minutes + 5):
        yield (
            f"the last checkpoint is {duration(status.saved.age_s)} old, and one is due every {minutes:g} minutes"
        )


def _recent_restarts(status: Status, now: float) -> Iterator[str]:
    for line in metric_lines(status.folder / METRICS_FILE):
        if line.get(EVENT) == "restart" and now - line.get("unix_s", 0) < _RECENT_S:
            yield (
                f"restarted {duration(now - line['unix_s'])} ago, from step {line['lost_step']} to"
                f" {line['resumed_step']}: {line['cause']}"
            )
