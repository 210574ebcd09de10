"""A JSON schema of the fields of RayCluster, RayJob and NetworkPolicy that manifests may use.

Written by hand from the Go types of KubeRay's API v1 (1.5) and of Kubernetes' pods, since no package brings KubeRay's
own schema; unknown fields are refused, as Kubernetes' strict validation does.
Read next: glotok_ray/on_ray/clusters/kubernetes_rules.py
"""

from typing import Any


def _object(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_ANY: dict[str, Any] = {}
_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_FLAG = {"type": "boolean"}
_MAPPING: dict[str, Any] = {"type": "object"}
_TEXT_LIST = _list(_TEXT)
_MAPPINGS = _list(_MAPPING)
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_QUANTITY = {"type": ["string", "integer"], "pattern": r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
_QUANTITIES = {"type": "object", "additionalProperties": _QUANTITY}
_METADATA = _object(
    {"name": _TEXT, "namespace": _TEXT, "labels": _TEXTS, "annotations": _TEXTS},
)
_RESOURCES = _object({"requests": _QUANTITIES, "limits": _QUANTITIES, "claims": _list(_ANY)})
_CONTAINER = _object(
    {
        **dict.fromkeys(("name", "image", "imagePullPolicy", "workingDir"), _TEXT),
        **dict.fromkeys(("command", "args"), _TEXT_LIST),
        "env": _list(_object({"name": _TEXT, "value": _TEXT, "valueFrom": _ANY}, ("name",))),
        **dict.fromkeys(("envFrom", "ports", "volumeDevices"), _MAPPINGS),
        "resources": _RESOURCES,
        "volumeMounts": _list(
            _object(
                {
                    **dict.fromkeys(("name", "mountPath", "subPath", "mountPropagation"), _TEXT),
                    "readOnly": _FLAG,
                },
                ("name", "mountPath"),
            )
        ),
        **dict.fromkeys(
            ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "securityContext"),
            _MAPPING,
        ),
    },
    ("name", "image"),
)
_POD = _object(
    {
        "metadata": _METADATA,
        "spec": _object(
            {
                "containers": {**_list(_CONTAINER), "minItems": 1},
                "initContainers": _list(_CONTAINER),
                "restartPolicy": {"enum": ["Always", "OnFailure", "Never"]},
                "volumes": _list({"type": "object", "required": ["name"]}),
                "nodeSelector": _TEXTS,
                "tolerations": _list(
                    _object(
                        {
                            **dict.fromkeys(("key", "value", "effect"), _TEXT),
                            "operator": {"enum": ["Exists", "Equal"]},
                            "tolerationSeconds": _COUNT,
                        }
                    )
                ),
                **dict.fromkeys(("affinity", "securityContext", "dnsConfig"), _MAPPING),
                "topologySpreadConstraints": _MAPPINGS,
                "imagePullSecrets": _MAPPINGS,
                **dict.fromkeys(
                    ("serviceAccountName", "priorityClassName", "runtimeClassName", "dnsPolicy"),
                    _TEXT,
                ),
                **dict.fromkeys(("schedulerName", "nodeName", "hostname"), _TEXT),
                **dict.fromkeys(("hostNetwork", "hostIPC", "automountServiceAccountToken"), _FLAG),
                "terminationGracePeriodSeconds": _COUNT,
            },
            ("containers",),
        ),
    },
    ("spec",),
)
_HEAD = _object(
    {
        "template": _POD,
        "rayStartParams": _TEXTS,
        "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        "enableIngress": _FLAG,
        "headService": _MAPPING,
        "resources": _TEXTS,
        "labels": _TEXTS,
    },
    ("template",),
)
_WORKERS = _object(
    {
        "groupName": _TEXT,
        **dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds"), _COUNT),
        "numOfHosts": {"type": "integer", "minimum": 1},
        "rayStartParams": _TEXTS,
        "template": _POD,
        "scaleStrategy": _MAPPING,
        "suspend": _FLAG,
        "resources": _TEXTS,
        "labels": _TEXTS,
    },
    ("groupName", "minReplicas", "maxReplicas", "template"),
)
_AUTOSCALER = _object(
    {
        "version": {"enum": ["v1", "v2"]},
        "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
        "idleTimeoutSeconds": _COUNT,
        "resources": _RESOURCES,
        **dict.fromkeys(("image", "imagePullPolicy"), _TEXT),
        **dict.fromkeys(("env", "envFrom", "volumeMounts"), _MAPPINGS),
        "securityContext": _MAPPING,
    }
)
_CLUSTER = _object(
    {
        "rayVersion": _TEXT,
        "enableInTreeAutoscaling": _FLAG,
        "autoscalerOptions": _AUTOSCALER,
        "authOptions": _object({"mode": {"enum": ["disabled", "token"]}}, ("mode",)),
        "gcsFaultToleranceOptions": _MAPPING,
        "headServiceAnnotations": _TEXTS,
        "managedBy": _TEXT,
        "suspend": _FLAG,
        "upgradeStrategy": _MAPPING,
        "headGroupSpec": _HEAD,
        "workerGroupSpecs": _list(_WORKERS),
    },
    ("headGroupSpec",),
)
_JOB = _object(
    {
        **dict.fromkeys(
            ("entrypoint", "runtimeEnvYAML", "jobId", "entrypointResources", "managedBy"), _TEXT
        ),
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        **dict.fromkeys(
            ("backoffLimit", "ttlSecondsAfterFinished", "activeDeadlineSeconds"), _COUNT
        ),
        **dict.fromkeys(("shutdownAfterJobFinishes", "suspend"), _FLAG),
        **dict.fromkeys(("entrypointNumCpus", "entrypointNumGpus"), _NUMBER),
        **dict.fromkeys(("metadata", "clusterSelector"), _TEXTS),
        **dict.fromkeys(("submitterConfig", "deletionStrategy"), _MAPPING),
        "submitterPodTemplate": _POD,
        "rayClusterSpec": _CLUSTER,
    },
    ("entrypoint",),
)
_POLICY = _object(
    {
        "podSelector": _MAPPING,
        "policyTypes": _list({"enum": ["Ingress", "Egress"]}),
        **dict.fromkeys(("ingress", "egress"), _MAPPINGS),
    },
    ("podSelector",),
)


def _kind(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    fixed = {"apiVersion": {"const": version}, "kind": {"const": kind}}
    return _object(
        {**fixed, "metadata": _METADATA, "spec": spec}, ("apiVersion", "kind", "metadata", "spec")
    )


SCHEMAS = {
    "RayCluster": _kind("ray.io/v1", "RayCluster", _CLUSTER),
    "RayJob": _kind("ray.io/v1", "RayJob", _JOB),
    "NetworkPolicy": _kind("networking.k8s.io/v1", "NetworkPolicy", _POLICY),
}
"""By kind."""
