"""The node types of the autoscaling drill."""

from benchmarks.autoscaling_drill import CLUSTER_FILE
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
