"""Figures of the data: from whoever has some, as they are when a line is written."""

from glotok_ray.training.data_facts import DataFacts


def test_all_sources_are_asked_at_every_line() -> None:
    facts, hits = DataFacts(), {"cache_hits": 0}
    assert facts.take() == {}
    facts.add(lambda: hits)
    facts.add(lambda: {"store_peak_gib": 0.5})
    hits["cache_hits"] = 7
    assert facts.take() == {"data/cache_hits": 7, "data/store_peak_gib": 0.5}
