"""The short form of benchmarks.autoscaling_drill: nodes come for a training, one is killed and replaced, all go."""

import json
import subprocess
import sys

import pytest

from benchmarks.autoscaling_drill import CLUSTER_FILE
from benchmarks.drill_runs import ROOT
from benchmarks.fake_cloud import scaled_down


def test_node_types_are_those_of_the_shipped_file() -> None:
    found = scaled_down(CLUSTER_FILE, most_nodes=2, idle_s=30)
    types = found["available_node_types"]
    assert set(types) == {"ray.head.default", "ingest", "gpu_spot", "gpu_on_demand"}
    assert [types[name]["max_workers"] for name in types] == [0, 0, 2, 2]
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]
    assert types["gpu_spot"]["labels"] == {"glotok-group": "gpu_spot"}
    assert types["gpu_spot"]["resources"]["CPU"] == 1
    assert found["idle_timeout_minutes"] == 0.5


@pytest.mark.ray
@pytest.mark.slow
def test_a_training_brings_nodes_outlives_one_and_lets_them_go() -> None:
    # In a process of its own: Ray reads a cluster's token once.
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.autoscaling_drill", "--only", "kill", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    figures = json.loads(ended.stdout)["figures"]
    nodes = [count for _, _, count in figures["story"]]
    assert nodes[0] == nodes[-1] == 0
    assert max(nodes) == 2
    assert figures["restarts"]
