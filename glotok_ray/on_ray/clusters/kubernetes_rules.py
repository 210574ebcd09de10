"""Rules for KubeRay's manifests: fields by the schema, and what Kubernetes accepts and should not.

Each rule yields a sentence per problem, with its remedy. Read next: glotok_ray/on_ray/clusters/kubernetes_schema.py
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema
import ray

from glotok_ray.config.training import ScalingConfig
from glotok_ray.on_ray.clusters import node_rules
from glotok_ray.on_ray.clusters.kubernetes_schema import SCHEMAS
from glotok_ray.on_ray.clusters.start_rules import has_cuda, image_version

_GPU = "nvidia.com/gpu"
_SHORTEST_IDLE_S = 600
_HEAD_MEMORY_GIB = 32
_GIB = {"Gi": 1.0, "G": 1e9 / 2**30, "Ti": 1024.0, "Mi": 1 / 1024}


def problems(
    documents: Sequence[dict[str, Any]], scaling: ScalingConfig | None = None
) -> Iterator[str]:
    """Problems of the manifests of one file; `scaling` is a recipe's request."""
    refused = False
    for item in documents:
        for problem in _schema(item):
            refused = True
            yield problem
    if refused:
        return
    specs = [spec for spec in map(_cluster_spec, documents) if spec]
    if not specs:
        yield "holds neither a RayCluster nor a RayJob with a rayClusterSpec"
    if not any(item["kind"] == "NetworkPolicy" for item in documents):
        yield "holds no NetworkPolicy; every pod of the Kubernetes cluster could reach Ray's ports"
    for spec in specs:
        yield from _access(spec)
        yield from _autoscaling(spec)
        yield from _head(spec["headGroupSpec"])
        for name, pod in _pods(spec):
            yield from _pod(name, pod)
        if scaling is not None:
            yield from node_rules.room(_as_launcher_file(spec), scaling)


def _schema(item: dict[str, Any]) -> Iterator[str]:
    kind = item.get("kind")
    if kind not in SCHEMAS:
        yield f"kind = {kind!r}: is none of {', '.join(SCHEMAS)}"
        return
    for error in jsonschema.Draft202012Validator(SCHEMAS[kind]).iter_errors(item):
        place = ".".join(str(part) for part in error.absolute_path) or "the top level"
        yield f"{kind}: {place}: {error.message}"


def _cluster_spec(item: dict[str, Any]) -> dict[str, Any]:
    return {"RayCluster": item["spec"], "RayJob": item["spec"].get("rayClusterSpec")}.get(
        item["kind"]
    ) or {}


def _access(spec: dict[str, Any]) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: must be token; who reaches an open job server runs code on the cluster"
    service = spec["headGroupSpec"].get("serviceType", "ClusterIP")
    if service != "ClusterIP":
        yield (
            f"headGroupSpec.serviceType = {service}: opens Ray's ports to the outside; use ClusterIP and"
            " kubectl port-forward"
        )
    if spec.get("rayVersion") != ray.__version__:
        yield (
            f"rayVersion = {spec.get('rayVersion')}: the installed Ray is {ray.__version__};"
            " a client and nodes of different versions refuse each other"
        )


def _autoscaling(spec: dict[str, Any]) -> Iterator[str]:
    if not spec.get("enableInTreeAutoscaling"):
        yield "enableInTreeAutoscaling: must be true, or groups stay at their replicas"
    options = spec.get("autoscalerOptions", {})
    if options.get("version") != "v2":
        yield "autoscalerOptions.version: must be v2"
    seconds = options.get("idleTimeoutSeconds", 60)
    if seconds < _SHORTEST_IDLE_S:
        yield (
            f"autoscalerOptions.idleTimeoutSeconds = {seconds}: shorter than a node takes to start"
            f" ({_SHORTEST_IDLE_S} or so); nodes would come and go without working"
        )
    for group in spec.get("workerGroupSpecs", []):
        least, most = group["minReplicas"], group["maxReplicas"]
        if least > most:
            yield f"{group['groupName']}.minReplicas = {least}: exceeds maxReplicas = {most}"


def _head(head: dict[str, Any]) -> Iterator[str]:
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield 'headGroupSpec.rayStartParams.num-cpus: set "0", so that no task starves the head'
    memory = _gib(_limits(head["template"]).get("memory", "0"))
    if memory < _HEAD_MEMORY_GIB:
        yield (
            f"headGroupSpec: its container has {memory:g} GiB; Ray's servers and the drivers of jobs need"
            f" {_HEAD_MEMORY_GIB}"
        )


def _pod(name: str, pod: dict[str, Any]) -> Iterator[str]:
    spec = pod["spec"]
    container = spec["containers"][0]
    if spec.get("restartPolicy") != "Never":
        yield f"{name}.restartPolicy: must be Never; autoscaler v2 takes a pod for one node"
    yield from image_version(f"{name}.image", container["image"])
    limits = _limits(pod)
    if int(limits.get(_GPU, 0)) and not has_cuda(container["image"]):
        yield (
            f"{name}.image = {container['image']}: its tag names no CUDA; give a GPU group an image that ends in -gpu"
        )
    requests = container.get("resources", {}).get("requests", {})
    if requests != limits:
        yield f"{name}.resources: requests and limits differ; Ray counts the limits, so give both the same"
    roots = [
        item.get("value", "")
        for item in container.get("env", [])
        if item["name"] == "GLOTOK_STORAGE_ROOT"
    ]
    if not any("://" in root for root in roots) and not _has_claim(spec):
        yield (
            f"{name}.env: no shared storage; set GLOTOK_STORAGE_ROOT to an object store, or mount a volume claim"
        )


def _has_claim(spec: dict[str, Any]) -> bool:
    return any("persistentVolumeClaim" in volume for volume in spec.get("volumes", []))


def _pods(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "headGroupSpec", spec["headGroupSpec"]["template"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["groupName"], group["template"]


def _limits(pod: dict[str, Any]) -> dict[str, Any]:
    return pod["spec"]["containers"][0].get("resources", {}).get("limits", {})


def _gib(quantity: str | int) -> float:
    text = str(quantity)
    for unit, factor in _GIB.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text) / 2**30


def _as_launcher_file(spec: dict[str, Any]) -> dict[str, Any]:
    """The groups as a `ray up` file has them, for rules that hold for both."""
    groups = {}
    for group in spec.get("workerGroupSpecs", []):
        limits = _limits(group["template"])
        resources = {"CPU": int(limits.get("cpu", 0)), "GPU": int(limits.get(_GPU, 0))}
        groups[group["groupName"]] = {
            "max_workers": group["maxReplicas"],
            "resources": resources,
        }
    return {"head_node_type": "", "available_node_types": groups}
