"""A tokenizer of another system through the jobs: its codes, its evaluation, and the report of both."""

from pathlib import Path

import numpy as np
import pytest

from glotok_ray.data.records import read_dataset
from glotok_ray.storage import artefact
from jobs import encode_images, evaluate_images, report_results, verify
from tests.peers.peer_folders import write_peer_folder
from tests.small_data import write_shards

SCALES = ("scale_1x1", "scale_2x2")
POOL = (
    *("--pool.num-actors", "1", "--pool.cpus-per-actor", "0.5"),
    *("--pool.threads-per-actor", "1", "--pool.batch-size", "8"),
)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_codes_metrics_and_scales_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "shards")
    write_peer_folder(tmp_path / "var", "var_256")
    common = ("--data-path", "shards", "--tokenizer-path", "var", *POOL)
    encode = ["quickstart", *common, "--views", "center_flip", "--output-path", "codes"]
    assert encode_images.main(encode) == 0
    info = read_dataset(Path("codes"), verify=True)
    assert (info.system, info.num_views, tuple(info.code_counts)) == ("var", 2, SCALES)
    assert verify.main(["codes"]) == 0
    nothing = [part for name in ("samples", "codes", "training") for part in (f"--{name}-path", "")]
    evaluate = ["quickstart", *common, *nothing, "--generator-path", "", "--feature-size", "32"]
    assert evaluate_images.main([*evaluate, "--output-path", "evaluation"]) == 0
    metrics = artefact.read_json(Path("evaluation/metrics.json"))
    for name in SCALES:
        with np.load("evaluation/code_counts.npz") as counts:
            used = np.count_nonzero(counts[name])
        assert metrics[f"{name}_usage"]["value"] == used / 32
        assert metrics[f"retention_{name}_psnr"]["value"] > 0
        assert (
            "of other scales or branches, are set to 0"
            in (metrics[f"retention_{name}_psnr"]["protocol"])
        )
        assert "tokenizer_sha256" in metrics[f"{name}_perplexity"]["facts"]
    assert "decoded from codes by its own decoder" in metrics["reconstruction_psnr"]["protocol"]
    assert not any("residual" in entry["protocol"] for entry in metrics.values())
    with np.load("evaluation/retention.npz") as kept:
        assert set(kept.files) == {"inputs", "both", *SCALES}
    assert report_results.main(["evaluation", "--output-path", "report"]) == 0
    assert "var" in Path("report/tables.md").read_text()
