"""Jobs whose inputs and folders lie in an object store: what exports, reports, guidance sweeps and evaluations make of
them is what they make of a disk.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.config import ExportRun, override
from glotok_ray.config.jobs import VARSampleRun
from glotok_ray.config.report import ReportRun
from glotok_ray.config.sweeps import VARGuidanceRun
from glotok_ray.evaluation.extractors import build_extractors, networks_of
from glotok_ray.evaluation.foreign_samples import read_foreign
from glotok_ray.evaluation.inputs import check_inputs
from glotok_ray.evaluation.reference import read_reference
from glotok_ray.evaluation.sample_inputs import SampleReader
from glotok_ray.export import generator as export_generator
from glotok_ray.export import tokenizer as export_tokenizer
from glotok_ray.interop import tokenizer_layouts
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.stages import (
    evaluate_images,
    image_measurement,
    report_results,
    sweep_guidance,
    train_generator,
)
from glotok_ray.storage import artefact, node_cache
from glotok_ray.storage.places import copy_file, to_path
from jobs import storage_root
from tests.evaluation import test_foreign_samples as foreign
from tests.evaluation.test_inception_metrics import write_reference
from tests.evaluation.tiny_inputs import write_inputs
from tests.export import test_generator as generators
from tests.export import test_tokenizer as tokenizers
from tests.report.written_evaluations import write_runs
from tests.stages import test_sweep_guidance as guidance
from tests.training import test_scales_trained as scales

generator_inputs = generators.inputs


@pytest.fixture(scope="module", autouse=True)
def _server(tmp_path_factory: Any) -> Iterator[None]:
    with s3_server(), pytest.MonkeyPatch.context() as patch:
        patch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


def uploaded(folder: Path, name: str) -> Any:
    """The folder's files in the store."""
    top = to_path(f"s3://{BUCKET}/{name}")
    for path in folder.rglob("*"):
        if path.is_file():
            copy_file(path, top / path.relative_to(folder).as_posix())
    return top


def content(folder: Any) -> dict[str, bytes]:
    """Of all files but the manifest, which tells the time."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "verified.json")
    }


@pytest.fixture(scope="module")
def tokenizer_sources(tmp_path_factory: Any) -> Path:
    root = tmp_path_factory.mktemp("tokenizers")
    torch.manual_seed(0)
    model = GloTokTokenizer(tokenizers.SINGLE).eval()
    facts: dict[str, Any] = {"step": 7, "metrics": {"eval/psnr": 20.0}}
    tokenizers.saved(root / "finished", model, "tokenizer", **facts)
    levels = len(tokenizers.SINGLE.autoencoder.channel_multipliers)
    names = tokenizers.peer_names(levels)
    ours = {tokenizer_layouts.rename(name, "llamagen", levels): name for name in names}
    state = {ours[name]: value for name, value in model.state_dict().items()}
    torch.save({"model": state}, root / "vq.pt")
    return root


@pytest.mark.parametrize("source", ["finished", "vq.pt"])
def test_a_tokenizer_is_exported(tokenizer_sources: Path, source: str, tmp_path: Path) -> None:
    top = uploaded(tokenizer_sources, "tokenizers")
    outputs = tmp_path / "out", to_path(f"s3://{BUCKET}/exported/{source}/out")
    for root, output in zip((tokenizer_sources, top), outputs, strict=True):
        export_tokenizer.run(
            ExportRun(
                source_path=str(root / source), output_path=str(output), model=tokenizers.SINGLE
            )
        )
    assert content(outputs[1]) == content(outputs[0])
    assert artefact.read_manifest(outputs[1], "tokenizer")["source"]


@pytest.mark.parametrize("source", ["mine", "far.pt"])
def test_a_generator_is_exported(generator_inputs: Path, source: str, tmp_path: Path) -> None:
    top = uploaded(generator_inputs, "generators")
    make: Any = generators.wanted if source == "mine" else generators.of_far
    places = ((generator_inputs, tmp_path), (top, to_path(f"s3://{BUCKET}/exported/{source}")))
    for inputs, output in places:
        export_generator.run(make(inputs, output))
    assert content(places[1][1] / "out") == content(tmp_path / "out")


def test_a_report_is_made(tmp_path: Path) -> None:
    write_runs(tmp_path)
    top = uploaded(tmp_path, "report")
    for path in top.rglob("manifest.json"):
        path.write_text(path.read_text().replace(str(tmp_path), str(top)))
    found = []
    for root in (tmp_path, top):
        run = ReportRun(evaluations=(str(root / "evaluation"),), output_path=str(root / "report"))
        report_results.run(run)
        texts = content(root / "report").items()
        found.append({name: text.replace(str(root).encode(), b"ROOT") for name, text in texts})
    assert found[1] == found[0]
    assert len(found[0]) == 7


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: Any) -> Path:
    return write_inputs(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def in_this_process(monkeypatch: Any) -> None:
    def here(units: Any, actor_class: Any, arguments: Any, *_: Any, **__: Any) -> Any:
        return map(actor_class(**arguments), units) if units else iter(())

    monkeypatch.setattr(image_measurement, "map_shards", here)
    monkeypatch.setattr("glotok_ray.on_ray.actor_pool.map_shards", here)


@pytest.mark.slow
def test_a_guidance_sweep_of_var_is_made_and_recognised(
    tiny: Path, tmp_path: Path, in_this_process: None
) -> None:
    """Of VAR; what xAR samples from a store is looked at by test_stages_on_s3.py."""
    scales.write_parts(tmp_path)
    train_generator.run(override(scales.small_run(tmp_path), {"schedule.epochs": 1}))
    top, mine = uploaded(tiny, "tiny"), uploaded(tmp_path, "scales")
    output = to_path(f"s3://{BUCKET}/guidance/sweep")
    evaluation = guidance.sweep(top, output).evaluation
    config = VARGuidanceRun(
        output_path=str(output),
        guidance_scales=(0.5,),
        samples=VARSampleRun(
            generator_path=str(mine / "var"),
            num_images=6,
            sampler=scales.SAMPLER,
            pool=evaluation.pool,
        ),
        evaluation=evaluation,
    )
    assert storage_root.located(config, tmp_path).output_path == config.output_path
    manifest = sweep_guidance.run(config)
    assert sweep_guidance.run(config) == manifest
    assert {"guidance.csv", "guidance.json", "guidance.png"} <= set(manifest["files"])
    (row,) = artefact.read_json(output / "guidance.json")["values"]
    metrics = artefact.read_json(output / "values" / "guidance_0.5_evaluation" / "metrics.json")
    assert row["samples_fd_effnet"] == metrics["samples_fd_effnet"]["value"] > 0


def test_samples_of_others_are_measured(tiny: Path, tmp_path: Path, in_this_process: None) -> None:
    top = uploaded(tiny, "tiny")
    images = np.load(tiny / "samples" / "samples.npz")["arr_0"]
    foreign.write_pngs(tmp_path / "given", images)
    remote = uploaded(tmp_path, "foreign")
    outputs = tmp_path / "out", remote / "out"
    for root, output in zip((tiny, top), outputs, strict=True):
        samples, statistics = output.with_name("given"), str(output.with_name("statistics"))
        evaluate_images.run(
            foreign.samples_alone(root, output, samples, statistics_path=statistics)
        )
    wanted, found = (artefact.read_json(output / "metrics.json") for output in outputs)
    assert found == wanted
    assert list(outputs[1].with_name("statistics").iterdir())


def test_an_npz_of_others_is_read(tiny: Path, tmp_path: Path) -> None:
    images = np.load(tiny / "samples" / "samples.npz")["arr_0"]
    np.savez(tmp_path / "given.npz", images, foreign.LABELS)
    path = uploaded(tmp_path, "npz") / "given.npz"
    samples = read_foreign(path)
    assert samples.sha256 == artefact.sha256_of(tmp_path / "given.npz")
    reader = SampleReader(foreign.samples_alone(tiny, tmp_path / "out", path), None)
    found, labels = reader.read(1, 5)
    np.testing.assert_array_equal(found, images[1:5])
    np.testing.assert_array_equal(labels, foreign.LABELS[1:5])


@pytest.mark.slow
def test_files_of_weights_and_statistics_are_read(
    tiny: Path, tmp_path: Path, inception_file: Path
) -> None:
    top = uploaded(tiny, "tiny")
    write_reference(tmp_path / "reference.npz")
    remote = to_path(f"s3://{BUCKET}/weights")
    for path in (inception_file, tmp_path / "reference.npz"):
        copy_file(path, remote / path.name)
    config = foreign.samples_alone(
        top,
        remote / "out",
        top / "samples",
        inception_path=str(remote / inception_file.name),
        reference_path=str(remote / "reference.npz"),
    )
    check_inputs(config)
    _, extractor = build_extractors(config, torch.device("cpu"))
    assert extractor.weights_sha256 == artefact.sha256_of(inception_file)
    reference = read_reference(remote / "reference.npz", networks_of([extractor])[0])
    assert reference.sha256 == artefact.sha256_of(tmp_path / "reference.npz")
