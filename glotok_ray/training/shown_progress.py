"""The line of progress of a training, out of the newest lines of its metrics.jsonl.

Read next: glotok_ray/progress.py
"""

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

from glotok_ray.progress import ProgressLine
from glotok_ray.training.metrics_file import latest_metrics
from glotok_ray.training.plan import RunPlan

# What a narrow terminal cuts off first comes last.
_SHOWN = (
    ("train/total", "loss {:.4g}"),
    ("train/flow_matching", "loss {:.4g}"),
    ("train/cross_entropy", "loss {:.4g}"),
    ("time/mfu", "MFU {:.0%}"),
    ("memory/peak_gib", "{:.3g} GiB"),
    ("run/restarts", "restarts {:.0f}"),
    ("time/step_median_s", "step {:.3g} s"),
    ("time/data_share", "data {:.0%}"),
    ("train/gradient_norm", "gradient {:.3g}"),
    ("data/bad_rows", "bad rows {:.0f}"),
    ("data/cache_hit_share", "cache {:.0%}"),
    ("data/spilled_gib", "spilled {:.3g} GiB"),
    ("data/store_peak_gib", "store {:.2g} GiB"),
    ("time/first_batch_s", "first batch {:.3g} s"),
    ("eval/psnr", "PSNR {:.4g}"),
    ("eval/relation_kl", "relation KL {:.4g}"),
)


class ShownProgress:
    """Shows the newest metrics of a run while it trains; who trains writes them, this reads the file once a second."""

    def __init__(self, name: str, plan: RunPlan) -> None:
        self._folder, batch = plan.folder, plan.schedule.global_batch_size
        self._line = ProgressLine(name, plan.last_step, "steps", images_per_unit=batch)
        self._stopped = threading.Event()
        self._shown: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._show()
        self._line.end()

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            self._show()

    def _show(self) -> None:
        # An object that is written again while it is read gives an error, and so does a store that is away: neither
        # ends a training, and the next look may find it.
        metrics: dict[str, Any] = {}
        with contextlib.suppress(OSError):
            metrics = latest_metrics(self._folder)
        if metrics and metrics != self._shown:
            self._shown = metrics
            self._line.update(int(metrics["step"]), describe_metrics(metrics))


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """The main ones of those that are there, in one line."""
    found = [text.format(metrics[name]) for name, text in _SHOWN if metrics.get(name) is not None]
    return "  ".join(found)
