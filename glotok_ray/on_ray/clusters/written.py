"""The text of the files under cluster/, with the comments that a reader of one of them needs.

Read next: glotok_ray/on_ray/clusters/description.py
"""

import textwrap
from typing import Any

import yaml

from glotok_ray.on_ray.clusters.dashboard import dashboard
from glotok_ray.on_ray.clusters.description import CLOUDS, Description
from glotok_ray.on_ray.clusters.kubernetes_files import ray_cluster, ray_job
from glotok_ray.on_ray.clusters.launcher_files import launcher_file

_HEADER = """\
# {what}
# Written by `python -m jobs.write_cluster` from description.yaml: change that file, not this one. Replace what begins
# with YOUR- there. `python -m jobs.check_cluster cluster/{name}` checks the result; docs/cluster.md has the commands.
"""
_COMMENTS = {
    "max_workers": "Nodes besides the head, over all groups.",
    "idle_timeout_minutes": "Longer than a node takes to start, or nodes would end before their first task.",
    "provider": "No node has a public address: call `ray up` from within their network (VPN or jump host).",
    "docker": "Tags name Ray's version and Python's, which must be those of your machine. Object store and torch's "
    "collectives live in shared memory.",
    "available_node_types": "The head runs no tasks: it holds the cluster's state and the drivers of submitted jobs.",
    "file_mounts": "The token that every node and client must share. Code comes with each job: "
    "`ray job submit --working-dir .`",
    "head_start_ray_commands": "The dashboard and the job server listen on the head's loopback alone; "
    "`ray dashboard` brings them to you.",
}


def cluster_files(description: Description) -> dict[str, str]:
    """The text of every file, by its name."""
    files = {}
    for cloud in CLOUDS:
        name = f"{cloud}.yaml"
        head = _HEADER.format(what=f"A GloTok cluster on {cloud.upper()} for `ray up`.", name=name)
        files[name] = head + _commented(launcher_file(cloud, description))
    for name, what, objects in (
        ("raycluster.yaml", "A GloTok cluster for KubeRay 1.5.1 or newer.", ray_cluster),
        ("rayjob.yaml", "One GloTok job with a cluster of its own, for KubeRay.", ray_job),
    ):
        head = _HEADER.format(what=what, name=name)
        files[name] = head + "---\n".join(_dump(item) for item in objects(description))
    return files | {"grafana.json": dashboard()}


def _commented(content: dict[str, Any]) -> str:
    parts = []
    for key, value in content.items():
        lines = textwrap.wrap(_COMMENTS.get(key, ""), 116)
        parts.append("".join(f"# {line}\n" for line in lines) + _dump({key: value}))
    return "".join(parts)


class _Dumper(yaml.SafeDumper):
    """Writes a value again in place of an alias, which readers of YAML stumble over."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=116)
