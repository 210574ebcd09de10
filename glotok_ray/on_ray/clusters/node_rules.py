"""Rules for the groups of a `ray up` file: counts, the head, machines, disks, and room for a recipe's workers.

Each rule yields a sentence per problem, with its remedy. Read next: glotok_ray/on_ray/preflight.py
"""

import difflib
from collections.abc import Iterator
from typing import Any

from glotok_ray.config.training import ScalingConfig
from glotok_ray.on_ray.clusters import nodes
from glotok_ray.on_ray.clusters.machines import MACHINES, unknown_machine

_SHORTEST_IDLE_MINUTES = 10
# Image (about 15 GB unpacked), Ray's spilled objects and logs.
_SMALLEST_DISK_GB = 100
# Ray's servers and a dozen drivers of 2 GiB.
_HEAD_MEMORY_GIB = 32
# Eight A100 take 480 to 720 images per second, and a core decodes and crops 140 to 300 (docs/full_size_runs.md).
_INGEST_CPUS_PER_GPU = 0.5


def node_types(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All groups by name, the head too."""
    yield from config.get("available_node_types", {}).items()


def counts(config: dict[str, Any]) -> Iterator[str]:
    """Smallest and largest numbers of nodes."""
    limit = config.get("max_workers", 2)
    for name, group in node_types(config):
        least, most = group.get("min_workers", 0), group.get("max_workers", limit)
        where = f"available_node_types.{name}"
        if least < 0 or most < 0:
            yield f"{where}: min_workers = {least}, max_workers = {most}: must not be negative"
        elif least > most and name != config["head_node_type"]:
            yield f"{where}.min_workers = {least}: exceeds max_workers = {most}; such a group never settles"
        if most > limit:
            yield (
                f"{where}.max_workers = {most}: exceeds the cluster's max_workers = {limit},"
                " which wins; raise that one"
            )


def head(config: dict[str, Any]) -> Iterator[str]:
    """The head lives as long as the cluster, and runs no tasks."""
    name = config["head_node_type"]
    group = config["available_node_types"][name]
    where = f"available_node_types.{name}"
    if nodes.is_spot(group["node_config"]):
        yield f"{where}: the head is a spot instance; losing it ends every job; take it on demand"
    if group["resources"].get("CPU") != 0:
        yield (
            f"{where}.resources.CPU = {group['resources'].get('CPU')!r}: set 0,"
            " so that no task starves the head"
        )
    kind = config["provider"]["type"]
    instance = nodes.instance_of(kind, group["node_config"])[1] if kind in MACHINES else ""
    machine = MACHINES.get(kind, {}).get(instance)
    if machine is None:
        return
    if machine.memory_gib < _HEAD_MEMORY_GIB:
        yield (
            f"{where}: {instance} has {machine.memory_gib} GiB; Ray's servers and the drivers of jobs need"
            f" {_HEAD_MEMORY_GIB}; take a larger machine"
        )
    if machine.gpus:
        yield f"{where}: {instance} has GPUs, which the head does not use; take a machine without"


def machines(config: dict[str, Any]) -> Iterator[str]:
    """Types that the table knows, and resources that they have."""
    kind = config["provider"]["type"]
    if kind not in MACHINES:
        return
    for name, group in node_types(config):
        where = f"available_node_types.{name}"
        field, instance = nodes.instance_of(kind, group["node_config"])
        machine = MACHINES[kind].get(instance)
        if machine is None:
            yield f"{where}.node_config.{field} = {instance!r}: {unknown_machine(kind, instance)}"
            continue
        resources = group["resources"]
        # The head may hide its GPUs; that it has some is told by another rule.
        if name != config["head_node_type"] and resources.get("GPU", 0) != machine.gpus:
            yield (
                f"{where}.resources.GPU = {resources.get('GPU', 0)}: {instance} has {machine.gpus};"
                " write that, or take another machine"
            )
        if resources.get("CPU", 0) > machine.cpus:
            yield (
                f"{where}.resources.CPU = {resources['CPU']}: {instance} has {machine.cpus}; write that at most"
            )


def node_keys(config: dict[str, Any]) -> Iterator[str]:
    """Keys that the cloud would refuse, or ignore, when a node is launched."""
    kind = config["provider"]["type"]
    if kind not in MACHINES:
        return
    for name, group in node_types(config):
        for key, known in nodes.unknown_keys(kind, group["node_config"]):
            near = difflib.get_close_matches(key.rpartition(".")[2], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(known))}"
            yield f"available_node_types.{name}.node_config.{key}: {kind} reads no such key; {hint}"


def disks(config: dict[str, Any]) -> Iterator[str]:
    """Room for the image and for what Ray spills."""
    kind = config["provider"]["type"]
    if kind not in MACHINES:
        return
    for name, group in node_types(config):
        size = nodes.disk_gb(kind, group["node_config"])
        if size < _SMALLEST_DISK_GB:
            said = f"{size:g} GB" if size else "the cloud's default, a few GB"
            yield (
                f"available_node_types.{name}.node_config: its disk has {said}; the image and what Ray spills need"
                f" {_SMALLEST_DISK_GB} GB"
            )


def idle(config: dict[str, Any]) -> Iterator[str]:
    """Nodes must outlive their own start."""
    minutes = config.get("idle_timeout_minutes", 5)
    if minutes < _SHORTEST_IDLE_MINUTES:
        yield (
            f"idle_timeout_minutes = {minutes}: shorter than a node takes to start ({_SHORTEST_IDLE_MINUTES}"
            " minutes or so); nodes would come and go without working"
        )
    for name, group in node_types(config):
        seconds = group.get("idle_timeout_s")
        if seconds is not None and seconds < 60 * _SHORTEST_IDLE_MINUTES:
            yield (
                f"available_node_types.{name}.idle_timeout_s = {seconds}: shorter than a node takes to start; give"
                f" {60 * _SHORTEST_IDLE_MINUTES} or more"
            )


def room(config: dict[str, Any], scaling: ScalingConfig) -> Iterator[str]:
    """The groups at their largest hold all workers, and CPUs for the tasks that feed them."""
    places, spare = 0, 0.0
    for name, group in node_types(config):
        if name == config["head_node_type"]:
            continue
        most = group.get("max_workers", config.get("max_workers", 2))
        held = most * _workers_on(group["resources"], scaling)
        places += held
        spare += most * group["resources"].get("CPU", 0) - held * scaling.cpus_per_worker
    if places < scaling.num_workers:
        need = f"{'1 GPU and ' if scaling.use_gpu else ''}{scaling.cpus_per_worker:g} CPUs"
        yield (
            f"available_node_types: at their largest the groups hold {places} of the {scaling.num_workers} workers"
            f" ({need} each) that the recipe asks for; raise max_workers or the node's size"
        )
    elif scaling.use_gpu and spare < _INGEST_CPUS_PER_GPU * scaling.num_workers:
        yield (
            f"available_node_types: with workers on all GPUs {spare:g} CPUs are left, and decoding for"
            f" {scaling.num_workers} workers takes {_INGEST_CPUS_PER_GPU * scaling.num_workers:g}; add a CPU group,"
            " or nodes with more CPUs"
        )


def _workers_on(resources: dict[str, int], scaling: ScalingConfig) -> int:
    by_cpu = int(resources.get("CPU", 0) // scaling.cpus_per_worker)
    return min(by_cpu, resources.get("GPU", 0)) if scaling.use_gpu else by_cpu
