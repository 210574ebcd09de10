"""Where the rows of a training are read and decoded, and by how many threads: pure functions of CPUs. Needs no torch.

Read next: glotok_ray/training/trainer_feed.py
"""

from typing import Literal

from glotok_ray.config.training import ScalingConfig

DecodePlace = Literal["ingest", "trainer"]


def decode_place(scaling: ScalingConfig, cluster_cpus: float, *, has_images: bool) -> DecodePlace:
    """Where `scaling.decode_on` has rows decoded, on a cluster of so many CPUs.

    "auto" takes the trainer where the CPUs that no worker holds are fewer than those that the workers hold beyond one
    each, which would be idle beside a GPU; workers that train on their CPUs have none to spare. Where no CPU is free at
    all, it is the trainer too, and for rows of codes (not `has_images`): there is nothing to decode, a thread of the
    worker reads them in less time than it would take to hand them over, and Ray Data's processes need not start.
    """
    if scaling.decode_on != "auto":
        return scaling.decode_on
    if not has_images:
        return "trainer"
    free = cluster_cpus - scaling.num_workers * scaling.cpus_per_worker
    return "trainer" if free < max(1.0, _spare_cpus(scaling)) else "ingest"


def _spare_cpus(scaling: ScalingConfig) -> float:
    """CPUs that all workers together hold and do not compute on."""
    if not scaling.use_gpu:
        return 0.0
    return scaling.num_workers * max(0.0, scaling.cpus_per_worker - 1)


def decode_threads(scaling: ScalingConfig) -> int:
    """Threads that decode in each worker."""
    return scaling.decode_threads or max(1, int(scaling.cpus_per_worker) - 1)


def described(
    scaling: ScalingConfig, place: DecodePlace, cluster_cpus: float, *, has_images: bool
) -> str:
    """The place, in words for the log."""
    held = scaling.num_workers * scaling.cpus_per_worker
    facts = f"the workers hold {held:g} of {cluster_cpus:g} CPUs"
    if not has_images:
        reader = "a thread of each worker" if place == "trainer" else "tasks of Ray Data"
        return f"codes are read by {reader} ({facts})"
    if place == "trainer":
        threads = decode_threads(scaling)
        return f"rows are decoded by {threads} thread{'s' * (threads > 1)} of each worker ({facts})"
    return f"rows are decoded by tasks of Ray Data ({facts})"
