"""Files for `ray up` on three clouds, out of the one description.

What differs between clouds is in glotok_ray/on_ray/clusters/cloud_nodes.py; how text is made of it, in written.py.
"""

from typing import Any

from glotok_ray.on_ray.clusters import cloud_nodes
from glotok_ray.on_ray.clusters.description import Cloud, Description, Group
from glotok_ray.on_ray.clusters.machines import MACHINES

GCS_PORT, OBJECT_PORT = 6379, 8076
TOKEN = "/home/ray/.ray/auth_token"
HEAD, INGEST, ON_DEMAND, SPOT = "head", "ingest", "gpu_on_demand", "gpu_spot"


def launcher_file(kind: str, description: Description) -> dict[str, Any]:
    """The content of the file for the cloud `kind`: aws, gcp or azure."""
    cloud: Cloud = getattr(description, kind)
    return {
        "cluster_name": description.name,
        "max_workers": description.most_nodes,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": description.idle_timeout_minutes,
        "provider": cloud_nodes.provider(kind, cloud),
        "auth": cloud_nodes.auth(kind),
        "docker": {
            "image": description.image_of("cpu"),
            "container_name": description.name,
            "pull_before_run": True,
            "run_options": ["--ulimit nofile=65536:65536", "--shm-size=64g"],
        },
        "head_node_type": HEAD,
        "available_node_types": _node_types(kind, description, cloud),
        "file_mounts": {TOKEN: "~/.ray/auth_token"},
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": ["ray stop", _start(cloud, _head_start())],
        "worker_start_ray_commands": ["ray stop", _start(cloud, _worker_start(kind))],
    }


def _node_types(kind: str, description: Description, cloud: Cloud) -> dict[str, Any]:
    machines = MACHINES[kind]
    head = cloud_nodes.node_config(kind, cloud, cloud.head, description.head_disk_gb)
    ingest = cloud_nodes.node_config(kind, cloud, cloud.ingest, description.ingest.disk_gb)
    ingest |= cloud_nodes.identity(kind, cloud)
    groups: dict[str, Any] = {
        HEAD: {"max_workers": 0, "resources": {"CPU": 0, "GPU": 0}, "node_config": head},
        INGEST: _group(description.ingest, INGEST)
        | {"resources": {"CPU": machines[cloud.ingest].cpus}, "node_config": ingest},
    }
    for name, group in (
        (ON_DEMAND, description.gpu_on_demand),
        (SPOT, description.gpu_spot),
    ):
        if group.most:
            groups[name] = _gpu_group(kind, description, cloud, group, name)
    return groups


def _group(group: Group, name: str) -> dict[str, Any]:
    return {"min_workers": 0, "max_workers": group.most, "labels": {"glotok-group": name}}


def _gpu_group(
    kind: str, description: Description, cloud: Cloud, group: Group, name: str
) -> dict[str, Any]:
    machine = MACHINES[kind][cloud.gpu]
    node = cloud_nodes.node_config(kind, cloud, cloud.gpu, group.disk_gb, spot=name == SPOT)
    options = ["--gpus=all", *cloud_nodes.network_options(kind, machine)]
    return {
        **_group(group, name),
        "priority": int(name == SPOT),
        "resources": {"CPU": machine.cpus, "GPU": machine.gpus},
        "docker": {
            "worker_image": description.image_of("gpu"),
            "worker_run_options": options,
        },
        "node_config": node | cloud_nodes.identity(kind, cloud),
    }


def _start(cloud: Cloud, command: str) -> str:
    """The command in the environment of every node: the token is asked for, and paths start at the storage root."""
    # adlfs asks as nobody, and not by the node's identity, unless it is told.
    account = f"AZURE_STORAGE_ACCOUNT_NAME={cloud.storage_account} AZURE_STORAGE_ANON=false "
    return (
        f"ulimit -n 65536; RAY_AUTH_MODE=token GLOTOK_STORAGE_ROOT={cloud.storage_root} "
        f"{account if cloud.storage_account else ''}RAY_enable_autoscaler_v2=1 {command}"
    )


def _head_start() -> str:
    return (
        f"ray start --head --port={GCS_PORT} --object-manager-port={OBJECT_PORT} "
        "--autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1"
    )


def _worker_start(kind: str) -> str:
    """Ray, and beside it what asks whether the node is taken back; on-demand nodes never are."""
    agent = f"python -m glotok_ray.on_ray.preemption_agent --cloud {kind}"
    # It speaks to Ray when the node goes, and needs what Ray's own processes have.
    return (
        f"ray start --address=$RAY_HEAD_IP:{GCS_PORT} --object-manager-port={OBJECT_PORT};"
        f" RAY_AUTH_MODE=token nohup {agent} > /tmp/preemption_agent.log 2>&1 &"
    )
