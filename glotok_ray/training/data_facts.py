"""What is told of a run's data beside its rows: figures under data/ of the log, from whoever has some.

A cache of shards adds its hits here, Ray's object store its peak. Read next: glotok_ray/training/metrics_log.py
"""

from collections.abc import Callable, Mapping

Source = Callable[[], Mapping[str, float]]
"""Figures by name, as they are now; called by the training's thread, so it must not wait for anything."""


class DataFacts:
    """The sources of one worker's figures; rank 0's are logged."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Log what `source` tells with every line from now on."""
        self._sources.append(source)

    def take(self) -> dict[str, float]:
        """All figures, by their names in the log."""
        return {
            f"data/{name}": value for source in self._sources for name, value in source().items()
        }
