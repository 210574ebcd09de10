"""The files under cluster/ are what their description gives and pass their check; hand-broken copies are told apart."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from glotok_ray.config import ScalingConfig
from glotok_ray.on_ray.clusters.description import read_description
from glotok_ray.on_ray.clusters.written import cluster_files
from glotok_ray.on_ray.preflight import placeholders, validate_cluster
from glotok_ray.recipes import train_tokenizer
from jobs import write_cluster

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
FILES = ("aws.yaml", "gcp.yaml", "azure.yaml", "raycluster.yaml", "rayjob.yaml")
SCALING = train_tokenizer.RECIPES["glotok_16k"]().scaling
Edit = Callable[[dict[str, Any]], None]
GPU, INGEST = "available_node_types.gpu_spot", "available_node_types.ingest"
HEAD, WORKER = "head_start_ray_commands.1", "worker_start_ray_commands.1"


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where `ray up` looks for what is mounted


def _place(content: Any, path: str) -> tuple[Any, Any]:
    *parents, last = path.split(".")
    for name in parents:
        content = content[int(name) if name.isdigit() else name]
    return content, int(last) if last.isdigit() else last


def put(path: str, value: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        inner, key = _place(content, path)
        inner[key] = value

    return edit


def drop(path: str) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        inner, key = _place(content, path)
        del inner[key]

    return edit


def replace(path: str, old: str, new: str) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        inner, key = _place(content, path)
        assert old in inner[key]
        inner[key] = inner[key].replace(old, new)

    return edit


def both(*edits: Edit) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for item in edits:
            item(content)

    return edit


def rename(path: str, new: str) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        inner, key = _place(content, path)
        inner[new] = inner.pop(key)

    return edit


def no_spare_cpus(content: dict[str, Any]) -> None:
    """Workers on all GPUs take the 64 CPUs of their nodes, and there is no other group."""
    del content["available_node_types"]["ingest"]
    del content["available_node_types"]["gpu_on_demand"]
    content["available_node_types"]["gpu_spot"]["resources"]["CPU"] = 64
    content["available_node_types"]["gpu_spot"]["max_workers"] = 1


ROOT_VARIABLE = "GLOTOK_STORAGE_ROOT=s3://YOUR-BUCKET/glotok "
BROKEN: list[tuple[str, Edit, str]] = [
    # where
    ("aws", put("provider.region", "us-wset-2"), "region = 'us-wset-2': is none of the regions"),
    ("aws", put("provider.availability_zone", "us-east-1a"), "us-east-1a: is no zone of us-west-2"),
    ("gcp", put("provider.region", "us-middle1"), "region = 'us-middle1': is none of"),
    ("gcp", put("provider.availability_zone", "us-central1-z"), "is no zone of us-central1"),
    ("azure", put("provider.location", "westus9"), "location = 'westus9': is none of the regions"),
    ("azure", put("provider.availability_zone", "1,7"), "availability_zone = 7: is no zone"),
    # machines and what they have
    ("aws", put(f"{INGEST}.node_config.InstanceType", "m7i.9xlarge"), "near it: m7i.8xlarge"),
    ("gcp", put(f"{INGEST}.node_config.machineType", "n2-standard-31"), "is no machine type"),
    (
        "azure",
        put(f"{INGEST}.node_config.azure_arm_parameters.vmSize", "Standard_D33s_v5"),
        "azure_arm_parameters.vmSize = 'Standard_D33s_v5': is no machine type",
    ),
    ("aws", put(f"{GPU}.resources.GPU", 16), "resources.GPU = 16: p4de.24xlarge has 8"),
    ("aws", put(f"{INGEST}.resources.CPU", 64), "resources.CPU = 64: m7i.8xlarge has 32"),
    (
        "azure",
        put(f"{GPU}.resources", {"CPU": 96}),
        "resources.GPU = 0: Standard_ND96amsr_A100_v4 has 8",
    ),
    (
        "gcp",
        both(
            put(f"{GPU}.node_config.machineType", "n2-standard-64"),
            put(f"{GPU}.resources.CPU", 64),
        ),
        "resources.GPU = 8: n2-standard-64 has 0",
    ),
    (
        "aws",
        put("available_node_types.head.node_config.InstanceType", "p3.16xlarge"),
        "p3.16xlarge has GPUs, which the head does not use",
    ),
    # typos
    ("aws", rename(f"{GPU}.node_config.ImageId", "ImagId"), "ImagId: aws reads no such key; did"),
    (
        "aws",
        rename(f"{GPU}.node_config.InstanceMarketOptions.MarketType", "MarketTyp"),
        "InstanceMarketOptions.MarketTyp: aws reads no such key; did you mean MarketType?",
    ),
    ("gcp", rename(f"{GPU}.node_config.scheduling", "schedulings"), "did you mean scheduling?"),
    (
        "azure",
        rename(f"{GPU}.node_config.azure_arm_parameters.priority", "priorty"),
        "azure_arm_parameters.priorty: azure reads no such key; did you mean priority?",
    ),
    # images, and what is in them
    (
        "aws",
        put(f"{GPU}.docker.worker_image", "YOUR-REGISTRY/glotok:2.60.0-py311-cpu"),
        "whose tag names no CUDA",
    ),
    ("gcp", put(f"{GPU}.docker.worker_run_options", []), "lacks --gpus=all"),
    (
        "aws",
        put("docker.image", "rayproject/ray:2.60.0-py311-cpu"),
        "setup_commands: nothing installs this package",
    ),
    ("aws", put("file_mounts./home/ray/x", "not/there"), "x = not/there: there is no such file"),
    # starting
    (
        "aws",
        both(replace(HEAD, ROOT_VARIABLE, ""), replace(WORKER, ROOT_VARIABLE, "")),
        "no shared storage",
    ),
    (
        "gcp",
        replace(HEAD, "--autoscaling-config=~/ray_bootstrap_config.yaml ", ""),
        "lacks --autoscaling-config",
    ),
    ("aws", replace(WORKER, ":6379", ":6380"), "calls the head's port 6380"),
    ("azure", replace(HEAD, "--port=6379", "--port=6378"), "listens on 6378"),
    ("aws", replace(WORKER, "8076", "8077"), "--object-manager-port is 8077"),
    (
        "aws",
        replace(HEAD, "ray start", "ray start --node-ip-address=0.0.0.0"),
        "--node-ip-address=0.0.0.0 is no address",
    ),
    # times, disks, room
    ("aws", put("idle_timeout_minutes", 0.5), "idle_timeout_minutes = 0.5: shorter"),
    ("aws", put(f"{GPU}.idle_timeout_s", 30), "gpu_spot.idle_timeout_s = 30: shorter"),
    (
        "aws",
        put(f"{GPU}.node_config.BlockDeviceMappings.0.Ebs.VolumeSize", 20),
        "its disk has 20 GB",
    ),
    ("gcp", drop(f"{INGEST}.node_config.disks"), "its disk has the cloud's default"),
    ("aws", no_spare_cpus, "0 CPUs are left, and decoding for 8 workers takes 4"),
    (
        "aws",
        put("available_node_types.head.node_config.InstanceType", "m5.large"),
        "'m5.large': is no machine type",
    ),
    # who reaches it
    (
        "aws",
        put(
            "provider.security_group",
            {
                "IpPermissions": [
                    {
                        "FromPort": 8265,
                        "ToPort": 8265,
                        "IpProtocol": "tcp",
                        "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
                    }
                ]
            },
        ),
        "lets 0.0.0.0/0 reach ports 8265 to 8265",
    ),
    ("aws", drop(f"{INGEST}.node_config.SecurityGroupIds"), "lets everyone reach SSH"),
    ("azure", put("provider.use_internal_ips", False), "SSH is open to everyone"),
    (
        "gcp",
        put(
            f"{INGEST}.node_config.networkInterfaces.0.accessConfigs", [{"type": "ONE_TO_ONE_NAT"}]
        ),
        "gives the node a public address",
    ),
    # what nodes may do
    (
        "aws",
        drop(f"{GPU}.node_config.IamInstanceProfile"),
        "gpu_spot.node_config.IamInstanceProfile: is not set",
    ),
    ("gcp", drop(f"{INGEST}.node_config.serviceAccounts"), "could not read the storage root"),
    # KubeRay
    ("raycluster", put("spec.headGroupSpec.serviceType", "LoadBalancer"), "opens Ray's ports"),
    ("raycluster", drop("spec.authOptions"), "authOptions.mode: must be token"),
    ("raycluster", rename("spec.workerGroupSpecs", "workerGroupSpec"), "'workerGroupSpec' was"),
    (
        "raycluster",
        put("spec.workerGroupSpecs.0.minReplicas", 9),
        "ingest.minReplicas = 9: exceeds",
    ),
    (
        "raycluster",
        put("spec.workerGroupSpecs.2.template.spec.restartPolicy", "Always"),
        "gpu-spot.restartPolicy: must be Never",
    ),
    (
        "raycluster",
        put("spec.workerGroupSpecs.1.template.spec.containers.0.image", "g:2.60.0-py311-cpu"),
        "gpu-on-demand.image = g:2.60.0-py311-cpu: its tag names no CUDA",
    ),
    ("raycluster", put("spec.autoscalerOptions.version", "v1"), "version: must be v2"),
    (
        "raycluster",
        put("spec.autoscalerOptions.idleTimeoutSeconds", 20),
        "idleTimeoutSeconds = 20: shorter",
    ),
    ("raycluster", put("spec.rayVersion", "2.59.0"), "rayVersion = 2.59.0"),
    ("rayjob", drop("spec.entrypoint"), "'entrypoint' is a required property"),
    ("rayjob", rename("spec.shutdownAfterJobFinishes", "shutdownAfterJob"), "shutdownAfterJob"),
]


@pytest.mark.parametrize("name", [*FILES, "grafana.json"])
def test_a_shipped_file_is_what_the_description_gives(name: str) -> None:
    text = cluster_files(read_description(FOLDER / "description.yaml"))[name]
    assert text == (FOLDER / name).read_text(), "run `python -m jobs.write_cluster`"


def test_the_job_writes_all_of_them(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "description.yaml", tmp_path)
    assert write_cluster.main(["--description", str(tmp_path / "description.yaml")]) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {*FILES, "grafana.json", "description.yaml"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("gpu_spots", {"most": 1, "disk_gb": 500}), "has no field 'gpu_spots'"),
        (drop("aws.region"), "region"),
    ],
)
def test_a_wrong_description_is_bad_input(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, edit: Edit, message: str
) -> None:
    content = yaml.safe_load((FOLDER / "description.yaml").read_text())
    edit(content)
    path = tmp_path / "description.yaml"
    path.write_text(yaml.safe_dump(content))
    assert write_cluster.main(["--description", str(path)]) == 2
    assert str(path) in caplog.messages[0]
    assert message in caplog.messages[0]


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_passes_its_check_and_holds_a_large_run(name: str) -> None:
    assert validate_cluster(FOLDER / name, SCALING) == []
    assert validate_cluster(FOLDER / name, ScalingConfig(num_workers=64)) == []
    assert placeholders(FOLDER / name)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    BROKEN,
    ids=[f"{name}-{place}" for place, (name, _, _) in enumerate(BROKEN)],
)
def test_a_broken_copy_is_told_in_one_line(
    tmp_path: Path, name: str, edit: Edit, message: str
) -> None:
    documents = list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))
    edit(documents[0])
    copy = tmp_path / f"{name}.yaml"
    copy.write_text(yaml.safe_dump_all(documents))
    problems = validate_cluster(copy, SCALING)
    assert len(problems) == 1, problems
    assert message in problems[0]
    assert problems[0].startswith(f"{copy}: ")
    assert "\n" not in problems[0]
