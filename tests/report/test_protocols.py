"""Numbers of different protocols are not compared, and the reason names both."""

import pytest

from glotok_ray.report.measured import guidance_text, sampler_text
from glotok_ray.report.protocols import Protocol, comparable, not_stated

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


@pytest.mark.parametrize(
    ("field", "part"),
    [
        ("guidance", "guidance"),
        ("sampler", "sampler"),
        ("class_sampling", "classes of samples"),
        ("order", "order of images"),
    ],
)
def test_how_samples_were_drawn_counts_where_both_say_it(field: str, part: str) -> None:
    one, other = (OURS._replace(**{field: text}) for text in ("this", "that"))
    assert comparable(one, other) == f"FID, {part}: this against that"
    assert comparable(one, one) == ""
    assert not_stated(one, one) == []
    # What a published number does not say is named, and hinders nothing.
    assert comparable(one, OURS) == comparable(OURS, one) == ""
    assert not_stated(one, OURS) == not_stated(OURS, one) == [part]


def test_facts_of_samples_become_a_few_words() -> None:
    flow = {"guidance": 2.7, "guidance_schedule": "linear", "guidance_interval": [0.0, 1.0]}
    flow |= {"solver": "euler_maruyama", "steps": 50, "last_steps": 10}
    assert guidance_text(flow) == "2.7, linear"
    assert sampler_text(flow) == "euler_maruyama, 50 steps to 10"
    token = {"guidance": 2.0, "guidance_interval": [0.1, 1.0], "temperature": 1.1, "top_k": 100}
    assert guidance_text(token) == "2, from 0.1 to 1"
    assert sampler_text({**token, "top_p": 1.0}) == "temperature 1.1, top-k 100"
    assert guidance_text({}) == sampler_text({}) == ""
