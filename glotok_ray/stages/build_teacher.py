"""The teacher build: features by an actor pool, k-means in memory or over the pool, a teacher folder on disk.

Paper section 3.3; the drawn images and vectors depend on the seed alone. What is finished (parts of features, Lloyd
iterations) lies in the output folder's `features/` until the end, so a killed job goes on where it was.
Read next: glotok_ray/stages/feature_extraction.py
"""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from glotok_ray import faults
from glotok_ray.config.jobs import TeacherRun
from glotok_ray.config.overrides import bound_settings, input_paths, with_absolute_paths
from glotok_ray.config.tokenizer import CodebookConfig
from glotok_ray.data.drawing import DrawnRows, draw_images, drawn_per_class
from glotok_ray.data.recorded import crops_text, read_image_dataset
from glotok_ray.data.records import DatasetInfo
from glotok_ray.on_ray.persistent_actors import PersistentActors
from glotok_ray.stages.feature_extraction import extract
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.output import Output, Unfinished
from glotok_ray.storage.places import remove_tree, to_path
from glotok_ray.teacher import centroids, clustering, features, histogram, memory, networks
from glotok_ray.teacher.clustering import Clusters
from glotok_ray.teacher.feature_parts import Part, read_vectors
from glotok_ray.teacher.partial_sums import Vectors
from glotok_ray.teacher.per_class import check_classes, fit_classes
from glotok_ray.teacher.preparation import Moments, Preparation, add_up, preparation
from glotok_ray.teacher.stored_vectors import (
    Given,
    OnDisk,
    PartActor,
    PartTask,
    groups_of,
    load,
    moments_of,
)

logger = logging.getLogger(__name__)

WORK_FOLDER = "features"


@ownership.holding()
def run(config: TeacherRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the teacher folder and return its manifest.

    `data_path` may also be a file of finished centroids (`glotok_ray.teacher.centroids.SUFFIXES`).
    """
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    output.check_apart(to_path(config.output_path), input_paths(config).values(), fresh=fresh)
    if to_path(config.data_path).suffix in centroids.SUFFIXES:
        return _from_centroids(config, fresh=fresh)
    dataset, units = check_inputs(config)
    network = features.feature_facts(config.network)
    teacher = output.begin(
        config.output_path,
        "teacher",
        {**bound_settings(config), "network": network},
        [config.data_path],
        fresh=fresh,
        unfinished=Unfinished.KEEP,
    )
    work_folder = teacher.folder / WORK_FOLDER
    if teacher.finished is not None:
        remove_tree(work_folder, ignore_errors=True)
        return teacher.finished
    work = _work_folder(teacher, config, network)
    parts = extract(units, config, work.parts)
    clusters, facts = _cluster(parts, dataset.classes, config, work.states)
    provenance = {
        "source": "features",
        **network,
        "data_manifest_sha256": artefact.sha256_of(to_path(config.data_path) / artefact.MANIFEST),
        "seed": config.seed,
        "crops": crops_text(dataset),
        **_data_facts(parts, units, config),
        **facts,
    }
    found = histogram.build_histogram(
        torch.tensor(clusters.centroids), fine_bins=config.fine_bins, provenance=provenance
    )
    manifest = _save(teacher, found)
    remove_tree(work_folder, ignore_errors=True)
    return manifest


def check_inputs(config: TeacherRun) -> tuple[DatasetInfo, list[DrawnRows]]:
    """The facts of the shards and the rows to draw; raises ValueError for a network that is not there, and for fewer
    vectors than clusters.
    """
    networks.check_network(config.network)
    folder = to_path(config.data_path)
    dataset = read_image_dataset(folder)
    minutes = config.pool.storage_retry_minutes
    units = draw_images(
        dataset,
        folder,
        max_images=config.max_images,
        stratified=config.stratified,
        seed=config.seed,
        minutes=minutes,
    )
    per_image = min(config.vectors_per_image, features.grid_side(config.network) ** 2)
    clustering.check_count(sum(len(unit.rows) for unit in units) * per_image, config.kmeans)
    if config.kmeans.clusters_per_class:
        drawn = drawn_per_class(units, folder, len(dataset.classes), minutes=minutes)
        check_classes(drawn * per_image, dataset.classes, config.kmeans)
    return dataset, units


def _from_centroids(config: TeacherRun, *, fresh: bool) -> dict[str, Any]:
    found = centroids.from_centroids(
        to_path(config.data_path),
        key=config.centroids_key,
        project_width=config.project_width,
        fine_bins=config.fine_bins,
    )
    teacher = output.begin(
        config.output_path,
        "teacher",
        {**bound_settings(config), "sha256": found.provenance["sha256"]},
        [],
        fresh=fresh,
        unfinished=Unfinished.REPLACE,
    )
    return teacher.finished or _save(teacher, found)


class WorkFolder(NamedTuple):
    """Where unfinished work lies, under names that hold fingerprints: features under that of what they depend on,
    states under that of all settings. The mark of the folder cannot say it: one that was stopped and goes on with
    other clusters has new settings, and needs the features that are there.
    """

    parts: Path
    states: Path


def _work_folder(teacher: Output, config: TeacherRun, network: dict[str, Any]) -> WorkFolder:
    names = ("vectors_per_image", "max_images", "stratified", "seed")
    settings = {**network, **{name: getattr(config, name) for name in names}}
    fingerprint = artefact.fingerprint("features", settings, [to_path(config.data_path)])
    parts = teacher.folder / WORK_FOLDER / fingerprint[:16]
    states = parts / f"k-means-{teacher.fingerprint[:16]}"
    states.mkdir(parents=True, exist_ok=True)
    return WorkFolder(parts, states)


# ------------------------------------------------------------------------------------------ clustering


def _cluster(
    parts: list[Part], classes: Sequence[str], config: TeacherRun, work: Path
) -> tuple[Clusters, dict[str, Any]]:
    """Prepare the vectors and cluster them where they fit; the facts say how."""
    parts = [part for part in parts if part.count]
    count = sum(part.count for part in parts)
    clustering.check_count(count, config.kmeans)
    width = config.project_width or read_vectors(parts[0]).shape[1]
    where = memory.where_clustered(count, width, config.kmeans)
    size = count * width * 4 / 2**30
    logger.info("k-means: %d vectors of width %d (%.2f GiB), %s", count, width, size, where)
    if where == memory.OVER_THE_POOL:
        prepare, clusters = _over_the_pool(parts, config, work)
    else:
        groups, second = groups_of(parts), bool(config.project_width)
        prepare = _preparation(add_up(moments_of(group, second=second) for group in groups), config)
        if where == memory.PER_CLASS:
            clusters = fit_classes(
                parts, classes, prepare, config.kmeans, work, width=width, seed=config.seed
            )
        else:
            clusters = _fit(load(groups, prepare), config, work)
    return clusters, {"clustering": where, **_cluster_facts(clusters, prepare, config)}


def _over_the_pool(
    parts: list[Part], config: TeacherRun, work: Path
) -> tuple[Preparation, Clusters]:
    """Prepare and cluster vectors that stay in their parts, which the actors read in every pass."""
    groups = groups_of(parts)
    arguments = {
        "pool": config.pool,
        "second_moments": bool(config.project_width),
        "spherical": config.kmeans.spherical,
    }
    with PersistentActors(PartActor, arguments, config.pool) as actors:
        tasks = [PartTask(group) for group in groups]
        prepare = _preparation(add_up(actors.map(tasks, Given())), config)
        return prepare, _fit(OnDisk(groups, prepare, actors), config, work)


def _preparation(found: Moments, config: TeacherRun) -> Preparation:
    return preparation(
        found,
        center=config.center,
        project_width=config.project_width,
        spherical=config.kmeans.spherical,
    )


def _fit(vectors: Vectors, config: TeacherRun, work: Path) -> Clusters:
    """All vectors together; the state after each iteration is kept in the working folder."""
    path, saved = work / "kmeans.npz", itertools.count(1)

    def save(state: clustering.State) -> None:
        clustering.save_state(path, state)
        faults.boundary("iteration", next(saved))

    return clustering.fit(
        vectors,
        config.kmeans.num_clusters,
        config.kmeans,
        seed=config.seed,
        state=clustering.load_state(path),
        save=save,
    )


# ------------------------------------------------------------------------------------------ results


def _cluster_facts(clusters: Clusters, prepare: Preparation, config: TeacherRun) -> dict[str, Any]:
    import faiss

    kmeans = config.kmeans
    return {
        "faiss": str(faiss.__version__),
        "kmeans_seeding": kmeans.seeding,
        "kmeans_restarts": kmeans.restarts,
        "kmeans_iterations": len(clusters.objective) - 1,
        "objective": clusters.objective,
        "spherical": kmeans.spherical,
        "center": config.center,
        "project_width": config.project_width,
        "projection_kept_share": prepare.kept_share,
        "clusters_per_class": kmeans.clusters_per_class,
        "smallest_cluster": int(clusters.sizes.min()),
        "median_cluster": float(np.median(clusters.sizes)),
        "largest_cluster": int(clusters.sizes.max()),
    }


def _data_facts(parts: list[Part], units: list[DrawnRows], config: TeacherRun) -> dict[str, Any]:
    return {
        "num_images": sum(part.images for part in parts),
        "num_vectors": sum(part.count for part in parts),
        "undecodable_images": sum(len(part.broken) for part in parts),
        "drawn_images": sum(len(unit.rows) for unit in units),
        "vectors_per_image": config.vectors_per_image,
        "stratified": config.stratified,
    }


def _save(place: Output, teacher: histogram.TeacherHistogram) -> dict[str, Any]:
    # It loads matplotlib, which a command's --help need not wait for.
    from glotok_ray.report.plots import draw_teacher

    histogram.save_teacher(place.folder, teacher)
    student = CodebookConfig()
    draw_teacher(
        teacher,
        place.folder / "teacher.png",
        student_width=student.width,
        student_size=student.size,
    )
    teacher.reachable(width=student.width, size=student.size)
    mean, std = teacher.similarity()
    logger.info(
        "teacher: %d centroids of width %d, cosine %.3f +- %.3f, in %s",
        *teacher.centroids.shape,
        mean,
        std,
        place.folder,
    )
    return place.finish(exclude=(WORK_FOLDER,), similarity_mean=mean, similarity_std=std)
