"""Marks choose tests: what uses a cluster is `ray`, and GPU tests stay out unless `-m` speaks of them."""

import pytest

RAY_FIXTURES = {"ray_cluster", "head_node", "finished"}


def test_what_uses_a_cluster_is_marked(request: pytest.FixtureRequest) -> None:
    unmarked = [
        item.nodeid
        for item in request.session.items
        if RAY_FIXTURES & set(getattr(item, "fixturenames", ()))
        and not item.get_closest_marker("ray")
    ]
    assert not unmarked


def test_gpu_tests_are_there_when_they_are_asked_for(request: pytest.FixtureRequest) -> None:
    chosen = [item.nodeid for item in request.session.items if item.get_closest_marker("gpu")]
    assert not chosen or "gpu" in request.config.option.markexpr
