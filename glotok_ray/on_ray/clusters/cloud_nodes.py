"""What a node is on each cloud: its machine, disk, network and price class, in the words of that cloud's API.

Nodes have no public address; whoever calls `ray up` is in their network.
Read next: glotok_ray/on_ray/clusters/launcher_files.py
"""

from typing import Any

from glotok_ray.on_ray.clusters.description import Cloud
from glotok_ray.on_ray.clusters.machines import MACHINES, Machine

# EC2 looks the newest image with a current NVIDIA driver up at launch.
_AWS_IMAGE = (
    "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/"
    "latest/ami-id"
)
_GCP_IMAGES = "projects/deeplearning-platform-release/global/images/family/common-cu129-ubuntu-2204-nvidia-580"
_AZURE_IMAGE = {
    "imagePublisher": "microsoft-dsvm",
    "imageOffer": "ubuntu-hpc",
    "imageSku": "2204",
    "imageVersion": "latest",
}
# NCCL's start-up must not choose a bridge of Docker.
_PLAIN_NETWORK = ["--env=NCCL_SOCKET_IFNAME=^docker,lo", "--env=NCCL_DEBUG=WARN"]


def provider(kind: str, cloud: Cloud) -> dict[str, Any]:
    """The provider section."""
    closed = {"use_internal_ips": True, "cache_stopped_nodes": False}
    if kind == "aws":
        place = {"region": cloud.region, "availability_zone": ",".join(cloud.zones)}
        return {"type": kind, **place, **closed}
    if kind == "gcp":
        place = {"region": cloud.region, "availability_zone": cloud.zones[0]}
        return {"type": kind, **place, "project_id": cloud.project, **closed}
    place = {"location": cloud.region, "availability_zone": ",".join(cloud.zones)}
    account = {"resource_group": cloud.network, "subscription_id": cloud.project}
    return {"type": kind, **place, **account, **closed}


def auth(kind: str) -> dict[str, Any]:
    """The user that nodes are entered as; Azure wants a pair of keys that is there."""
    keys = {"ssh_private_key": "~/.ssh/id_rsa", "ssh_public_key": "~/.ssh/id_rsa.pub"}
    return {"ssh_user": "ubuntu", **(keys if kind == "azure" else {})}


def node_config(
    kind: str, cloud: Cloud, instance: str, disk_gb: int, *, spot: bool = False
) -> dict[str, Any]:
    """One node of a machine type, in the words of the cloud."""
    make = {"aws": _aws_node, "gcp": _gcp_node, "azure": _azure_node}[kind]
    return make(cloud, instance, disk_gb, spot)


def identity(kind: str, cloud: Cloud) -> dict[str, Any]:
    """What a worker node may do: Ray gives an identity to the head alone, and on Azure to all nodes."""
    if kind == "aws":
        return {"IamInstanceProfile": {"Name": cloud.identity}}
    if kind == "gcp":
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        return {"serviceAccounts": [{"email": cloud.identity, "scopes": scopes}]}
    return {}


def _aws_node(cloud: Cloud, instance: str, disk_gb: int, spot: bool) -> dict[str, Any]:
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": disk_gb, "VolumeType": "gp3"}}
    node: dict[str, Any] = {
        "InstanceType": instance,
        "ImageId": _AWS_IMAGE,
        "BlockDeviceMappings": [disk],
    }
    machine = MACHINES["aws"][instance]
    if machine.efa_cards:
        node["NetworkInterfaces"] = _efa(cloud, machine.efa_cards)
    else:
        node |= {"SubnetIds": [cloud.network], "SecurityGroupIds": [cloud.security_group]}
    if spot:
        node["InstanceMarketOptions"] = {"MarketType": "spot"}
    return node


def _efa(cloud: Cloud, cards: int) -> list[dict[str, Any]]:
    """An ordinary interface, and an adapter of EFA alone on every network card."""
    place = {"SubnetId": cloud.network, "Groups": [cloud.security_group]}
    first = {"NetworkCardIndex": 0, "DeviceIndex": 0, "InterfaceType": "interface", **place}
    adapters = [
        {"NetworkCardIndex": card, "DeviceIndex": int(card == 0), "InterfaceType": "efa-only"}
        | place
        for card in range(cards)
    ]
    return [first, *adapters]


def _gcp_node(cloud: Cloud, instance: str, disk_gb: int, spot: bool) -> dict[str, Any]:
    disk = {
        "boot": True,
        "autoDelete": True,
        "type": "PERSISTENT",
        "initializeParams": {"diskSizeGb": disk_gb, "sourceImage": _GCP_IMAGES},
    }
    # Without accessConfigs there is no public address.
    network = {"subnetwork": cloud.network, "nicType": "GVNIC"}
    node: dict[str, Any] = {
        "machineType": instance,
        "disks": [disk],
        "networkInterfaces": [network],
    }
    scheduling: list[dict[str, Any]] = [{"provisioningModel": "SPOT"}] if spot else []
    if MACHINES["gcp"][instance].gpus:
        scheduling.append({"onHostMaintenance": "TERMINATE"})
    return node | ({"scheduling": scheduling} if scheduling else {})


def _azure_node(cloud: Cloud, instance: str, disk_gb: int, spot: bool) -> dict[str, Any]:
    arm: dict[str, Any] = {
        "vmSize": instance,
        **_AZURE_IMAGE,
        "osDiskSize": disk_gb,
        "enableAcceleratedNetworking": True,
    }
    if spot:
        arm |= {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1}}
    return {"azure_arm_parameters": arm}


def network_options(kind: str, machine: Machine) -> list[str]:
    """Options of `docker run` for the network between GPU nodes."""
    if kind == "aws" and machine.efa_cards:
        devices = ["--device=/dev/infiniband", "--ulimit memlock=-1:-1"]
        return [*devices, "--env=FI_PROVIDER=efa", *_PLAIN_NETWORK]
    if kind == "azure":
        # Single machines share no InfiniBand partition, so NCCL takes the accelerated Ethernet.
        return ["--env=NCCL_IB_DISABLE=1", *_PLAIN_NETWORK]
    return list(_PLAIN_NETWORK)
