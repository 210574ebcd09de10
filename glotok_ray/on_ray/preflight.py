"""Checks before money or hours are spent: a cluster file for `ray up`, and the State API that sweeps lean on.

Ray's own validation accepts files that can never work (a group whose minimum exceeds its maximum, a spot head);
those rules are added here. No cloud library and no network are needed. Read next: cluster/aws.yaml
"""

import contextlib
import copy
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.util.state import list_nodes

from glotok_ray.config.training import ScalingConfig

# Read by Ray 2.60's AWS provider, the updater and the autoscaler; its schema lets any other key pass unread.
_SHARED_KEYS = {
    "type",
    "use_internal_ips",
    "use_external_head_ip",
    "disable_node_updaters",
    "disable_launch_config_check",
    "foreground_node_launch",
    "worker_liveness_check",
}
_PROVIDER_KEYS = {
    "aws": {
        "region",
        "availability_zone",
        "cache_stopped_nodes",
        "security_group",
        "key_pair",
        "aws_credentials",
        "cloudwatch",
    },
    "gcp": {"region", "availability_zone", "project_id", "gcp_credentials", "cache_stopped_nodes"},
    "azure": {
        "location",
        "resource_group",
        "tags",
        "subscription_id",
        "subnet_id",
        "msi_identity_id",
        "msi_identity_principal_id",
        "cache_stopped_nodes",
        "availability_zone",
    },
}
_SHORTEST_IDLE_MINUTES = 10


def validate_cluster(path: Path, scaling: ScalingConfig | None = None) -> list[str]:
    """Problems of a `ray up` file, one sentence each with its remedy; an empty list means none was found.

    `scaling` is a recipe's request; with it, the groups at their largest must be able to hold all of its workers.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror}); correct the path"]
    except yaml.YAMLError as error:
        return [f"{path}: is not YAML ({' '.join(str(error).split())})"]
    if not isinstance(config, dict):
        return [f"{path}: holds no mapping of settings; start from cluster/aws.yaml"]
    refusal = _refused_by_ray(config)
    if refusal:
        return [f"{path}: {refusal}"]
    checks = (_groups, _provider, _head, _images, _access, _idle)
    problems = [problem for check in checks for problem in check(config)]
    if scaling is not None:
        problems += _placement(config, scaling)
    return [f"{path}: {problem}" for problem in problems]


def check_state_api() -> None:
    """Raise RuntimeError unless the connected cluster answers the State API.

    A trial that is stopped, or whose process dies, leaves its placement group to a cleaner that asks this API whether
    the trial still lives; without an answer the group stays reserved and the next trial waits for ever.
    """
    try:
        # By its address: without one, Ray refuses to choose among several clusters of a machine.
        nodes = list_nodes(address=ray.get_runtime_context().gcs_address, limit=1, timeout=10)
        if not {node.node_id for node in nodes} <= {node["NodeID"] for node in ray.nodes()}:
            raise LookupError("another cluster answers at its address")
    except Exception as error:  # Ray raises several unrelated types here, requests' own among them.
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RuntimeError(
            f"the cluster's State API does not answer ({said}); a trial that dies would keep its workers' resources: "
            "start Ray with its dashboard (ray start --head --include-dashboard=true)"
        ) from error


def _refused_by_ray(config: dict[str, Any]) -> str:
    """Ray's own verdict on the file with its defaults filled in; empty when it accepts."""
    try:
        # Ray prints its remarks (single files as mounts) to stdout, which belongs to the job's result.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            validate_config(prepare_config(copy.deepcopy(config)))
    except jsonschema.ValidationError as error:
        place = ".".join(str(part) for part in error.absolute_path) or "the top level"
        return f"{place}: {error.message} (Ray's schema)"
    except Exception as error:  # Ray's checks raise ValueError, RuntimeError, NotImplementedError and AssertionError.
        return f"Ray refuses it: {error}"
    return ""


def _groups(config: dict[str, Any]) -> Iterator[str]:
    limit = config.get("max_workers", 2)
    for name, group in _node_types(config):
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


def _provider(config: dict[str, Any]) -> Iterator[str]:
    kind = config["provider"]["type"]
    if kind not in _PROVIDER_KEYS:
        return
    known = _SHARED_KEYS | _PROVIDER_KEYS[kind]
    for key in sorted(set(config["provider"]) - known):
        yield f"provider.{key}: Ray reads no such key of {kind}; it knows {', '.join(sorted(known))}"


def _head(config: dict[str, Any]) -> Iterator[str]:
    name = config["head_node_type"]
    head = config["available_node_types"][name]
    if _is_spot(head["node_config"]):
        yield (
            f"available_node_types.{name}: the head is a spot instance; losing it ends every job;"
            " take it on demand"
        )
    if head["resources"].get("CPU") != 0:
        yield (
            f"available_node_types.{name}.resources.CPU = {head['resources'].get('CPU')!r}: set 0,"
            " so that no task starves the head"
        )


def _images(config: dict[str, Any]) -> Iterator[str]:
    images = {
        f"docker.{key}": value
        for key, value in config.get("docker", {}).items()
        if key in ("image", "head_image", "worker_image")
    }
    for name, group in _node_types(config):
        if "worker_image" in group.get("docker", {}):
            images[f"available_node_types.{name}.docker.worker_image"] = group["docker"][
                "worker_image"
            ]
    if not images:
        yield f"docker.image: is not set; name an image of Ray {ray.__version__}, or nodes may run another version"
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    for place, image in images.items():
        release = re.search(r":(\d+\.\d+\.\d+)(?![\d.])", image)
        if release is None or release.group(1) != ray.__version__:
            yield (
                f"{place} = {image}: its tag must start with the installed Ray version, {ray.__version__};"
                " a client and nodes of different versions refuse each other"
            )
        tagged = re.search(r"-(py\d+)\b", image)
        if tagged is not None and tagged.group(1) != python:
            yield f"{place} = {image}: has another Python than this machine ({python}); drivers and clients must agree"


def _access(config: dict[str, Any]) -> Iterator[str]:
    """Anyone who reaches an open job server runs code on the cluster: token on every node, dashboard on loopback."""
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        command = " ".join(config.get(key, []))
        if "ray start" not in command or "RAY_AUTH_MODE=token" not in command:
            yield f"{key}: must start Ray with RAY_AUTH_MODE=token, as cluster/aws.yaml does"
    host = re.search(
        r"--dashboard-host[= ](\S+)", " ".join(config.get("head_start_ray_commands", []))
    )
    if host is None or host.group(1) not in ("127.0.0.1", "localhost", "::1"):
        yield (
            f"head_start_ray_commands: --dashboard-host is {host.group(1) if host else 'not given'};"
            " use 127.0.0.1 and reach it through `ray dashboard`"
        )
    if not any(target.endswith("/.ray/auth_token") for target in config.get("file_mounts", {})):
        yield "file_mounts: does not bring ~/.ray/auth_token to the nodes; every node needs the client's token"


def _idle(config: dict[str, Any]) -> Iterator[str]:
    minutes = config.get("idle_timeout_minutes", 5)
    if minutes < _SHORTEST_IDLE_MINUTES:
        yield (
            f"idle_timeout_minutes = {minutes}: shorter than a node takes to install ({_SHORTEST_IDLE_MINUTES}"
            " minutes or so); nodes would come and go without working"
        )


def _placement(config: dict[str, Any], scaling: ScalingConfig) -> Iterator[str]:
    places = sum(
        group.get("max_workers", config.get("max_workers", 2))
        * _workers_on(group["resources"], scaling)
        for name, group in _node_types(config)
        if name != config["head_node_type"]
    )
    if places < scaling.num_workers:
        need = f"{'1 GPU and ' if scaling.use_gpu else ''}{scaling.cpus_per_worker:g} CPUs"
        yield (
            f"available_node_types: at their largest the groups hold {places} of the {scaling.num_workers} workers"
            f" ({need} each) that the recipe asks for; raise max_workers or the node's size"
        )


def _workers_on(resources: dict[str, int], scaling: ScalingConfig) -> int:
    by_cpu = int(resources.get("CPU", 0) // scaling.cpus_per_worker)
    return min(by_cpu, resources.get("GPU", 0)) if scaling.use_gpu else by_cpu


def _node_types(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from config.get("available_node_types", {}).items()


def _is_spot(node_config: dict[str, Any]) -> bool:
    """AWS market type, GCP scheduling and Azure priority."""
    market = node_config.get("InstanceMarketOptions", {}).get("MarketType")
    scheduling = node_config.get("scheduling", {})
    entries = scheduling if isinstance(scheduling, list) else [scheduling]
    preemptible = any(
        entry.get("preemptible") or entry.get("provisioningModel") == "SPOT" for entry in entries
    )
    azure = str(node_config.get("azure_arm_parameters", {}).get("priority", "")).lower()
    return market == "spot" or preemptible or azure == "spot"
