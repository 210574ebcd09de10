"""The probe of an evaluation: which codes it is fitted on, what its entries say, and where there are none."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from glotok_ray.config import EvaluateRun
from glotok_ray.data.records import DatasetInfo, ShardInfo
from glotok_ray.evaluation import probe_metrics as probe_module
from glotok_ray.evaluation.extractors import build_extractors
from glotok_ray.evaluation.features import EfficientNetLite0Features
from glotok_ray.evaluation.inputs import takes_training_codes
from glotok_ray.evaluation.measure import BlockMeasurement
from glotok_ray.evaluation.plan import plan
from glotok_ray.evaluation.probe_metrics import (
    LabelledCodes,
    chosen_images,
    codebook_probes,
    probe_metrics,
    stored_training_codes,
)
from glotok_ray.stages import evaluate_images, image_measurement
from glotok_ray.storage import artefact
from tests.evaluation.stored_parts import in_parts
from tests.evaluation.tiny_inputs import settings, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("probe"))


def test_stored_codes_are_the_first_views_of_images_drawn_by_the_seed(
    inputs: Path, tmp_path: Path
) -> None:
    """Two shards of five images with two views, whose codes are the row's number."""
    folder = tmp_path / "codes"
    folder.mkdir()
    shards = []
    for number in range(2):
        rows = np.arange(10) + 10 * number
        lists = pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(np.repeat(rows, 16).astype(np.uint16)), 16
        )
        columns = {"label": rows // 2 % 2, "visual": lists, "semantic": lists}
        name = f"part-{number:05d}.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
        shards.append({"file": name, "rows": 10, "sha256": "unchecked"})
    facts = artefact.read_json(inputs / "codes" / "dataset.json")
    facts |= {"num_images": 10, "num_views": 2, "shards": shards}
    artefact.write_json(folder / "dataset.json", facts)
    artefact.write_manifest(folder, "codes")
    config = settings(inputs, tmp_path / "out", codes_path=str(folder))
    found = stored_training_codes(config, ["visual", "semantic"])
    rows = np.concatenate(list(found.codes["semantic"]))
    np.testing.assert_array_equal(rows, np.repeat(np.arange(0, 20, 2), 16).reshape(10, 16))
    np.testing.assert_array_equal(found.labels, np.arange(10) % 2)
    few = dataclasses.replace(config, probe_images=4)
    drawn = stored_training_codes(few, ["visual"])
    chosen = chosen_images(10, few)
    assert (len(chosen), len(np.unique(chosen))) == (4, 4)
    np.testing.assert_array_equal(np.concatenate(list(drawn.codes["visual"]))[:, 0], 2 * chosen)
    np.testing.assert_array_equal(drawn.labels, chosen % 2)


def test_training_crops_are_encoded_where_there_are_no_codes(inputs: Path, tmp_path: Path) -> None:
    config = settings(inputs, tmp_path, codes_path="", generator_path="")
    assert takes_training_codes(config)
    blocks, image_size = plan(config)
    measure = BlockMeasurement(
        config, build_extractors(config, torch.device("cpu")), image_size=image_size
    )
    measured = in_parts(blocks, measure, tmp_path)
    found = probe_metrics(measured, config, 2)
    assert list(found) == [
        "probe_visual",
        "probe_visual_histogram",
        "probe_semantic",
        "probe_semantic_histogram",
    ]
    entry = found["probe_semantic"]
    assert 0 <= entry["value"] <= 1
    # Six of the eleven crops are of the first class.
    assert entry["chance"] == pytest.approx(6 / 11)
    assert (
        "naming the most frequent class of these validation crops gives 0.5455" in entry["protocol"]
    )
    assert entry["facts"]["reference_images"] == 11
    assert "fitted on 11 training crops" in entry["protocol"]
    for changes in ({"probe_images": 0}, {"training_path": ""}, {"tokenizer_path": ""}):
        other = dataclasses.replace(config, **changes)
        assert not takes_training_codes(other)
    without = {kind: images for kind, images in measured.items() if kind != "training"}
    assert probe_metrics(without, config, 2) == {}
    assert probe_metrics(measured, dataclasses.replace(config, probe_images=0), 2) == {}


def test_reconstructions_alone_have_a_probe(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    compute = EfficientNetLite0Features.__call__
    monkeypatch.setattr(
        EfficientNetLite0Features,
        "__call__",
        lambda network, images: seen.append(len(images)) or compute(network, images),
    )
    monkeypatch.setattr(
        image_measurement,
        "map_shards",
        lambda units, actor, arguments, pool, **_: map(actor(**arguments), units),
    )
    monkeypatch.setattr(
        evaluate_images, "run_at_once", lambda draw, draws: [draw(one) for one in draws]
    )
    config = settings(
        inputs,
        tmp_path / "out",
        samples_path="",
        codes_path="",
        generator_path="",
        probe_images=5,
        statistics_path=str(tmp_path / "statistics"),
    )
    evaluate_images.run(config)
    # Validation crops and their reconstructions: of training crops the codes alone are taken, of as many as are fitted.
    assert sum(seen) == 11 + 11
    metrics = artefact.read_json(tmp_path / "out" / "metrics.json")
    assert "fitted on 5 training crops" in metrics["probe_semantic"]["protocol"]
    assert not any("training" in name or name.startswith("samples") for name in metrics)
    without = dataclasses.replace(config, output_path=str(tmp_path / "other"), training_path="")
    evaluate_images.run(without)
    others = artefact.read_json(tmp_path / "other" / "metrics.json")
    assert others == {name: metrics[name] for name in others}
    assert {name for name in metrics if name not in others} == {
        f"probe_{name}{kind}" for name in ("visual", "semantic") for kind in ("", "_histogram")
    }


def probes(num_classes: int, labels: np.ndarray) -> dict:
    codes = np.random.default_rng(0).integers(16, size=(20, 4)).astype(np.uint16)
    found = LabelledCodes({"visual": [codes]}, labels)
    vectors = np.random.default_rng(1).normal(size=(16, 3))
    return codebook_probes(
        "visual", vectors, found, found, num_classes=num_classes, config=EvaluateRun()
    )


def test_what_cannot_be_fitted_is_null_with_the_reason() -> None:
    (mean, histogram) = probes(500_000, np.arange(20)).values()
    assert mean["value"] is not None
    assert histogram["value"] is None
    assert "16 numbers and 500000 classes need more than 4194304 weights" in histogram["protocol"]
    for entry in probes(2, np.zeros(20, int)).values():
        assert entry["value"] is None
        assert "Undefined here (the training images are of less than two" in entry["protocol"]


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="probe_images = -1: must be at least 0"):
        EvaluateRun(probe_images=-1)
    with pytest.raises(ValueError, match="probe_l2 = 0: must be above 0"):
        EvaluateRun(probe_l2=0)


def test_codes_of_drawn_images_come_from_the_row_groups_that_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, read = [], []
    for number, rows in enumerate((50, 7, 64)):
        table = pyarrow.table(
            {"label": np.arange(rows), "c": [[number, row] for row in range(rows)]}
        )
        pyarrow.parquet.write_table(table, tmp_path / f"{number}.parquet", row_group_size=8)
        shards.append(ShardInfo(f"{number}.parquet", rows, ""))
    iter_batches = pyarrow.parquet.ParquetFile.iter_batches

    def counted(self: Any, size: int, *, row_groups: list[int], **options: Any) -> Any:
        read.append(row_groups)
        return iter_batches(self, size, row_groups=row_groups, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", counted)
    monkeypatch.setattr(probe_module, "_ROWS_PER_READ", 5)
    dataset = DatasetInfo("codes", ("a",), 121, 0, tuple(shards))
    chosen = np.array([3, 9, 40, 49, 57, 120])
    parts = list(probe_module._chosen_rows(tmp_path, dataset, chosen, ["c"]))
    found = [row for part in parts for row in part["c"].to_pylist()]
    assert found == [[0, 3], [0, 9], [0, 40], [0, 49], [2, 0], [2, 63]]
    assert [label for part in parts for label in part["label"].to_pylist()] == [3, 9, 40, 49, 0, 63]
    assert read == [[0, 1, 5, 6], [0, 7]]
