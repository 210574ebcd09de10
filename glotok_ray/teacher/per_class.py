"""K-means of every class by itself (VQGAN-LC), as many classes per reading of the parts as fit in memory.

Read next: glotok_ray/teacher/clustering.py
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from glotok_ray.config.teacher import KMeansConfig
from glotok_ray.teacher import clustering
from glotok_ray.teacher.clustering import Clusters
from glotok_ray.teacher.feature_parts import Part, read_labels, read_vectors
from glotok_ray.teacher.partial_sums import InMemory
from glotok_ray.teacher.preparation import Preparation


def check_classes(
    vectors: Int[np.ndarray, " classes"], classes: Sequence[str], config: KMeansConfig
) -> None:
    """Raise ValueError that names the first class with fewer vectors than clusters."""
    for label in np.flatnonzero(vectors < config.clusters_per_class).tolist():
        raise ValueError(
            f"kmeans.clusters_per_class = {config.clusters_per_class}: class {classes[label]!r} has only "
            f"{vectors[label]} feature vectors; lower it, or raise max_images or vectors_per_image"
        )


def fit_classes(
    parts: Sequence[Part],
    classes: Sequence[str],
    prepare: Preparation,
    config: KMeansConfig,
    work: Path,
    *,
    width: int,
    seed: int,
) -> Clusters:
    """The clusters of all classes, in the classes' order; each finished class is kept in `work`, so that a run goes on
    after a kill. `width` is that of prepared vectors. Raises what `check_classes` raises.
    """
    per_label = _count_vectors(parts, len(classes))
    check_classes(per_label, classes, config)
    done = [work / f"class-{label:06d}.npz" for label in range(len(classes))]
    missing = [label for label, path in enumerate(done) if not path.is_file()]
    most = max(1, int(config.memory_gib * 2**30 // (4 * width)))
    while missing:
        taken = _first_that_fit(missing, per_label, most)
        sizes = {label: int(per_label[label]) for label in taken}
        for label, vectors in _vectors_of_classes(parts, sizes, width, prepare).items():
            clusters = clustering.fit(
                InMemory(vectors, spherical=config.spherical),
                config.clusters_per_class,
                config,
                seed=seed,
                stage=f"k-means, class {classes[label]}",
                setting=f"class {classes[label]!r}: kmeans.clusters_per_class",
            )
            clustering.save_state(done[label], clustering.State(1, (), None, clusters))
        missing = missing[len(taken) :]
    return _joined(done)


def _count_vectors(parts: Sequence[Part], num_classes: int) -> Int[np.ndarray, " classes"]:
    per_label = np.zeros(num_classes, np.int64)
    for part in parts:
        for label, number in part.vectors_per_label.items():
            per_label[int(label)] += number
    return per_label


def _first_that_fit(
    labels: Sequence[int], per_label: Int[np.ndarray, " classes"], most: int
) -> list[int]:
    """The first of `labels` whose vectors together are at most `most`; one at least."""
    taken, total = [labels[0]], per_label[labels[0]]
    for label in labels[1:]:
        if total + per_label[label] > most:
            break
        taken.append(label)
        total += per_label[label]
    return taken


def _joined(paths: Sequence[Path]) -> Clusters:
    found = [clustering.load_state(path) for path in paths]
    best = [state.best for state in found if state is not None and state.best is not None]
    return Clusters(
        np.concatenate([clusters.centroids for clusters in best]),
        np.concatenate([clusters.sizes for clusters in best]),
        [float(sum(clusters.objective[end] for clusters in best)) for end in (0, -1)],
    )


def _vectors_of_classes(
    parts: Sequence[Part], sizes: dict[int, int], width: int, prepare: Preparation
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
