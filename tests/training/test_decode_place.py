"""Where rows are decoded, by the CPUs that are there."""

import pytest

from glotok_ray.config import ScalingConfig
from glotok_ray.training.decode_place import decode_place, decode_threads, described

NODE = ScalingConfig(num_workers=8, cpus_per_worker=8)


@pytest.mark.parametrize(
    ("cluster_cpus", "place"), [(64, "trainer"), (119, "trainer"), (120, "ingest"), (256, "ingest")]
)
def test_cpus_of_gpu_workers_are_not_idle_while_ingest_has_fewer(cluster_cpus, place) -> None:
    assert decode_place(NODE, cluster_cpus, has_images=True) == place


@pytest.mark.parametrize(("cluster_cpus", "place"), [(2, "trainer"), (3, "ingest")])
def test_workers_that_train_on_cpus_have_none_to_spare(cluster_cpus, place) -> None:
    scaling = ScalingConfig(num_workers=2, cpus_per_worker=1, use_gpu=False)
    assert decode_place(scaling, cluster_cpus, has_images=True) == place


def test_codes_are_read_where_they_are_used_unless_another_place_is_named() -> None:
    for scaling in (NODE, ScalingConfig(num_workers=2, cpus_per_worker=1, use_gpu=False)):
        assert decode_place(scaling, 1000, has_images=False) == "trainer"
    named = ScalingConfig(decode_on="ingest")
    assert decode_place(named, 1000, has_images=False) == "ingest"


@pytest.mark.parametrize("place", ["ingest", "trainer"])
def test_a_place_that_is_named_is_taken(place) -> None:
    scaling = ScalingConfig(num_workers=8, cpus_per_worker=8, decode_on=place)
    for cluster_cpus in (64, 1000):
        assert decode_place(scaling, cluster_cpus, has_images=True) == place


@pytest.mark.parametrize(
    ("threads", "cpus", "expected"), [(0, 8, 7), (0, 1, 1), (0, 0.5, 1), (3, 8, 3)]
)
def test_threads_are_the_worker_s_cpus_less_one(threads, cpus, expected) -> None:
    assert decode_threads(ScalingConfig(cpus_per_worker=cpus, decode_threads=threads)) == expected


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scaling\.decode_threads = -1: must not be negative"):
        ScalingConfig(decode_threads=-1)


def test_the_log_says_where_and_why() -> None:
    assert described(NODE, "trainer", 64, has_images=True) == (
        "rows are decoded by 7 threads of each worker (the workers hold 64 of 64 CPUs)"
    )
    assert described(NODE, "ingest", 128, has_images=True) == (
        "rows are decoded by tasks of Ray Data (the workers hold 64 of 128 CPUs)"
    )
    assert described(NODE, "trainer", 128, has_images=False) == (
        "codes are read by a thread of each worker (the workers hold 64 of 128 CPUs)"
    )
