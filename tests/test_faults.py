"""Faults at the boundaries of a driver's work."""

import pytest

from glotok_ray import faults


def test_a_boundary_fails_at_its_number_alone_and_each_time(monkeypatch):
    faults.boundary("unit", 2)
    monkeypatch.setenv(faults.VARIABLE, "full:unit:step=2,full:manifest:step=0")
    for point, number in (("unit", 0), ("unit", 1), ("unit", 3), ("manifest", 2), ("finished", 0)):
        faults.boundary(point, number)
    for point, number in (("unit", 2), ("unit", 2), ("manifest", 0)):
        with pytest.raises(OSError, match="No space left on device"):
            faults.boundary(point, number)


def test_a_fault_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, "burn:unit:step=2")
    with pytest.raises(ValueError, match=r"KIND is one of kill, stop, hang, hold, full"):
        faults.boundary("unit", 2)
