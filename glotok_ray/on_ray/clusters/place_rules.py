"""Rules for where a `ray up` cluster is and who reaches it: provider keys, regions and zones, security groups.

Each rule yields a sentence per problem, with its remedy. Read next: glotok_ray/on_ray/clusters/machines.py
"""

import difflib
import re
from collections.abc import Iterator
from typing import Any

from glotok_ray.on_ray.clusters.machines import ZONES

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
        "subnet_mask",
        "msi_name",
        "msi_resource_group",
        "cache_stopped_nodes",
        "availability_zone",
    },
}
_EVERYWHERE = ("0.0.0.0/0", "::/0")


def provider_keys(config: dict[str, Any]) -> Iterator[str]:
    """Keys that Ray reads."""
    kind = config["provider"]["type"]
    if kind not in _PROVIDER_KEYS:
        return
    known = _SHARED_KEYS | _PROVIDER_KEYS[kind]
    for key in sorted(set(config["provider"]) - known):
        yield f"provider.{key}: Ray reads no such key of {kind}; it knows {', '.join(sorted(known))}"


def places(config: dict[str, Any]) -> Iterator[str]:
    """A region that is there, and zones of it."""
    provider = config["provider"]
    kind = provider["type"]
    if kind not in ZONES:
        return
    field = "location" if kind == "azure" else "region"
    region = str(provider.get(field, ""))
    if region not in ZONES[kind]:
        near = difflib.get_close_matches(region, ZONES[kind], 3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        yield (
            f"provider.{field} = {region!r}: is none of the regions of {kind} in glotok_ray/on_ray/clusters/"
            f"machines.py{hint}; correct it, or add it there"
        )
        return
    zones = provider.get("availability_zone") or ""
    names = zones if isinstance(zones, list) else str(zones).split(",")
    for zone in filter(None, (str(name).strip() for name in names)):
        if zone not in ZONES[kind][region]:
            yield (
                f"provider.availability_zone = {zone}: is no zone of {region}, which has"
                f" {', '.join(ZONES[kind][region])}"
            )


def closed(config: dict[str, Any]) -> Iterator[str]:
    """Nobody outside the network reaches a node."""
    provider = config["provider"]
    kind = provider["type"]
    if kind not in ZONES:
        return
    for rule in provider.get("security_group", {}).get("IpPermissions", []):
        ranges = [item.get("CidrIp", "") for item in rule.get("IpRanges", [])]
        ranges += [item.get("CidrIpv6", "") for item in rule.get("Ipv6Ranges", [])]
        for where in set(ranges) & set(_EVERYWHERE):
            yield (
                f"provider.security_group.IpPermissions: lets {where} reach ports {rule.get('FromPort')} to"
                f" {rule.get('ToPort')}; name the addresses of your own network"
            )
    if kind == "aws":
        yield from _own_group(config)
    elif not provider.get("use_internal_ips"):
        yield (
            "provider.use_internal_ips: is not set; nodes get public addresses, and SSH is open to everyone; set it"
            " to true and call `ray up` from within the network"
        )
    for name, group in config["available_node_types"].items():
        for interface in group["node_config"].get("networkInterfaces", []):
            if interface.get("accessConfigs"):
                yield (
                    f"available_node_types.{name}.node_config.networkInterfaces.accessConfigs: gives the node a public"
                    " address; remove it"
                )


def _own_group(config: dict[str, Any]) -> Iterator[str]:
    """Ray's default group on AWS opens SSH to all addresses."""
    for name, group in config["available_node_types"].items():
        node = group["node_config"]
        interfaces = node.get("NetworkInterfaces", [])
        named = all(item.get("Groups") for item in interfaces) if interfaces else False
        if not named and not node.get("SecurityGroupIds"):
            yield (
                f"available_node_types.{name}.node_config.SecurityGroupIds: is not set; Ray would make a group that"
                " lets everyone reach SSH; name one of yours"
            )


def identities(config: dict[str, Any]) -> Iterator[str]:
    """Worker nodes that may read the object store: Ray gives an identity to the head alone."""
    field = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}.get(config["provider"]["type"])
    start = " ".join(config.get("worker_start_ray_commands", []))
    if field is None or not re.search(r"GLOTOK_STORAGE_ROOT=['\"]?\w+://", start):
        return
    for name, group in config["available_node_types"].items():
        if name != config["head_node_type"] and not group["node_config"].get(field):
            yield (
                f"available_node_types.{name}.node_config.{field}: is not set; the node could not read the storage"
                " root; name an identity that may"
            )
