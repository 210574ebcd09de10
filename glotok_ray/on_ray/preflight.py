"""Checks before money or hours are spent: a cluster file for `ray up` or KubeRay, and the State API of sweeps.

Ray's own validation accepts files that can never work (a group whose minimum exceeds its maximum, a spot head);
on_ray/clusters adds those rules. No cloud library and no network are needed. Read next: cluster/description.yaml
"""

import contextlib
import copy
import io
import re
from pathlib import Path
from typing import Any

import jsonschema
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.util.state import list_nodes

from glotok_ray.config.training import ScalingConfig
from glotok_ray.on_ray.clusters import kubernetes_rules, node_rules, place_rules, start_rules
from glotok_ray.on_ray.clusters.description import PLACEHOLDER

_RULES = (
    node_rules.counts,
    node_rules.head,
    node_rules.machines,
    node_rules.node_keys,
    node_rules.disks,
    node_rules.idle,
    place_rules.provider_keys,
    place_rules.places,
    place_rules.closed,
    place_rules.identities,
    start_rules.images,
    start_rules.installed,
    start_rules.mounts,
    start_rules.storage,
    start_rules.access,
    start_rules.ports,
)


def validate_cluster(path: Path, scaling: ScalingConfig | None = None) -> list[str]:
    """Problems of a `ray up` file or of KubeRay's manifests, one sentence each with its remedy; empty: none was found.

    `scaling` is a recipe's request; with it, the groups at their largest must be able to hold all of its workers.
    """
    try:
        documents = [item for item in yaml.safe_load_all(path.read_text()) if item is not None]
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror}); correct the path"]
    except yaml.YAMLError as error:
        return [f"{path}: is not YAML ({' '.join(str(error).split())})"]
    if not documents or not all(isinstance(item, dict) for item in documents):
        return [f"{path}: holds no mapping of settings; start from cluster/aws.yaml"]
    if any("apiVersion" in item for item in documents):
        problems = list(kubernetes_rules.problems(documents, scaling))
    else:
        problems = _launcher_problems(documents[0], scaling)
    return [f"{path}: {problem}" for problem in problems]


def _launcher_problems(config: dict[str, Any], scaling: ScalingConfig | None) -> list[str]:
    refusal = _refused_by_ray(config)
    if refusal:
        return [refusal]
    problems = [problem for rule in _RULES for problem in rule(config)]
    if scaling is not None:
        problems += node_rules.room(config, scaling)
    return problems


def placeholders(path: Path) -> list[str]:
    """What a file leaves to be filled in, each once."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    return sorted(set(re.findall(rf"{PLACEHOLDER}[A-Z]+", "\n".join(lines))))


def check_state_api() -> None:
    """Raise RuntimeError unless the connected cluster answers the State API.

    A trial that is stopped, or whose process dies, leaves its placement group to a cleaner that asks this API whether
    the trial still lives; without an answer the group stays reserved and the next trial waits for ever.
    """
    try:
        # By its address: without one, Ray refuses to choose among several clusters of a machine.
        nodes = list_nodes(address=ray.get_runtime_context().gcs_address, limit=1, timeout=10)
        if not {getattr(node, "node_id", None) for node in nodes} <= {
            node["NodeID"] for node in ray.nodes()
        }:
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
