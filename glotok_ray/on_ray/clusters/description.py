"""The one description of the cluster, from which all files under cluster/ are written.

Read next: glotok_ray/on_ray/clusters/launcher_files.py
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from glotok_ray.config.overrides import from_dict
from glotok_ray.config.rules import require
from glotok_ray.on_ray.clusters.machines import MACHINES, unknown_machine

PLACEHOLDER = "YOUR-"
"""What you have to fill in begins like this."""
CLOUDS = ("aws", "gcp", "azure")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Nodes of one kind."""

    most: int
    """Largest number of nodes; every group starts with none."""
    disk_gb: int


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """What differs between clouds."""

    region: str
    zones: tuple[str, ...]
    head: str
    """Machine type of the head: memory for drivers, no GPU."""
    ingest: str
    """Machine type of the CPU group."""
    gpu: str
    """Machine type of both GPU groups."""
    storage_root: str
    """URI below which all files of all jobs lie."""
    network: str
    """Where nodes are: AWS's subnet, Google's subnetwork, Azure's resource group."""
    storage_account: str = ""
    """Azure alone: the account of the storage root's container, which the address does not name."""
    security_group: str = ""
    """AWS alone: a group that lets nodes talk to each other, and SSH in from your network. Elsewhere nodes have no
    public address.
    """
    identity: str = ""
    """What worker nodes may do, above all read and write the storage root: AWS's instance profile, Google's service
    account. Ray gives the head one of its own, and on Azure one to all nodes.
    """
    project: str = ""
    """Google's project, Azure's subscription."""


@dataclass(frozen=True, kw_only=True)
class Kubernetes:
    """Pods' sizes, which must fit the nodes that the Kubernetes cluster has."""

    storage_root: str
    head_cpus: int
    head_memory_gib: int
    ingest_cpus: int
    ingest_memory_gib: int
    gpu_cpus: int
    gpu_memory_gib: int
    gpus: int
    gpu_node_label: str
    """Label and value of nodes with these GPUs, as label=value."""
    spot_node_label: str
    """Label and value of spot nodes, which carry a taint of the same name."""
    service_account: str
    """Of all pods, which may read and write the storage root; it must be there."""
    entrypoint: str
    """What the RayJob runs."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of cluster/description.yaml."""

    name: str
    image: str
    """Repository of the image that cluster/Dockerfile makes; tags are RAY-PYTHON-cpu and RAY-PYTHON-gpu."""
    python: str
    """Of the image, such as py311; that of your own machine."""
    ray: str
    idle_timeout_minutes: int
    head_disk_gb: int
    ingest: Group
    gpu_on_demand: Group
    gpu_spot: Group
    aws: Cloud
    gcp: Cloud
    azure: Cloud
    kubernetes: Kubernetes

    def __post_init__(self) -> None:
        # What a group without nodes would be is not written, and not looked at.
        has_gpus = bool(self.gpu_on_demand.most or self.gpu_spot.most)
        for kind in CLOUDS:
            cloud: Cloud = getattr(self, kind)
            for role in ("head", "ingest", "gpu") if has_gpus else ("head", "ingest"):
                instance = getattr(cloud, role)
                rule = unknown_machine(kind, instance)
                require(instance in MACHINES[kind], f"{kind}.{role}", instance, rule)
        require(bool(self.gcp.zones), "gcp.zones", self.gcp.zones, "must hold at least one zone")
        labels = {"gpu_node_label": has_gpus, "spot_node_label": bool(self.gpu_spot.most)}
        for name in (name for name, is_written in labels.items() if is_written):
            label = getattr(self.kubernetes, name)
            rule = "must be written label=value"
            require(label.count("=") == 1, f"kubernetes.{name}", label, rule)

    def image_of(self, kind: str) -> str:
        """The image for "cpu" or "gpu"."""
        return f"{self.image}:{self.ray}-{self.python}-{kind}"

    @property
    def most_nodes(self) -> int:
        """Nodes beside the head, at most."""
        return self.ingest.most + self.gpu_on_demand.most + self.gpu_spot.most


def read_description(path: Path) -> Description:
    """The description in a YAML file; raises ValueError for a file that cannot be read, and for a field that is
    missing, unknown or not of its type.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); correct the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path}: is not YAML ({said}); correct it") from error
    require(isinstance(values, dict), str(path), values, "must be a mapping of fields")
    try:
        return from_dict(Description, values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}; correct it") from error
