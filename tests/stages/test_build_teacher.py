"""The teacher job on a tiny data set: where vectors lie, what is drawn, and how it goes on after a kill."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glotok_ray.config import RelationConfig, TeacherRun, bound_settings, override
from glotok_ray.data.drawing import DrawnRows, draw_images
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.on_ray.persistent_actors import PersistentActors
from glotok_ray.stages import build_teacher, feature_extraction
from glotok_ray.storage import artefact, output
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.teacher import clustering, feature_parts, features
from glotok_ray.teacher.histogram import TeacherHistogram, load_teacher
from jobs import build_teacher as build_teacher_job
from tests.small_data import small_pool, write_shards

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("teacher") / "shards")


def teacher_run(shards: Path, output: Path, **changes: Any) -> TeacherRun:
    """A tiny run; `changes` have dotted names, with "__" for the dot."""
    values = {
        "network.name": "efficientnet_lite0",
        "network.input_size": 64,
        "vectors_per_image": 3,
        "max_images": 20,
        "kmeans.num_clusters": 6,
        "kmeans.iterations": 5,
        "project_width": 4,
        "pool": small_pool(),
    }
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    run = TeacherRun(data_path=str(shards), output_path=str(output))
    return override(run, {**values, **changed})


def drawn(dataset: DatasetInfo, run: TeacherRun) -> list[DrawnRows]:
    return draw_images(
        dataset,
        Path(run.data_path),
        max_images=run.max_images,
        stratified=run.stratified,
        seed=run.seed,
        minutes=0,
    )


def built(run: TeacherRun) -> TeacherHistogram:
    build_teacher.run(run)
    return load_teacher(Path(run.output_path))


def test_it_is_built_from_the_drawn_images_and_found_again(
    ray_cluster: Any, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = teacher_run(shards, tmp_path / "one")
    manifest = build_teacher.run(run)
    found = load_teacher(tmp_path / "one")
    assert found.centroids.shape == (6, 4)
    assert found.distribution(RelationConfig()).sum() == pytest.approx(1, rel=1e-5)
    facts = found.provenance
    assert (facts["num_images"], facts["num_vectors"], facts["undecodable_images"]) == (20, 60, 0)
    assert facts["data_manifest_sha256"] == artefact.sha256_of(shards / "manifest.json")
    assert len(facts["weights_sha256"]) == 64
    assert facts["clustering"] == "in memory"
    assert len(facts["objective"]) == facts["kmeans_iterations"] + 1
    assert set(manifest["files"]) == {"teacher.json", "teacher.safetensors", "teacher.png"}
    assert not (tmp_path / "one" / build_teacher.WORK_FOLDER).exists()
    with Image.open(tmp_path / "one" / "teacher.png") as image:
        assert image.width > 500
    with caplog.at_level(logging.INFO):
        assert build_teacher.run(run) == manifest
    assert "already finished" in caplog.text
    with pytest.raises(ArtefactError, match="other settings"):
        build_teacher.run(dataclasses.replace(run, seed=1))


class KilledError(Exception):
    pass


def test_over_the_pool_killed_and_resumed_the_centroids_are_those_of_one_run_in_memory(
    ray_cluster: Any, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "kmeans__spherical": True,
        "kmeans__seeding": "kmeans++",
        "kmeans__restarts": 2,
    }
    expected = built(teacher_run(shards, tmp_path / "memory", **options))
    run = teacher_run(
        shards, tmp_path / "pool", kmeans__memory_gib=1e-9, pool=small_pool(2), **options
    )
    with monkeypatch.context() as patch:
        whole_save = clustering.save_state

        def save_and_die(path: Path, state: clustering.State) -> None:
            whole_save(path, state)
            if state.restart == 1:
                raise KilledError

        patch.setattr(clustering, "save_state", save_and_die)
        with pytest.raises(KilledError):
            build_teacher.run(run)
    parts = sorted((tmp_path / "pool" / build_teacher.WORK_FOLDER).rglob("*.parquet"))
    assert len(parts) == 3
    # Other clusters of the same features would find them too.
    other = override(run, {"kmeans.num_clusters": 5})
    network = features.feature_facts(other.network)
    begun = output.begin(
        other.output_path,
        "teacher",
        {**bound_settings(other), "network": network},
        [str(shards)],
        fresh=False,
        unfinished=output.Unfinished.KEEP,
    )
    assert build_teacher._work_folder(begun, other, network).parts == parts[0].parent
    # As if it had been killed while this part was written.
    parts[1].with_suffix(".json").unlink()
    made = []
    whole_map = feature_extraction.map_shards

    def watched(units: Any, *arguments: Any, **others: Any) -> Any:
        made.extend(unit.shard.file for unit in units)
        return whole_map(units, *arguments, **others)

    monkeypatch.setattr(feature_extraction, "map_shards", watched)
    resumed = built(run)
    assert made == [parts[1].name]
    assert not (tmp_path / "pool" / build_teacher.WORK_FOLDER).exists()
    assert resumed.provenance["clustering"] == "over the actor pool"
    torch.testing.assert_close(resumed.centroids, expected.centroids, rtol=0, atol=1e-6)
    # A vector's distance may differ in its last bit with the threads of a matrix product.
    np.testing.assert_allclose(
        resumed.provenance["objective"], expected.provenance["objective"], rtol=1e-6
    )


def adder() -> type:
    """A worker class that Ray pickles by value, since its workers cannot import this file."""

    class Adder:
        def __init__(self, offset: int) -> None:
            if offset < 0:
                raise ValueError("offset -1: must not be negative")
            self.offset = offset

        def __call__(self, unit: int, shared: int) -> int:
            if unit == 99:
                raise ValueError("unit 99: damaged")
            return unit + self.offset + shared

    return Adder


def test_persistent_actors_answer_in_order_pass_after_pass(ray_cluster: Any) -> None:
    with PersistentActors(adder(), {"offset": 1}, small_pool(2)) as actors:
        for shared in (0, 100):
            found = list(actors.map(range(30), shared))
            assert found == [unit + 1 + shared for unit in range(30)]
        assert list(actors.map([], 0)) == []
        with pytest.raises(ArtefactError, match=r"^unit 99: damaged$"):
            list(actors.map([1, 99], 0))
    with (
        PersistentActors(adder(), {"offset": -1}, small_pool()) as actors,
        pytest.raises(ArtefactError, match=r"^offset -1: must not be negative$"),
    ):
        list(actors.map([1], 0))


def test_images_that_cannot_be_decoded_are_counted_and_left_out(
    ray_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = write_shards(tmp_path / "damaged", broken=(2, 5))
    run = teacher_run(damaged, tmp_path / "teacher", max_images=0)
    with caplog.at_level(logging.WARNING):
        found = built(run)
    assert "2 of 36 drawn images cannot be decoded, '1/2' first" in caplog.text
    assert found.provenance["undecodable_images"] == 2
    assert found.provenance["num_vectors"] == 34 * 3


def test_a_set_that_is_mostly_damaged_is_refused(ray_cluster: Any, tmp_path: Path) -> None:
    damaged = write_shards(tmp_path / "damaged", broken=tuple(range(10)))
    only_second = dataclasses.replace(
        read_dataset(damaged), shards=read_dataset(damaged).shards[1:2], num_images=10
    )
    run = teacher_run(damaged, tmp_path / "teacher")
    units = drawn(only_second, run)
    with pytest.raises(ArtefactError, match="10 of 10 drawn images cannot be decoded"):
        feature_extraction.extract(units, run, tmp_path / "parts")


def test_each_class_may_be_clustered_by_itself(
    ray_cluster: Any, shards: Path, tmp_path: Path
) -> None:
    # So little memory holds one class at a time; one cluster per class is the mean of its vectors.
    options = {
        "kmeans__clusters_per_class": 1,
        "max_images": 0,
        "center": False,
        "project_width": 0,
    }
    run = teacher_run(shards, tmp_path / "classes", kmeans__memory_gib=1e-9, **options)
    found = built(run)
    assert found.provenance["clustering"] == "per class"
    parts = feature_extraction.extract(drawn(read_dataset(shards), run), run, tmp_path / "again")
    vectors = np.concatenate([feature_parts.read_vectors(part) for part in parts])
    labels = np.concatenate([feature_parts.read_labels(part) for part in parts])
    means = np.stack([vectors[labels == label].mean(axis=0) for label in range(3)])
    np.testing.assert_allclose(found.centroids.numpy(), means, rtol=1e-4, atol=1e-5)


def test_a_class_with_too_few_vectors_is_named_before_any_work(
    shards: Path, tmp_path: Path
) -> None:
    run = teacher_run(shards, tmp_path / "classes", max_images=4, kmeans__clusters_per_class=4)
    with pytest.raises(ValueError, match=r"kmeans.clusters_per_class = 4: class '\w' has only 3"):
        build_teacher.run(run)
    assert not (tmp_path / "classes").exists()


def test_it_takes_finished_centroids(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    np.save(tmp_path / "codes.npy", codes)
    run = TeacherRun(data_path=str(tmp_path / "codes.npy"), output_path=str(tmp_path / "teacher"))
    assert build_teacher.run(run) == build_teacher.run(run)
    np.testing.assert_array_equal(load_teacher(tmp_path / "teacher").centroids.numpy(), codes)
    torch.save(
        {"model": {"quantize_sem.embedding.weight": torch.from_numpy(codes)}}, tmp_path / "fqgan.pt"
    )
    run = dataclasses.replace(
        run, data_path=str(tmp_path / "fqgan.pt"), output_path=str(tmp_path / "b"), project_width=2
    )
    assert built(run).centroids.shape == (40, 2)


def test_what_cannot_work_is_refused_before_any_work(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kmeans\.num_clusters = 61: only 60 feature vectors"):
        build_teacher.run(teacher_run(shards, tmp_path / "teacher", kmeans__num_clusters=61))
    with pytest.raises(ValueError, match=r"network\.name = 'resnet'"):
        build_teacher.run(teacher_run(shards, tmp_path / "teacher", network__name="resnet"))
    assert not (tmp_path / "teacher").exists()


def test_a_dry_run_tells_vectors_and_memory(shards: Path, tmp_path: Path) -> None:
    described = build_teacher_job.describe(teacher_run(shards, tmp_path / "t"))
    assert (described["images"], described["vectors"], described["vectors_per_cluster"]) == (
        20,
        60,
        10,
    )
    assert (described["channels"], described["k_means"]) == (1280, "in memory")
    assert described["features_gib"] == pytest.approx(60 * 1280 * 4 / 2**30)
    assert 0.5 < described["driver_memory_gib"] < 0.6
    far = build_teacher_job.describe(teacher_run(shards, tmp_path / "t", kmeans__memory_gib=1e-9))
    assert far["k_means"] == "over the actor pool"
    absent = build_teacher_job.describe(
        teacher_run(tmp_path / "absent", tmp_path / "t", max_images=0)
    )
    assert (absent["data_found"], absent["images"]) == (False, None)
    assert build_teacher_job.describe(TeacherRun(data_path="codes.pt"))["source"] == "centroids"
    assert build_teacher_job.main(["quickstart", "--dry-run"]) == 0
