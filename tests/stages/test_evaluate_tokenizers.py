"""Tokenizers of several systems on the same crops: the table, the grid, and what is refused before anything starts."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glotok_ray.config.tokenizer_comparison import EvaluateTokenizersRun
from glotok_ray.data.pixel_range import to_model_range, to_uint8
from glotok_ray.data.records import read_dataset
from glotok_ray.evaluation.psnr_protocols import own_psnr
from glotok_ray.evaluation.tokenizer_comparison import RealCrops
from glotok_ray.metrics.reconstruction import psnr
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.peer_tokenizers import write_peer
from glotok_ray.pretrained.tokenizer import load_tokenizer
from glotok_ray.stages import evaluate_tokenizers as stage
from glotok_ray.storage import artefact
from jobs import evaluate_tokenizers, report_results
from tests.evaluation.tiny_inputs import recorded_precisions
from tests.peers.small_systems import SMALL, small_model
from tests.small_data import write_shards
from tests.small_models import NO_RESIDUAL, tiny_tokenizer

PEERS = ("ibq_16384", "open_magvit2_256", "rq_vae", "vqgan_lc_100k")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Shards, a tokenizer of ours, and one of each of four systems."""
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "shards")
    torch.manual_seed(0)
    config = tiny_tokenizer(channel_multipliers=(1, 1), residual=NO_RESIDUAL)
    GloTokTokenizer(config).save_pretrained("ours", source="imported (llamagen names, ...)")
    for name in PEERS:
        write_peer(Path(name), small_model(name, monkeypatch), SMALL[name][0], {"released": name})
    made = ["ours", *PEERS]
    for name in made:
        artefact.write_manifest(Path(name), "tokenizer")
    return made


def arguments(folders: list[str], *more: str) -> list[str]:
    return [
        *folders,
        *("--data-path", "shards", "--output-path", "out", "--no-use-gpu", "--num-images", "10"),
        *("--batch-size", "4", "--feature-size", "32", "--shown-images", "2", *more),
    ]


def test_all_systems_come_into_one_table_and_one_grid(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_tokenizers.main(arguments(folders, "--dry-run")) == 0
    assert json.loads(capsys.readouterr().out)["tokenizers"]["rq_vae"]["indices"] == 4
    assert not Path("out").exists()
    with recorded_precisions() as precisions:
        assert evaluate_tokenizers.main(arguments(folders)) == 0
    assert precisions == {"ieee"}  # as the protocol says
    with Path("out/table.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == folders
    for row in rows.values():
        assert float(row["psnr"]) > 0
        assert float(row["frechet_effnet"]) > 0
        assert float(row["encode_images_per_second"]) > 0
    assert rows["ibq_16384"]["published_rfid"] == "1.5"
    assert [float(rows["ibq_16384"][name]) for name in ("indices", "bits")] == [4, 4 * 5]
    text = Path("out/table.md").read_text()
    assert "the same 10 validation images" in text
    assert "| rq_vae | 32 | 4 | 20 |" in text
    assert "IBQ: the rFIDs of 1.37 and 1.00 agree" in text
    assert "LlamaGen: 2.19 / 20.7 agrees" in text
    assert Image.open("out/reconstructions.png").height > 6 * 96
    metrics = artefact.read_json(Path("out/metrics.json"))
    assert set(metrics) == set(folders)
    assert report_results.main(["out", "--output-path", "report"]) == 0
    assert "| rq_vae | 32 | 4 | 20 |" in Path("report/tables.md").read_text()
    page = Path("report/index.html").read_text()
    assert "<h2>Tokenizers, out: all under one protocol</h2>" in page
    assert page.count("<th>rq_vae</th>") == 1
    assert page.count('alt="rq_vae"') == 2


def test_a_killed_comparison_goes_on_with_the_next_tokenizer(
    folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, begun = stage.measure_tokenizer, []

    def once_killed(*given: Any, **named: Any) -> Any:
        begun.append(given)
        if len(begun) == 2:
            raise RuntimeError("killed")
        return measure(*given, **named)

    monkeypatch.setattr(stage, "measure_tokenizer", once_killed)
    two = arguments(["ours", "rq_vae"])
    assert evaluate_tokenizers.main(two) == 1
    assert evaluate_tokenizers.main(two) == 0
    assert evaluate_tokenizers.main(two) == 0
    assert len(begun) == 3
    assert set(artefact.read_json(Path("out/metrics.json"))) == {"ours", "rq_vae"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--image-size", "24"], "image_size = 24: ibq_16384 takes multiples of 16"),
        (["--image-size", "128"], "stored at 64 pixels"),
        (["--image-size", "128"], "or pass --image-size 64, which all of these tokenizers take"),
        (["--num-images", "99"], "num_images = 99: shards holds 36 images"),
        (
            ["--num-images", "1"],
            "num_images = 1: of shards 1 image is taken; Frechet distances need",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_start(
    folders: list[str], more: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert evaluate_tokenizers.main(arguments(folders[1:2], *more)) == 2
    assert message in caplog.text.replace(f"{Path.cwd()}/", "")
    assert not Path("out").exists()


def test_psnr_by_the_authors_protocols() -> None:
    images = np.full((1, 2, 2, 3), 100, np.uint8)
    decoded = torch.full((1, 3, 2, 2), 102.75 / 127.5 - 1)
    expected = {"rounded": 3.0, "truncated": 2.0, "unrounded": 2.75}
    for protocol, error in expected.items():
        found = own_psnr(images, decoded, protocol)  # type: ignore[arg-type]
        assert found[0] == pytest.approx(20 * np.log10(255 / error), abs=1e-3)
    luminance = own_psnr(images, decoded, "luminance")
    assert luminance[0] == pytest.approx(20 * np.log10(255 / (2.75 * 219 / 255)), abs=1e-3)
    assert own_psnr(images, decoded, "rounded") == psnr(images, images + 3)


def test_own_crops_are_measured_beside_the_common_ones(folders: list[str]) -> None:
    """The shards hold images of 64 pixels, which the systems' small tokenizers take at 32."""
    assert evaluate_tokenizers.main(arguments(["vqgan_lc_100k", "rq_vae", "ours"])) == 0
    with Path("out/table.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert [row["crop_protocol"] for row in rows.values()] == ["plain_bilinear", "bilinear", "adm"]
    config = EvaluateTokenizersRun(
        tokenizer_paths=("rq_vae",), data_path="shards", num_images=10, batch_size=4
    )
    crops = RealCrops(config, read_dataset(Path("shards")), [])
    model = load_tokenizer(Path("rq_vae"))
    side = model.image_size
    scores = [
        psnr(images, to_uint8(model.reconstruct(to_model_range(images, torch.device("cpu")))))
        for images in crops.batches(side, "bilinear")
    ]
    expected = np.concatenate(scores).mean()
    assert float(rows["rq_vae"]["own_psnr"]) == pytest.approx(expected, abs=1e-3)
    assert abs(float(rows["rq_vae"]["psnr"]) - expected) > 1e-3
    assert rows["ours"]["own_psnr"] == rows["ours"]["psnr"]
    assert "Resize (bilinear with antialiasing, 8-bit)" in Path("out/table.md").read_text()
    assert crops.is_stored(64)
    assert not crops.is_stored(32)
