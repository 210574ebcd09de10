"""A description that cannot be read or is wrong is bad input, told in one line, and nothing is written for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from glotok_ray.on_ray.clusters.description import read_description
from glotok_ray.on_ray.clusters.written import cluster_files
from jobs import write_cluster

SHIPPED = Path(__file__).parents[2] / "cluster" / "description.yaml"


def written(path: Path, **changes: Any) -> Path:
    """The shipped description with fields replaced; "aws__zones" is zones of aws."""
    content = yaml.safe_load(SHIPPED.read_text())
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        (content[section] if section else content)[field] = value
    path.write_text(yaml.safe_dump(content))
    return path


def refused(path: Path, caplog: pytest.LogCaptureFixture) -> str:
    output = path.parent / "out"
    assert write_cluster.main(["--description", str(path), "--output", str(output)]) == 2
    assert not output.exists()
    (message,) = caplog.messages
    assert message.startswith(f"write_cluster: {path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "cannot be read (No such file or directory); correct the path"),
        (lambda path: path.mkdir(), "cannot be read (Is a directory); correct the path"),
        (lambda path: path.write_text("name: ["), "is not YAML (while parsing a flow"),
        (lambda path: path.write_bytes(b"name: \xff"), "is not YAML ("),
    ],
)
def test_a_file_that_cannot_be_read_is_bad_input(
    make: Callable[[Path], Any], text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "mine.yaml")
    assert text in refused(tmp_path / "mine.yaml", caplog)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"aws__gpu": "p4d.24xlrge"}, "aws.gpu = 'p4d.24xlrge': is no machine type that"),
        ({"aws__gpu": "p4d.24xlrge"}, "knows of aws; near it: p4d.24xlarge"),
        ({"gcp__ingest": "n9"}, "gcp.ingest = 'n9': is no machine type that"),
        ({"azure__head": "n9"}, "azure.head = 'n9': is no machine type that"),
        ({"gpu_spot__most": "8"}, "gpu_spot.most = '8': must be a whole number, without quotes"),
        ({"ingest__most": True}, "ingest.most = True: must be a whole number"),
        ({"aws__zones": "us-west-2a"}, "aws.zones = 'us-west-2a': must be a list"),
        ({"azure__zones": [1, 2]}, "azure.zones.0 = 1: must be text, in quotes"),
        ({"gcp__zones": []}, "gcp.zones = (): must hold at least one"),
        ({"ray": 2.6}, "ray = 2.6: must be text, in quotes"),
        ({"gpu_spot": 8}, "gpu_spot = 8: must be a mapping of fields"),
        ({"kubernetes__gpu_node_label": "gpu"}, "gpu_node_label = 'gpu': must be written label="),
    ],
)
def test_a_wrong_field_is_bad_input(
    changes: dict[str, Any], text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert text in refused(written(tmp_path / "mine.yaml", **changes), caplog)


def test_the_machine_of_a_group_without_nodes_may_be_any(tmp_path: Path) -> None:
    changes = {"aws__gpu": "", "kubernetes__gpu_node_label": "", "kubernetes__spot_node_label": ""}
    path = written(tmp_path / "mine.yaml", gpu_spot__most=0, gpu_on_demand__most=0, **changes)
    assert "aws.yaml" in cluster_files(read_description(path))


def test_an_output_that_is_a_file_is_bad_input(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").touch()
    for output in (tmp_path / "out", tmp_path / "out" / "inner"):
        caplog.clear()
        arguments = ["--description", str(SHIPPED), "--output", str(output)]
        assert write_cluster.main(arguments) == 2
        assert f"--output {output}: " in caplog.messages[0]
