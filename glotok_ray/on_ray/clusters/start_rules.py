"""Rules for how nodes of a `ray up` file start: images, installation, mounts, storage, token, ports.

Each rule yields a sentence per problem, with its remedy. Read next: glotok_ray/on_ray/clusters/launcher_files.py
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from glotok_ray.on_ray.clusters.node_rules import node_types

_HEAD, _WORKER = "head_start_ray_commands", "worker_start_ray_commands"
_TOKEN = "/.ray/auth_token"
_URI = re.compile(r"GLOTOK_STORAGE_ROOT=['\"]?(?:s3|gs|abfs)://\S+")
_NETWORK_MOUNT = re.compile(r"\bmount\b.*-t\s*(?:nfs4?|efs|lustre|cifs|fuse\S*)\b")


def images(config: dict[str, Any]) -> Iterator[str]:
    """Ray's and Python's versions, and a GPU image on GPU groups."""
    docker = config.get("docker", {})
    found = {
        f"docker.{key}": value
        for key, value in docker.items()
        if key in ("image", "head_image", "worker_image")
    }
    for name, group in node_types(config):
        if "worker_image" in group.get("docker", {}):
            place = f"available_node_types.{name}.docker.worker_image"
            found[place] = group["docker"]["worker_image"]
    if not found:
        yield f"docker.image: is not set; name an image of Ray {ray.__version__}, or nodes may run another version"
    for place, image in found.items():
        yield from image_version(place, image)
    for name, group in node_types(config):
        if group["resources"].get("GPU", 0) and found:
            yield from _gpu_image(name, group.get("docker", {}), docker)


def image_version(place: str, image: str) -> Iterator[str]:
    """The tag names the installed Ray and this Python."""
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    release = re.search(r":(\d+\.\d+\.\d+)(?![\d.])", image)
    if release is None or release.group(1) != ray.__version__:
        yield (
            f"{place} = {image}: its tag must start with the installed Ray version, {ray.__version__};"
            " a client and nodes of different versions refuse each other"
        )
    tagged = re.search(r"-(py\d+)\b", image)
    if tagged is not None and tagged.group(1) != python:
        yield f"{place} = {image}: has another Python than this machine ({python}); drivers and clients must agree"


def has_cuda(image: str) -> bool:
    """Whether the tag says that the image has CUDA."""
    return re.search(r"-(gpu|cu\d+)\b", image) is not None


def _gpu_image(name: str, own: dict[str, Any], shared: dict[str, Any]) -> Iterator[str]:
    image = own.get("worker_image") or shared.get("worker_image") or shared.get("image", "")
    if not has_cuda(image):
        yield (
            f"available_node_types.{name}: its image is {image}, whose tag names no CUDA; give a GPU group an image"
            " that ends in -gpu"
        )
    options = [*own.get("worker_run_options", []), *shared.get("worker_run_options", [])]
    if "--gpus=all" not in [*options, *shared.get("run_options", [])]:
        yield (
            f"available_node_types.{name}.docker.worker_run_options: lacks --gpus=all; containers would see no GPU"
        )


def installed(config: dict[str, Any]) -> Iterator[str]:
    """The package is in the image (cluster/Dockerfile), or is installed when a node starts."""
    image = str(config.get("docker", {}).get("image", ""))
    commands = " ".join(config.get("setup_commands", []))
    bare = not image or image.startswith(("rayproject/", "docker.io/rayproject/", "anyscale/"))
    if bare and not re.search(r"\bpip3? install\b", commands):
        yield (
            f"setup_commands: nothing installs this package, and {image or 'the machine'} does not have it; take an"
            " image of cluster/Dockerfile, or install it there"
        )


def mounts(config: dict[str, Any]) -> Iterator[str]:
    """Sources of file_mounts that `ray up` finds from where it is called; the token is made by `ray get-auth-token`."""
    sources = config.get("file_mounts", {})
    for target, source in sources.items():
        if not target.endswith(_TOKEN) and not Path(source).expanduser().exists():
            yield (
                f"file_mounts.{target} = {source}: there is no such file or folder here; `ray up` starts from the"
                " directory of the call"
            )
    if not any(target.endswith(_TOKEN) for target in sources):
        yield "file_mounts: does not bring ~/.ray/auth_token to the nodes; every node needs the client's token"


def storage(config: dict[str, Any]) -> Iterator[str]:
    """What one node writes, the others must read."""
    starts = " ".join([*config.get(_HEAD, []), *config.get(_WORKER, [])])
    mounted = any(_NETWORK_MOUNT.search(line) for line in config.get("initialization_commands", []))
    if not _URI.search(starts) and not mounted:
        yield (
            f"{_HEAD}: no shared storage; set GLOTOK_STORAGE_ROOT to an object store (s3://, gs://, abfs://), or mount"
            " a file system of the network in initialization_commands"
        )


def access(config: dict[str, Any]) -> Iterator[str]:
    """Anyone who reaches an open job server runs code on the cluster: token on every node, dashboard on loopback."""
    for key in (_HEAD, _WORKER):
        command = " ".join(config.get(key, []))
        if "ray start" not in command or "RAY_AUTH_MODE=token" not in command:
            yield f"{key}: must start Ray with RAY_AUTH_MODE=token, as cluster/aws.yaml does"
        if re.search(r"--node-ip-address[= ]0\.0\.0\.0", command):
            yield (
                f"{key}: --node-ip-address=0.0.0.0 is no address that other nodes can reach; leave the flag out, so"
                " that Ray takes the node's own"
            )
    host = _flag(config, _HEAD, "dashboard-host")
    if host not in ("127.0.0.1", "localhost", "::1"):
        yield (
            f"{_HEAD}: --dashboard-host is {host or 'not given'};"
            " use 127.0.0.1 and reach it through `ray dashboard`"
        )


def ports(config: dict[str, Any]) -> Iterator[str]:
    """Workers call the head where it listens, and the head can launch them."""
    if "--autoscaling-config" not in " ".join(config.get(_HEAD, [])):
        yield (
            f"{_HEAD}: lacks --autoscaling-config=~/ray_bootstrap_config.yaml; no worker node would ever be launched"
        )
    listens = _flag(config, _HEAD, "port") or "6379"
    address = _flag(config, _WORKER, "address")
    called = address.rpartition(":")[2] if ":" in address else ""
    if called and called != listens:
        yield (
            f"{_WORKER}: calls the head's port {called}, and {_HEAD} listens on {listens}; give both the same"
        )
    objects = [_flag(config, key, "object-manager-port") for key in (_HEAD, _WORKER)]
    if objects[0] != objects[1]:
        yield (
            f"{_WORKER}: --object-manager-port is {objects[1] or 'not given'}, and the head's is"
            f" {objects[0] or 'not given'}; give both the same"
        )


def _flag(config: dict[str, Any], key: str, name: str) -> str:
    found = re.search(rf"--{name}[= ]([^\s;&]+)", " ".join(config.get(key, [])))
    return found.group(1) if found else ""
