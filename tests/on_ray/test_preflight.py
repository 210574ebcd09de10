"""cluster/aws.yaml passes Ray's schema and our rules; each broken copy is refused with its own message.

The other files, and more broken copies: test_cluster_files.py."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from glotok_ray.config import ScalingConfig
from glotok_ray.on_ray import cluster, preflight, tune
from glotok_ray.on_ray.preflight import validate_cluster
from jobs import check_cluster

ROOT = Path(__file__).parents[2]
AWS = ROOT / "cluster" / "aws.yaml"


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *parents, last = path.split(".")

    def edit(config: dict[str, Any]) -> None:
        for name in parents:
            config = config[name]
        config[last] = value

    return edit


BROKEN = [
    # Ray's own schema and rules
    (_set("max_worker", 8), "'max_worker' was unexpected"),
    (
        _set("available_node_types.gpu_spot.resources.GPU", 0.5),
        "available_node_types.gpu_spot.resources.GPU: 0.5",
    ),
    (_set("head_node_type", "haed"), "`head_node_type` must be one of"),
    (_set("provider.type", "awss"), "Unsupported node provider: awss"),
    (_set("docker.imagee", "x"), "'imagee' was unexpected"),
    # what Ray accepts and should not
    (
        _set("available_node_types.ingest.min_workers", 5),
        "ingest.min_workers = 5: exceeds max_workers = 4",
    ),
    (_set("available_node_types.ingest.max_workers", -1), "must not be negative"),
    (_set("available_node_types.ingest.max_workers", 15), "exceeds the cluster's max_workers = 14"),
    (_set("provider.regions", "us-west-2"), "provider.regions: Ray reads no such key of aws"),
    (
        _set("available_node_types.head.node_config.InstanceMarketOptions", {"MarketType": "spot"}),
        "the head is a spot instance",
    ),
    (_set("available_node_types.head.resources.CPU", 8), "head.resources.CPU = 8: set 0"),
    (
        _set("docker.image", "YOUR-REGISTRY/glotok:2.59.0-py311-cpu"),
        "docker.image = YOUR-REGISTRY/glotok:2.59.0",
    ),
    (
        _set("docker.image", "YOUR-REGISTRY/glotok:latest"),
        "its tag must start with the installed Ray version",
    ),
    (_set("docker.image", "YOUR-REGISTRY/glotok:2.60.0-py39-cpu"), "has another Python"),
    (
        _set("available_node_types.gpu_spot.docker.worker_image", "glotok:2.61.0-py311-gpu"),
        "gpu_spot.docker.worker_image",
    ),
    (
        _set(
            "worker_start_ray_commands",
            ["ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076"],
        ),
        "worker_start_ray_commands: must",
    ),
    (
        _set(
            "head_start_ray_commands",
            [
                "RAY_AUTH_MODE=token GLOTOK_STORAGE_ROOT=s3://b/g ray start --head --port=6379 "
                "--object-manager-port=8076 --autoscaling-config=f --dashboard-host=0.0.0.0"
            ],
        ),
        "--dashboard-host is 0.0.0.0",
    ),
    (_set("file_mounts", {}), "does not bring ~/.ray/auth_token"),
    (_set("idle_timeout_minutes", 2), "idle_timeout_minutes = 2"),
]


def test_the_shipped_file_has_no_problem() -> None:
    assert validate_cluster(AWS, ScalingConfig(num_workers=32)) == []


@pytest.mark.parametrize(("edit", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_broken_copy_is_refused_with_its_reason(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    config = yaml.safe_load(AWS.read_text())
    edit(config)
    copy = tmp_path / "broken.yaml"
    copy.write_text(yaml.safe_dump(config))
    problems = validate_cluster(copy)
    assert len(problems) == 1
    assert message in problems[0]
    assert str(copy) in problems[0]


def test_workers_that_no_group_can_hold_are_counted(tmp_path: Path) -> None:
    assert (
        "80 of the 88 workers (1 GPU and 8 CPUs each)"
        in validate_cluster(AWS, ScalingConfig(num_workers=88))[0]
    )
    config = yaml.safe_load(AWS.read_text())
    for name in ("gpu_on_demand", "gpu_spot"):
        del config["available_node_types"][name]
    copy = tmp_path / "cpu_only.yaml"
    copy.write_text(yaml.safe_dump(config))
    assert "hold 0 of the 8 workers" in validate_cluster(copy, ScalingConfig(num_workers=8))[0]
    assert validate_cluster(copy, ScalingConfig(num_workers=8, use_gpu=False)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not YAML"), ("- 1\n", "holds no mapping")],
    ids=["broken", "list"],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    assert message in validate_cluster(path)[0]


def test_a_missing_file_ends_the_job_with_a_nonzero_code(tmp_path: Path) -> None:
    assert check_cluster.main([str(tmp_path / "none.yaml")]) == 2
    assert check_cluster.main([str(AWS)]) == 0


STATE_API = """
import ray
from glotok_ray.on_ray import tune
ray.init(address="local", num_cpus=1, include_dashboard={dashboard}, log_to_driver=False, logging_level="ERROR")
try:
    tune.connect()
    print("answers")
except RuntimeError as error:
    print("refused:", error)
"""


def test_no_trial_starts_where_the_state_api_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise RuntimeError("the cluster's State API does not answer")

    monkeypatch.setattr(preflight, "check_state_api", refused)
    monkeypatch.setattr(cluster, "connect", lambda *, state_api: None)
    trials = tune.run_trials(["a"], dict, folder=tmp_path, max_concurrent=1, describe=str)
    with pytest.raises(RuntimeError, match="State API does not answer"):
        next(trials)
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.parametrize(
    ("dashboard", "answer"), [(True, "answers"), (False, "refused: the cluster's State API")]
)
def test_the_state_api_answers_only_beside_a_dashboard(dashboard: bool, answer: str) -> None:
    script = STATE_API.format(dashboard=dashboard)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer in done.stdout, done.stdout + done.stderr[-2000:]
