"""A guidance sweep: every value sampled and measured once, real images once for all of them, and a kill costs nothing
that is finished.
"""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glotok_ray.config import FARGuidanceRun, FARSampleRun, XARGuidanceRun, XARSampleRun, override
from glotok_ray.evaluation.features import EfficientNetLite0Features
from glotok_ray.recipes import rq_transformers
from glotok_ray.recipes import sample_images as sample_recipes
from glotok_ray.recipes.sweep_guidance import RECIPES
from glotok_ray.recipes.sweep_parts import chosen_metric, guidance_value
from glotok_ray.stages import evaluate_images, image_measurement, sweep_guidance
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from jobs import sweep_guidance as sweep_guidance_job
from tests.evaluation.tiny_inputs import copy_shards, settings, write_inputs
from tests.small_data import small_pool


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("guidance"))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Both pools in this process; counts units of each, and images that EfficientNet-Lite0 saw."""
    found = {"sample": 0, "evaluate": 0, "features": 0}
    compute = EfficientNetLite0Features.__call__

    def counted(network, images):
        found["features"] += len(images)
        return compute(network, images)

    def here(units, actor_class, arguments, pool, *, stage, sizes):
        found[stage] += len(units)
        return map(actor_class(**arguments), units) if units else iter(())

    monkeypatch.setattr(EfficientNetLite0Features, "__call__", counted)
    monkeypatch.setattr(image_measurement, "map_shards", here)
    monkeypatch.setattr("glotok_ray.on_ray.actor_pool.map_shards", here)
    return found


def sweep(inputs: Path, output: Path, **changes: object) -> XARGuidanceRun:
    evaluation = settings(inputs, output / "unused", tokenizer_path="", codes_path="")
    alone = {"generator_path": "", "samples_path": ""}
    config = XARGuidanceRun(
        output_path=str(output),
        guidance_scales=(2.0, 1.0),
        samples=override(
            XARSampleRun(generator_path=str(inputs / "xar"), num_images=6, pool=small_pool()),
            {"sampler.num_steps": 2},
        ),
        evaluation=dataclasses.replace(evaluation, **alone),
    )
    return override(config, changes)


def test_values_share_what_is_known_of_real_images(
    inputs: Path, tmp_path: Path, counts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sweep(inputs, tmp_path / "sweep")
    folder = tmp_path / "sweep"
    measure = evaluate_images.run
    begun = []

    def killed_at_the_second(evaluation, **flags):
        begun.append(evaluation.output_path)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return measure(evaluation, **flags)

    monkeypatch.setattr(evaluate_images, "run", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        sweep_guidance.run(config)
    # 11 validation crops, 11 training crops and the first value's samples.
    assert counts["features"] == 11 + 11 + 6
    drawn = counts["sample"]
    monkeypatch.setattr(evaluate_images, "run", measure)
    manifest = sweep_guidance.run(config)
    assert counts["sample"] == drawn
    assert counts["features"] == 11 + 11 + 6 + 6
    assert manifest["guidance_scales"] == [1, 2]
    assert manifest["best_by"] == "samples_fd_effnet"
    assert manifest["best"] in (1, 2)
    assert {"guidance.csv", "guidance.json", "guidance.png"} <= set(manifest["files"])
    assert not any(name.startswith(("values", "statistics")) for name in manifest["files"])
    rows = {
        row["guidance_scale"]: row for row in artefact.read_json(folder / "guidance.json")["values"]
    }
    for scale, row in rows.items():
        values = folder / "values"
        metrics = artefact.read_json(values / f"guidance_{scale:g}_evaluation" / "metrics.json")
        assert row["samples_fd_effnet"] == metrics["samples_fd_effnet"]["value"]
        samples = artefact.read_manifest(values / f"guidance_{scale:g}_samples", "samples")
        assert samples["config"]["sampler"]["guidance_scale"] == scale
    assert rows[1]["samples_fd_effnet"] != rows[2]["samples_fd_effnet"]
    assert "| 1" in sweep_guidance_job.show(manifest)

    # The same command, other pools and an unread scale of the sampler find all of it finished.
    before = dict(counts)
    again = override(
        config, {"samples.sampler.guidance_scale": 7.0, "evaluation.pool.num_actors": 2}
    )
    assert sweep_guidance.run(again)["written_unix_s"] == manifest["written_unix_s"]
    assert counts == before
    # One value more joins them; another choice is made of finished numbers.
    more = sweep_guidance.run(override(config, {"guidance_scales": (3.0,)}))
    assert more["guidance_scales"] == [1, 2, 3]
    assert counts["features"] == before["features"] + 6
    own = sweep_guidance.run(override(config, {"best_by": "samples_own_class"}))
    assert (own["best_by"], own["guidance_scales"]) == ("samples_own_class", [1, 2, 3])
    assert counts["features"] == before["features"] + 6
    with pytest.raises(ArtefactError, match="fresh"):
        sweep_guidance.run(override(config, {"samples.seed": 5}))


def test_with_inception_the_curve_is_of_fid_and_its_score(
    inputs: Path, tmp_path: Path, counts: dict[str, int], inception_file: Path
) -> None:
    # The fewest that the score has a value of: each of its ten parts holds one image, and is exactly 1.
    weights = tmp_path / "inception.pth"
    shutil.copyfile(inception_file, weights)
    files = {"inception_path": str(weights), "training_path": "", "num_images": 4}
    config = sweep(inputs, tmp_path / "sweep", **{"samples.num_images": 10})
    config = override(config, {f"evaluation.{name}": value for name, value in files.items()})
    manifest = sweep_guidance.run(config)
    assert counts["features"] == 4 + 10 + 10
    facts = artefact.read_json(tmp_path / "sweep" / "guidance.json")
    fids = {row["guidance_scale"]: row["samples_fid"] for row in facts["values"]}
    assert fids[1] != fids[2]
    assert manifest["best_by"] == "samples_fid"
    assert manifest["best"] == min(fids, key=fids.__getitem__)
    scores = [row["samples_inception_score"] for row in facts["values"]]
    assert scores == pytest.approx([1, 1])
    table = sweep_guidance_job.show(manifest)
    assert f"best guidance {manifest['best']:g} by FID of samples" in table
    with Image.open(tmp_path / "sweep" / "guidance.png") as chart:
        assert chart.size == (1350, 630)
    # Samples are compared with the images of a reference that has no statistics, too.
    np.savez(tmp_path / "reference.npz", np.zeros((4, 16, 16, 3), np.uint8))
    change = {
        "evaluation.reference_path": str(tmp_path / "reference.npz"),
        "guidance_scales": (1.0,),
    }
    config_of_reference = override(config, {**change, "output_path": str(tmp_path / "reference")})
    assert sweep_guidance.run(config_of_reference)["best_by"] == "samples_fid_reference"
    # Other weights under the same name are not taken for those.
    weights.write_bytes(b"others")
    with pytest.raises(ArtefactError, match=r"sweep: .*--fresh"):
        sweep_guidance.run(config)


def test_a_far_is_swept_too(inputs: Path, tmp_path: Path, counts: dict[str, int]) -> None:
    base = sweep(inputs, tmp_path / "far")
    config = FARGuidanceRun(
        output_path=base.output_path,
        guidance_scales=(1.0,),
        samples=FARSampleRun(generator_path=str(inputs / "far"), num_images=2, pool=small_pool()),
        evaluation=override(base.evaluation, {"training_path": ""}),
    )
    assert sweep_guidance.run(config)["best"] == 1
    assert counts["features"] == 11 + 2


def test_what_would_stop_a_value_stops_the_sweep(inputs: Path, tmp_path: Path) -> None:
    config = sweep(inputs, tmp_path / "sweep")
    named, small = tmp_path / "named", tmp_path / "small"
    copy_shards(inputs / "validation", named, classes=["a", "c"])
    copy_shards(inputs / "validation", small, image_size=8)
    weights, reference = tmp_path / "inception.pth", tmp_path / "reference.npz"
    weights.touch()
    np.savez(reference, np.zeros((4, 8, 8, 3), np.uint8))
    compared = {
        "evaluation.inception_path": str(weights),
        "evaluation.reference_path": str(reference),
    }
    for changes, error, message in (
        ({"best_by": "samples_fid"}, ValueError, r"best_by = 'samples_fid': needs evaluation\.inc"),
        ({"evaluation.data_path": ""}, ValueError, "data_path is empty"),
        ({"samples.generator_path": str(inputs / "far")}, ArtefactError, "sampler is a Flow"),
        ({"evaluation.data_path": str(named)}, ArtefactError, r"2 classes \(a, c\)"),
        ({"evaluation.data_path": str(small)}, ArtefactError, r"small: its .* tokenizer takes 16"),
        ({"evaluation.training_path": str(small)}, ArtefactError, r"small: .* tokenizer takes 16"),
        (compared, ArtefactError, "images have 8 x 8 pixels, and the samples 16 x 16; bring"),
    ):
        wrong = override(config, changes)
        for check in (sweep_guidance.run, sweep_guidance_job.describe):
            with pytest.raises(error, match=message):
                check(wrong)
    assert not (tmp_path / "sweep").exists()
    for scales in ((), (1.0, 1.0), (0.5,)):
        with pytest.raises(ValueError, match=r"guidance_scales = .*: must be different numbers"):
            override(config, {"guidance_scales": scales})


def test_dry_run_lists_the_values(inputs: Path, tmp_path: Path) -> None:
    facts = sweep_guidance_job.describe(sweep(inputs, tmp_path))
    assert list(facts["values"]) == ["1", "2"]
    # 4 cells of 2 steps; guided ones need a pass without the class.
    passes = [value["network_evaluations_per_image"] for value in facts["values"].values()]
    assert passes[0] < passes[1]
    assert facts["best_by"] == "samples_fd_effnet"


def test_every_row_that_is_sampled_has_a_sweep() -> None:
    # Without a null label there is no guidance: RQ-Transformer, and GPTs whose classes stand in the codes' table.
    unguided = rq_transformers.RECIPES.keys() | {"taming_gpt", "taming_gpt_small", "vqgan_lc_gpt"}
    assert RECIPES.keys() == sample_recipes.RECIPES.keys() - unguided
    for name, recipe in RECIPES.items():
        config, row = recipe(), sample_recipes.RECIPES[name]()
        assert config.samples.generator_path == row.generator_path
        assert row.sampler.guidance_scale in config.guidance_scales
        assert 1.0 in config.guidance_scales
        value = guidance_value(config, 1.5)
        assert value.samples.sampler.guidance_scale == 1.5
        assert value.evaluation.samples_path == value.samples.output_path
        assert value.evaluation.tokenizer_path == ""
        assert chosen_metric(config) == "samples_fd_effnet"
        if not name.startswith("quickstart"):
            # The images that choose are not those of the row.
            assert (config.samples.num_images, config.samples.seed) == (10000, 1)
            assert row.seed == 0
    with_files = override(
        RECIPES["xar_b"](), {"evaluation.inception_path": "a", "evaluation.reference_path": "b"}
    )
    assert chosen_metric(with_files) == "samples_fid_reference"
