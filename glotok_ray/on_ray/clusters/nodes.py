"""What a node's configuration says, whatever the cloud: machine, disk, price class, and keys that no cloud reads.

Read next: glotok_ray/on_ray/clusters/node_rules.py
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Parameters of EC2's RunInstances, Ray's own SubnetIds among them.
_AWS_KEYS = {
    "AdditionalInfo",
    "BlockDeviceMappings",
    "CapacityReservationSpecification",
    "CpuOptions",
    "CreditSpecification",
    "DisableApiStop",
    "DisableApiTermination",
    "EbsOptimized",
    "EnclaveOptions",
    "HibernationOptions",
    "IamInstanceProfile",
    "ImageId",
    "InstanceInitiatedShutdownBehavior",
    "InstanceMarketOptions",
    "InstanceType",
    "KeyName",
    "LaunchTemplate",
    "LicenseSpecifications",
    "MaintenanceOptions",
    "MetadataOptions",
    "Monitoring",
    "NetworkInterfaces",
    "Placement",
    "PrivateDnsNameOptions",
    "PrivateIpAddress",
    "SecurityGroupIds",
    "SecurityGroups",
    "SubnetId",
    "SubnetIds",
    "TagSpecifications",
    "UserData",
}
_AWS_NESTED = {
    "Ebs": {
        "DeleteOnTermination",
        "Encrypted",
        "Iops",
        "KmsKeyId",
        "SnapshotId",
        "Throughput",
        "VolumeSize",
        "VolumeType",
    },
    "InstanceMarketOptions": {"MarketType", "SpotOptions"},
    "NetworkInterfaces": {
        "AssociatePublicIpAddress",
        "DeleteOnTermination",
        "Description",
        "DeviceIndex",
        "Groups",
        "InterfaceType",
        "NetworkCardIndex",
        "NetworkInterfaceId",
        "PrivateIpAddress",
        "SubnetId",
    },
}
# Fields of Compute Engine's instances.insert.
_GCP_KEYS = {
    "advancedMachineFeatures",
    "canIpForward",
    "confidentialInstanceConfig",
    "deletionProtection",
    "description",
    "disks",
    "displayDevice",
    "guestAccelerators",
    "hostname",
    "labels",
    "machineType",
    "metadata",
    "minCpuPlatform",
    "name",
    "networkInterfaces",
    "networkPerformanceConfig",
    "params",
    "reservationAffinity",
    "resourcePolicies",
    "scheduling",
    "serviceAccounts",
    "shieldedInstanceConfig",
    "sourceInstanceTemplate",
    "sourceMachineImage",
    "tags",
    "zone",
}
_GCP_NESTED = {
    "initializeParams": {"diskName", "diskSizeGb", "diskType", "labels", "sourceImage"},
    "scheduling": {
        "automaticRestart",
        "instanceTerminationAction",
        "maxRunDuration",
        "onHostMaintenance",
        "preemptible",
        "provisioningModel",
    },
    "networkInterfaces": {
        "accessConfigs",
        "aliasIpRanges",
        "network",
        "networkIP",
        "nicType",
        "stackType",
        "subnetwork",
    },
}


def instance_of(kind: str, node_config: dict[str, Any]) -> tuple[str, str]:
    """The field that names the machine type, and its value; empty where it is missing."""
    if kind == "azure":
        name = "azure_arm_parameters.vmSize"
        return name, str(_mapping(node_config.get("azure_arm_parameters")).get("vmSize", ""))
    name = {"aws": "InstanceType", "gcp": "machineType"}[kind]
    return name, str(node_config.get(name, ""))


def disk_gb(kind: str, node_config: dict[str, Any]) -> float:
    """The largest disk; 0 where none is given, and the cloud's own small one is taken."""
    if kind == "azure":
        sizes = [_mapping(node_config.get("azure_arm_parameters")).get("osDiskSize", 0)]
    elif kind == "aws":
        mappings = node_config.get("BlockDeviceMappings", [])
        sizes = [_mapping(item.get("Ebs")).get("VolumeSize", 0) for item in mappings]
    else:
        disks = node_config.get("disks", [])
        sizes = [_mapping(disk.get("initializeParams")).get("diskSizeGb", 0) for disk in disks]
    return max((float(size) for size in sizes), default=0.0)


def is_spot(node_config: dict[str, Any]) -> bool:
    """AWS market type, GCP scheduling and Azure priority."""
    market = _mapping(node_config.get("InstanceMarketOptions")).get("MarketType")
    scheduling = node_config.get("scheduling", {})
    entries = scheduling if isinstance(scheduling, list) else [scheduling]
    preemptible = any(
        entry.get("preemptible") or entry.get("provisioningModel") == "SPOT" for entry in entries
    )
    azure = str(_mapping(node_config.get("azure_arm_parameters")).get("priority", "")).lower()
    return market == "spot" or preemptible or azure == "spot"


def unknown_keys(kind: str, node_config: dict[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """Keys that the cloud does not read, by their dotted name, each with those that it would read there."""
    known = {"aws": _AWS_KEYS, "gcp": _GCP_KEYS, "azure": {"azure_arm_parameters", "tags"}}[kind]
    nested = {"aws": _AWS_NESTED, "gcp": _GCP_NESTED, "azure": {}}[kind]
    if kind == "azure":
        nested = {"azure_arm_parameters": _azure_parameters()}
    for key in sorted(set(node_config) - known):
        yield key, known
    for path, key, value in _walk(node_config, ""):
        for item in value if isinstance(value, list) else [value]:
            for name in sorted(set(_mapping(item)) - nested.get(key, set(_mapping(item)))):
                yield f"{path}.{name}", nested[key]


def _walk(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """All keys with what they hold, at any depth."""
    for item in value if isinstance(value, list) else [value]:
        for key, inner in _mapping(item).items():
            name = f"{path}.{key}" if path else key
            yield name, key, inner
            yield from _walk(inner, name)


@cache
def _azure_parameters() -> set[str]:
    """What Ray's own template for a machine takes."""
    from ray.autoscaler._private import _azure

    template = Path(_azure.__path__[0]) / "azure-vm-template.json"
    return {*json.loads(template.read_text())["parameters"], "availability_zone"}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
