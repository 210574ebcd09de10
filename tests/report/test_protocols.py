"""Numbers of different protocols are not compared, and the reason names both."""

import pytest

from glotok_ray.report.protocols import Protocol, comparable

OURS = Protocol("FID", "Inception", 50000, "the same crops", "ADM", "measured", "as it says")


def test_equal_protocols_are_comparable_however_they_are_worded() -> None:
    assert comparable(OURS, OURS._replace(known="inferred", sentence="in other words")) == ""


def test_the_reason_names_both_measures_and_counts() -> None:
    small = OURS._replace(measure="FD-EffNet", num_images=600)
    assert comparable(small, OURS) == "FD-EffNet of 600 images against FID of 50,000 images"
    few = OURS._replace(num_images=10000)
    assert comparable(few, OURS) == "FID of 10,000 images against FID of 50,000 images"


@pytest.mark.parametrize("field", ["network", "reference", "crop", "data"])
def test_a_part_that_differs_is_named(field: str) -> None:
    reason = comparable(OURS, OURS._replace(**{field: "another"}))
    assert reason.startswith("FID, ")
    assert reason.endswith(f": {getattr(OURS, field)} against another")


def test_a_protocol_that_is_not_known_is_comparable_with_none() -> None:
    assert "not known" in comparable(OURS, OURS._replace(known="unknown"))


def test_sizes_are_no_measurements() -> None:
    size = Protocol("parameters", "", None, "", "", "read", "counted")
    assert comparable(size, size._replace(known="measured")) == ""
    assert comparable(size, OURS) == "parameters against FID of 50,000 images"
