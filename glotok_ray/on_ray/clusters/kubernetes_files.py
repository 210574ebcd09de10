"""Manifests for KubeRay (1.5.1 or newer), out of the one description: a RayCluster that stays and a RayJob that ends.

Read next: glotok_ray/on_ray/clusters/kubernetes_rules.py
"""

from typing import Any

from glotok_ray.on_ray.clusters.description import Description, Kubernetes

_NAME = "glotok"
_DAY_S = 86_400


def ray_cluster(description: Description) -> list[dict[str, Any]]:
    """A RayCluster, and the rule that closes its ports to other pods."""
    return [
        _object("RayCluster", _NAME, _cluster_spec(description)),
        _network_policy(),
    ]


def ray_job(description: Description) -> list[dict[str, Any]]:
    """A RayJob with a cluster of its own, which ends with it."""
    spec = {
        "entrypoint": description.kubernetes.entrypoint,
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        # A new cluster for each; the run goes on from its newest checkpoint.
        "backoffLimit": 3,
        "activeDeadlineSeconds": 30 * _DAY_S,
        "rayClusterSpec": _cluster_spec(description),
    }
    return [_object("RayJob", f"{_NAME}-job", spec), _network_policy()]


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _network_policy() -> dict[str, Any]:
    """Into pods of a Ray cluster come other such pods, the job's submitter and KubeRay's operator alone."""
    own = {"podSelector": {"matchLabels": {"app": _NAME}}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    submitter = {
        "podSelector": {
            "matchExpressions": [
                {"key": "ray.io/originated-from-cr-name", "operator": "Exists"},
            ]
        }
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{_NAME}-closed"},
        "spec": {
            "podSelector": {"matchLabels": {"app": _NAME}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [own, operator, submitter]}],
        },
    }


def _cluster_spec(description: Description) -> dict[str, Any]:
    pods = description.kubernetes
    return {
        "rayVersion": description.ray,
        # KubeRay makes a secret with a token and gives it to every Ray container.
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 60 * description.idle_timeout_minutes,
        },
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
            "template": _pod(
                description, "cpu", cpus=pods.head_cpus, memory_gib=pods.head_memory_gib
            ),
        },
        "workerGroupSpecs": _worker_groups(description, pods),
    }


def _worker_groups(description: Description, pods: Kubernetes) -> list[dict[str, Any]]:
    ingest = _pod(description, "cpu", cpus=pods.ingest_cpus, memory_gib=pods.ingest_memory_gib)
    groups = [_group("ingest", description.ingest.most, ingest)]
    for name, most in (
        ("gpu-on-demand", description.gpu_on_demand.most),
        ("gpu-spot", description.gpu_spot.most),
    ):
        if most:
            groups.append(_group(name, most, _gpu_pod(description, spot=name == "gpu-spot")))
    return groups


def _group(name: str, most: int, template: dict[str, Any]) -> dict[str, Any]:
    return {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": template,
    }


def _gpu_pod(description: Description, *, spot: bool) -> dict[str, Any]:
    pods = description.kubernetes
    pod = _pod(
        description, "gpu", cpus=pods.gpu_cpus, memory_gib=pods.gpu_memory_gib, gpus=pods.gpus
    )
    gpu_label, gpu_name = pods.gpu_node_label.split("=")
    selector = {gpu_label: gpu_name}
    tolerations: list[dict[str, Any]] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    if spot:
        label, value = pods.spot_node_label.split("=")
        selector[label] = value
        tolerations.append({"key": label, "operator": "Equal", "value": value})
    pod["spec"] |= {"nodeSelector": selector, "tolerations": tolerations}
    return pod


def _pod(
    description: Description, kind: str, *, cpus: int, memory_gib: int, gpus: int = 0
) -> dict[str, Any]:
    amounts: dict[str, Any] = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    environment = {
        "GLOTOK_STORAGE_ROOT": description.kubernetes.storage_root,
        "RAY_enable_autoscaler_v2": "1",
    }
    container = {
        "name": "ray",
        "image": description.image_of(kind),
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        # Object store and the collectives of torch live in shared memory.
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    memory = {"medium": "Memory", "sizeLimit": f"{memory_gib // 2}Gi"}
    return {
        "metadata": {"labels": {"app": _NAME}},
        "spec": {
            # Autoscaler v2 counts pods; one that started again would be another node under an old name.
            "restartPolicy": "Never",
            "serviceAccountName": description.kubernetes.service_account,
            "containers": [container],
            "volumes": [{"name": "shared-memory", "emptyDir": memory}],
        },
    }
