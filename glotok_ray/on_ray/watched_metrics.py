"""What a training tells Prometheus, through Ray: one list, of which the gauges and Grafana's dashboard are made.

Imports nothing, so that files can be written without Ray. Read next: glotok_ray/on_ray/gauges.py
"""

from typing import NamedTuple

RAY_PREFIX = "ray_"
"""Ray puts it before every name that it exports."""
RUN_TAG, RANK_TAG = "run", "rank"


class WatchedMetric(NamedTuple):
    """A gauge, and the panel that shows it."""

    name: str
    """As the code gives it to Ray, with the unit as Prometheus' naming asks."""
    description: str
    logged: tuple[str, ...]
    """Names in the lines of metrics.jsonl, of which a run has one."""
    unit: str
    """Grafana's name of the unit; empty for a plain number."""
    of_each_rank: bool = False
    """Every rank has its own; else rank 0 tells it for all."""

    @property
    def exported(self) -> str:
        """The name in Prometheus."""
        return RAY_PREFIX + self.name


WATCHED = (
    WatchedMetric(
        "glotok_images_per_second",
        "Training images per second, over all workers",
        ("time/images_per_s",),
        "",
    ),
    WatchedMetric(
        "glotok_step_seconds",
        "Median time of an optimizer step since the line before",
        ("time/step_median_s",),
        "s",
        of_each_rank=True,
    ),
    WatchedMetric(
        "glotok_data_wait_ratio",
        "Share of the time in which a step waits for its images",
        ("time/data_share",),
        "percentunit",
        of_each_rank=True,
    ),
    WatchedMetric(
        "glotok_mfu_ratio",
        "Model FLOPs utilization, where the device's peak is known",
        ("time/mfu",),
        "percentunit",
    ),
    WatchedMetric(
        "glotok_loss",
        "Training loss, averaged since the line before",
        ("train/total", "train/flow_matching", "train/cross_entropy"),
        "",
    ),
    WatchedMetric(
        "glotok_gradient_norm",
        "Norm of the gradient before clipping",
        ("train/gradient_norm",),
        "",
    ),
    WatchedMetric(
        "glotok_memory_peak_gibibytes",
        "Most memory that a worker has held: of its device, or resident without one",
        ("memory/peak_gib",),
        "gbytes",
        of_each_rank=True,
    ),
    WatchedMetric("glotok_restarts", "Restarts of the training so far", ("run/restarts",), "short"),
    WatchedMetric("glotok_step", "Optimizer steps done", ("step",), "short"),
)
