"""A worker's gauges, which Ray exports to Prometheus from the worker's node.

Read next: glotok_ray/on_ray/watched_metrics.py
"""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from glotok_ray.on_ray.watched_metrics import RANK_TAG, RUN_TAG, WATCHED


class WorkerGauges:
    """The newest values of one rank of a run; setting them waits for nobody."""

    def __init__(self, run: str, rank: int) -> None:
        self._gauges = []
        for metric in WATCHED:
            if rank and not metric.of_each_rank:
                continue
            tags = {RUN_TAG: run} | ({RANK_TAG: str(rank)} if metric.of_each_rank else {})
            gauge = Gauge(metric.name, metric.description, tag_keys=tuple(tags))
            gauge.set_default_tags(tags)
            self._gauges.append((metric, gauge))

    def set(self, values: Mapping[str, Any]) -> None:
        """Take from a line of metrics what is watched; the others keep their values."""
        for metric, gauge in self._gauges:
            for name in metric.logged:
                if values.get(name) is not None:
                    gauge.set(values[name])
