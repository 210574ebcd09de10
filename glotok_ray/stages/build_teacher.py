"""The teacher build: features by an actor pool, k-means in memory or over the pool, a teacher folder on disk.

Paper section 3.3; the drawn images and vectors depend on the seed alone. What is finished (parts of features, Lloyd
iterations) lies in the output folder's `features/` until the end, so a killed job goes on where it was.
Read next: glotok_ray/stages/feature_extraction.py
"""

import itertools
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from jaxtyping import Float, Int

from glotok_ray import faults
from glotok_ray.config.jobs import TeacherRun
from glotok_ray.config.overrides import bound_settings, with_absolute_paths
from glotok_ray.config.tokenizer import CodebookConfig
from glotok_ray.data.recorded import crops_text, read_image_dataset
from glotok_ray.data.records import DatasetInfo
from glotok_ray.on_ray.actor_pool import actor_device
from glotok_ray.on_ray.persistent_actors import PersistentActors
from glotok_ray.report.plots import draw_teacher
from glotok_ray.stages.feature_extraction import (
    DrawnRows,
    check_classes,
    draw_images,
    extract,
    raise_for_small_classes,
)
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.output import Output, Unfinished
from glotok_ray.teacher import (
    centroids,
    clustering,
    features,
    histogram,
    networks,
    preparation,
)
from glotok_ray.teacher.clustering import Clusters, InMemory, PartialSums
from glotok_ray.teacher.feature_parts import Part, read_labels, read_vectors
from glotok_ray.teacher.preparation import Preparation

logger = logging.getLogger(__name__)

WORK_FOLDER = "features"
# Parts are summed in this many groups at most, whatever the number of actors: the same sums in memory and over the
# pool, and at most so many partial sums on their way at once.
_GROUPS = 64


@ownership.holding()
def run(config: TeacherRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the teacher folder and return its manifest.

    `data_path` may also be a file of finished centroids (`glotok_ray.teacher.centroids.SUFFIXES`).
    """
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    if Path(config.data_path).suffix in centroids.SUFFIXES:
        return _from_centroids(config, fresh=fresh)
    dataset, units = check_inputs(config)
    network = features.feature_facts(config)
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
        shutil.rmtree(work_folder, ignore_errors=True)
        return teacher.finished
    work = _work_folder(teacher, config, network)
    parts = extract(units, config, work.parts)
    clusters, facts = _cluster(parts, dataset.classes, config, work.states)
    provenance = {
        "source": "features",
        **network,
        "data_manifest_sha256": artefact.sha256_of(Path(config.data_path) / artefact.MANIFEST),
        "seed": config.seed,
        "crops": crops_text(dataset),
        **_data_facts(parts, units, config),
        **facts,
    }
    found = histogram.build_histogram(
        torch.tensor(clusters.centroids), fine_bins=config.fine_bins, provenance=provenance
    )
    manifest = _save(teacher, found)
    shutil.rmtree(work_folder, ignore_errors=True)
    return manifest


def check_inputs(config: TeacherRun) -> tuple[DatasetInfo, list[DrawnRows]]:
    """The facts of the shards and the rows to draw; raises ValueError for a network that is not there, and for fewer
    vectors than clusters.
    """
    networks.check_network(config)
    dataset = read_image_dataset(Path(config.data_path))
    units = draw_images(dataset, config)
    vectors_per_image = min(config.vectors_per_image, features.grid_side(config) ** 2)
    clustering.check_count(sum(len(unit.rows) for unit in units) * vectors_per_image, config)
    if config.clusters_per_class:
        check_classes(units, dataset, config, vectors_per_image)
    return dataset, units


def _from_centroids(config: TeacherRun, *, fresh: bool) -> dict[str, Any]:
    found = centroids.from_centroids(
        Path(config.data_path),
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
    fingerprint = artefact.fingerprint("features", settings, [Path(config.data_path)])
    parts = teacher.folder / WORK_FOLDER / fingerprint[:16]
    states = parts / f"k-means-{teacher.fingerprint[:16]}"
    states.mkdir(parents=True, exist_ok=True)
    return WorkFolder(parts, states)


def peak_memory_gib(vectors: int, channels: int, num_parts: int, config: TeacherRun) -> float:
    """Driver memory that the clustering needs at most, beyond what a started job holds (about 1 GiB).

    The array of prepared vectors, unless it exceeds `memory_gib` (then none, or per class as much as that); one part
    while it is read and prepared, in four copies; fp64 blocks and what the libraries keep of them, 0.5 GiB; centroids
    and their sums; the second moments. 205,800 vectors of width 1,280 in 20 parts were measured to take 1.71 GiB, where
    this says 1.72.
    """
    width = config.project_width or channels
    array = min(vectors * width * 4, config.memory_gib * 2**30)
    if where_clustered(vectors, channels, config) == "over the actor pool":
        array = 0
    part = vectors / num_parts * (3 * channels + width) * 4
    centroids_bytes = 4 * (config.clusters_per_class or config.num_clusters) * width * 8
    moments = 3 * channels * channels * 8 if config.project_width else 0
    return (array + part + (1 << 29) + centroids_bytes + moments) / 2**30


def where_clustered(vectors: int, channels: int, config: TeacherRun) -> str:
    """ "in memory"; "over the actor pool" where prepared vectors exceed `memory_gib`; or "per class",
    on the driver.
    """
    if config.clusters_per_class:
        return "per class"
    size = vectors * (config.project_width or channels) * 4
    return "over the actor pool" if size > config.memory_gib * 2**30 else "in memory"


# ------------------------------------------------------------------------------------------ clustering


class PartTask(NamedTuple):
    """What an actor does with a group of parts: add up moments or partial sums, or pick rows."""

    parts: Sequence[Part]
    rows: Sequence[Int[np.ndarray, " m"]] | None = None
    """Rows to pick from each part."""


class Given(NamedTuple):
    """What all tasks of a pass share."""

    prepare: Preparation | None = None
    """Without it, moments are added up."""
    centroids: Float[np.ndarray, "clusters width"] | None = None


class PartActor:
    """Reads parts of features, prepares their vectors on the way, and adds them up."""

    def __init__(self, config: TeacherRun) -> None:
        self._config = config
        self._device = actor_device(config.pool)
        if config.pool.threads_per_actor:
            torch.set_num_threads(config.pool.threads_per_actor)
            faiss.omp_set_num_threads(config.pool.threads_per_actor)

    def __call__(self, task: PartTask, given: Given) -> Any:
        """Moments, rows or partial sums of the parts, in their order."""
        prepare, centroids = given.prepare, given.centroids
        if prepare is None:
            return moments_of(task.parts, self._config)
        if task.rows is not None:
            picked = zip(task.parts, task.rows, strict=True)
            # Rows of the whole product: a product of few rows rounds differently.
            return np.concatenate([prepare(read_vectors(part))[rows] for part, rows in picked])
        assert centroids is not None
        return preparation.add_up(
            clustering.partial_sums(
                prepare(read_vectors(part)),
                centroids,
                spherical=self._config.spherical,
                device=self._device,
            )
            for part in task.parts
        )


class OnDisk:
    """Prepared vectors that stay in their parts: every pass runs over the actor pool."""

    def __init__(
        self, groups: Sequence[Sequence[Part]], prepare: Preparation, pool: PersistentActors
    ) -> None:
        self._groups, self._prepare, self._pool = groups, prepare, pool
        self.count = sum(part.count for group in groups for part in group)

    def rows(self, indices: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m width"]:
        """The vectors at these ascending positions, from the parts that hold them."""
        tasks, first = [], 0
        for group in self._groups:
            rows = []
            for part in group:
                rows.append(indices[(indices >= first) & (indices < first + part.count)] - first)
                first += part.count
            tasks.append(PartTask(group, rows))
        return np.concatenate(list(self._pool.map(tasks, Given(self._prepare))))

    def partial_sums(self, centroids: Float[np.ndarray, "clusters width"]) -> PartialSums:
        """The sums of the groups, added in their order as they come back."""
        tasks = [PartTask(group) for group in self._groups]
        return preparation.add_up(self._pool.map(tasks, Given(self._prepare, centroids)))


def moments_of(parts: Sequence[Part], config: TeacherRun) -> preparation.Moments:
    """Moments of some parts, in their order."""
    return preparation.add_up(
        preparation.moments(read_vectors(part), second=bool(config.project_width)) for part in parts
    )


def groups_of(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts in order in at most `_GROUPS` groups, a function of the parts alone."""
    number = min(_GROUPS, len(parts))
    edges = [len(parts) * index // number for index in range(number + 1)]
    return [list(parts[a:b]) for a, b in itertools.pairwise(edges)]


def _cluster(
    parts: list[Part], classes: Sequence[str], config: TeacherRun, work: Path
) -> tuple[Clusters, dict[str, Any]]:
    """Prepare the vectors and cluster them where they fit."""
    parts = [part for part in parts if part.count]
    count = sum(part.count for part in parts)
    clustering.check_count(count, config)
    groups = groups_of(parts)
    width = config.project_width or read_vectors(parts[0]).shape[1]
    where = where_clustered(count, width, config)
    size = count * width * 4 / 2**30
    logger.info("k-means: %d vectors of width %d (%.2f GiB), %s", count, width, size, where)
    if where == "over the actor pool":
        with PersistentActors(PartActor, {"config": config}, config.pool) as pool:
            tasks = [PartTask(group) for group in groups]
            prepare = preparation.preparation(preparation.add_up(pool.map(tasks, Given())), config)
            clusters = _fit(OnDisk(groups, prepare, pool), config, work)
    else:
        found = preparation.add_up(moments_of(group, config) for group in groups)
        prepare = preparation.preparation(found, config)
        if config.clusters_per_class:
            clusters = _per_class(parts, classes, prepare, config, work)
        else:
            clusters = _fit(_load(groups, prepare, config), config, work)
    return clusters, {
        "clustering": where,
        "faiss": str(faiss.__version__),
        "kmeans_seeding": config.kmeans_seeding,
        "kmeans_restarts": config.kmeans_restarts,
        "kmeans_iterations": len(clusters.objective) - 1,
        "objective": clusters.objective,
        "spherical": config.spherical,
        "center": config.center,
        "project_width": config.project_width,
        "projection_kept_share": prepare.kept_share,
        "clusters_per_class": config.clusters_per_class,
        "smallest_cluster": int(clusters.sizes.min()),
        "median_cluster": float(np.median(clusters.sizes)),
        "largest_cluster": int(clusters.sizes.max()),
    }


def _fit(vectors: clustering.Vectors, config: TeacherRun, work: Path) -> Clusters:
    """All vectors together; the state after each iteration is kept in the working folder."""
    path, saved = work / "kmeans.npz", itertools.count(1)

    def save(state: clustering.State) -> None:
        clustering.save_state(path, state)
        faults.boundary("iteration", next(saved))

    state = clustering.load_state(path)
    return clustering.fit(vectors, config.num_clusters, config, state=state, save=save)


def _load(groups: list[list[Part]], prepare: Preparation, config: TeacherRun) -> InMemory:
    """One array, filled part by part: raw features are never held beside it, but for one part."""
    counts = [sum(part.count for part in group) for group in groups]
    array, start = None, 0
    for group in groups:
        for part in group:
            prepared = prepare(read_vectors(part))
            if array is None:
                array = np.empty((sum(counts), prepared.shape[1]), np.float32)
            array[start : start + part.count] = prepared
            start += part.count
    assert array is not None
    edges = [[part.count for part in group] for group in groups]
    return InMemory(array, spherical=config.spherical, groups=edges)


def _per_class(
    parts: list[Part],
    classes: Sequence[str],
    prepare: Preparation,
    config: TeacherRun,
    work: Path,
) -> Clusters:
    """Each class clustered by itself, as many classes per reading of the parts as fit in memory."""
    per_label = np.zeros(len(classes), np.int64)
    for part in parts:
        for label, number in part.vectors_per_label.items():
            per_label[int(label)] += number
    raise_for_small_classes(per_label, classes, config)
    done = [work / f"class-{label:06d}.npz" for label in range(len(classes))]
    missing = [label for label, path in enumerate(done) if not path.is_file()]
    width = config.project_width or read_vectors(parts[0]).shape[1]
    most = max(1, int(config.memory_gib * 2**30 // (4 * width)))
    while missing:
        taken, total = [missing[0]], per_label[missing[0]]
        for label in missing[1:]:
            if total + per_label[label] > most:
                break
            taken.append(label)
            total += per_label[label]
        sizes = {label: int(per_label[label]) for label in taken}
        for label, vectors in _vectors_of_classes(parts, sizes, width, prepare).items():
            clusters = clustering.fit(
                InMemory(vectors, spherical=config.spherical),
                config.clusters_per_class,
                config,
                stage=f"k-means, class {classes[label]}",
                setting=f"class {classes[label]!r}: clusters_per_class",
            )
            clustering.save_state(done[label], clustering.State(1, (), None, clusters))
        missing = missing[len(taken) :]
    found = [clustering.load_state(path) for path in done]
    best = [state.best for state in found if state is not None and state.best is not None]
    return Clusters(
        np.concatenate([clusters.centroids for clusters in best]),
        np.concatenate([clusters.sizes for clusters in best]),
        [float(sum(clusters.objective[end] for clusters in best)) for end in (0, -1)],
    )


def _vectors_of_classes(
    parts: list[Part], sizes: dict[int, int], width: int, prepare: Preparation
) -> dict[int, Float[np.ndarray, "n width"]]:
    """Prepared vectors of some classes, each filled into an array of its known size."""
    found = {label: np.empty((size, width), np.float32) for label, size in sizes.items()}
    filled = dict.fromkeys(sizes, 0)
    for part in parts:
        if not any(str(label) in part.vectors_per_label for label in sizes):
            continue
        here, vectors = read_labels(part), read_vectors(part)
        for label, array in found.items():
            chosen = vectors[here == label]
            if len(chosen):
                array[filled[label] : filled[label] + len(chosen)] = prepare(chosen)
                filled[label] += len(chosen)
    return found


# ------------------------------------------------------------------------------------------ results


def _data_facts(parts: list[Part], units: Sequence[Any], config: TeacherRun) -> dict[str, Any]:
    return {
        "num_images": sum(part.images for part in parts),
        "num_vectors": sum(part.count for part in parts),
        "undecodable_images": sum(len(part.broken) for part in parts),
        "drawn_images": sum(len(unit.rows) for unit in units),
        "vectors_per_image": config.vectors_per_image,
        "stratified": config.stratified,
    }


def _save(place: Output, teacher: histogram.TeacherHistogram) -> dict[str, Any]:
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
