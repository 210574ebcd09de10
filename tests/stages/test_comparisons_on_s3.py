"""Comparisons, scales, verification and teachers of given centroids whose inputs and folders lie in an object store:
what they find there is what they find on a disk.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.config import override
from glotok_ray.config.scales import ScalesRun
from glotok_ray.config.tokenizer_comparison import EvaluateTokenizersRun
from glotok_ray.stages import build_scales, evaluate_tokenizers, image_measurement
from glotok_ray.storage import artefact, node_cache
from glotok_ray.storage.places import to_path
from glotok_ray.teacher.histogram import load_teacher
from jobs import build_teacher, compare_generators, verify
from tests.evaluation.tiny_inputs import write_inputs
from tests.small_residuals import write_generator, write_tokenizer
from tests.stages.test_compare_generators import comparison
from tests.stages.test_jobs_on_s3 import content, uploaded

# What differs from one run of the same to the next.
_TIMES = ("per_second", "seconds", "milliseconds", "memory", "unix")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """The same inputs on a disk and in a store."""
    folder = write_inputs(tmp_path_factory.mktemp("compared"))
    write_tokenizer(folder / "rq_vae")
    write_generator(folder / "rq", folder / "rq_vae", ("a", "b"))
    with s3_server(), pytest.MonkeyPatch.context() as patch:
        patch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield folder, uploaded(folder, "compared")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(units: Any, actor_class: Any, arguments: Any, *_: Any, **__: Any) -> Any:
        return map(actor_class(**arguments), units) if units else iter(())

    monkeypatch.setattr(image_measurement, "map_shards", here)
    monkeypatch.setattr("glotok_ray.on_ray.actor_pool.map_shards", here)


def lasting(found: Any) -> Any:
    """Without times and memory."""
    if isinstance(found, dict):
        return {
            name: lasting(value)
            for name, value in found.items()
            if not any(word in name for word in _TIMES)
        }
    return [lasting(value) for value in found] if isinstance(found, list) else found


def test_tokenizers_are_compared(inputs: tuple[Path, Any], tmp_path: Path) -> None:
    found = []
    places = tmp_path / "out", to_path(f"s3://{BUCKET}/tokenizers_compared/out")
    for root, output in zip(inputs, places, strict=True):
        config = EvaluateTokenizersRun(
            tokenizer_paths=(str(root / "tokenizer"), str(root / "other_tokenizer")),
            data_path=str(root / "validation"),
            output_path=str(output),
            use_gpu=False,
            batch_size=4,
            feature_size=32,
            shown_images=2,
        )
        evaluate_tokenizers.run(config)
        again = evaluate_tokenizers.run(config)
        assert {"table.md", "table.csv", "reconstructions.png"} <= set(again["files"])
        found.append(lasting(artefact.read_json(output / "metrics.json")))
    assert found[1] == found[0]
    pictures = [(place / "reconstructions.png").read_bytes() for place in places]
    assert pictures[1] == pictures[0]


def test_generators_are_compared(inputs: tuple[Path, Any], tmp_path: Path) -> None:
    found = []
    places = tmp_path / "both", to_path(f"s3://{BUCKET}/generators_compared/both")
    for root, output in zip(inputs, places, strict=True):
        config = comparison(root, output, "xar", "far", "rq")
        manifest = compare_generators.run(config)
        assert compare_generators.run(config) == manifest
        found.append([lasting(row["metrics"]) for row in manifest["rows"]])
    assert found[1] == found[0]
    pictures = [(place / "samples.png").read_bytes() for place in places]
    assert pictures[1] == pictures[0]


def test_scales_are_built(inputs: tuple[Path, Any], tmp_path: Path) -> None:
    places = tmp_path / "scales", to_path(f"s3://{BUCKET}/scales_built/scales")
    for root, output in zip(inputs, places, strict=True):
        config = ScalesRun(
            tokenizer_path=str(root / "tokenizer"),
            data_path=str(root / "training"),
            output_path=str(output),
            num_codes=16,
            sides=(1, 4),
            num_images=8,
            rounds=1,
            use_gpu=False,
        )
        manifest = build_scales.run(config)
        assert build_scales.run(config) == manifest
    assert content(places[1]) == content(places[0])


def test_folders_are_verified_and_damage_is_named(
    inputs: tuple[Path, Any], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    top = uploaded(inputs[0], "verified")
    names = ("training", "validation", "tokenizer", "xar", "rq")
    assert verify.main([str(top / name) for name in names]) == 0
    verdicts = json.loads(capsys.readouterr().out)
    assert [item["folder"] for item in verdicts] == [str(top / name) for name in names]
    receipt = top / "training" / "verified.json"
    assert receipt.is_file()
    shard = top / "training" / "part-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    assert verify.main([str(top / "training")]) == 2
    assert json.loads(capsys.readouterr().out)[0]["damage"]
    assert f"{top}/training/part-00000.parquet: " in caplog.text
    assert not receipt.is_file()


def test_a_teacher_of_given_centroids_is_built(inputs: tuple[Path, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32))
    remote = to_path(f"s3://{BUCKET}/centroids")
    (remote / "mine.npy").write_bytes((tmp_path / "mine.npy").read_bytes())
    run: Any = build_teacher.RECIPES["quickstart"]()
    found = []
    for place in (tmp_path, remote):
        changes = {"data_path": str(place / "mine.npy"), "output_path": str(place / "teacher")}
        config = override(run, changes)
        manifest = build_teacher.run(config)
        assert build_teacher.run(config) == manifest
        found.append(load_teacher(place / "teacher"))
    np.testing.assert_array_equal(found[1].centroids.numpy(), found[0].centroids.numpy())
    np.testing.assert_array_equal(found[1].fine_histogram, found[0].fine_histogram)
