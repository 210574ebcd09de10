"""Teachers from vectors that exist already: a matrix in a file, or the semantic codebook of a checkpoint.

Read next: glotok_ray/teacher/histogram.py
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.weights import BRING_ANOTHER, check_finite, read_tensors, unnested
from glotok_ray.teacher import histogram
from glotok_ray.teacher.histogram import TeacherHistogram

SUFFIXES = (".npy", ".pt", ".pth", ".safetensors")
# GloTok (this package), FQGAN, ImageFolder and XQ-GAN (the semantic branch is their last), LlamaGen and taming.
SEMANTIC_CODEBOOKS = (
    "branches.semantic.quantizer.codebook",
    "quantize_sem.embedding.weight",
    "quantize_sem_high.embedding.weight",
    "quantizes.1.embedding.weight",
    "quantize.embedding.weight",
)


class Centroids(NamedTuple):
    """A matrix, the tensor's name in its file (empty in .npy), and the file's digest."""

    vectors: Float[Tensor, "clusters width"]
    key: str
    sha256: str


def from_centroids(
    path: Path, *, key: str = "", project_width: int = 0, fine_bins: int
) -> TeacherHistogram:
    """A teacher of the vectors in a file; with `project_width` on the principal axes of their directions,
    nothing subtracted.

    Raises ArtefactError, also for zero or non-finite vectors and for a projection wider than they are.
    """
    found = read_centroids(path, key)
    facts = {"source": "centroids", "file": path.name, "key": found.key, "sha256": found.sha256}
    try:
        teacher = histogram.build_histogram(found.vectors, fine_bins=fine_bins, provenance=facts)
        return teacher.projected(project_width) if project_width else teacher
    except ValueError as error:
        raise ArtefactError(f"{path}: {error}") from error


def read_centroids(path: Path, key: str = "") -> Centroids:
    """Vectors of a .npy matrix, a .safetensors file, or a .pt / .pth checkpoint (tensors may lie under
    "model", "state_dict", "module" or "ema").

    An empty `key` takes the first of `SEMANTIC_CODEBOOKS`, or else the only matrix of floating-point numbers. Nothing
    in the file is executed. Raises ArtefactError that names the file, also for other dtypes, for numbers that are not
    finite and for rows of zeros.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such centroid file; correct data_path")
    tensors = _read_tensors(path)
    name = _choose(path, tensors, key)
    vectors = tensors[name]
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise ArtefactError(
            f"{path}: {name!r} is {vectors.dtype} of shape {tuple(vectors.shape)}; centroids are a "
            "matrix of real numbers (K, width), stored as floating-point numbers of 16, 32 or 64 bits; name another "
            "tensor with --centroids-key, or convert it"
        )
    vectors = vectors.float()
    check_finite({name: vectors}, path, BRING_ANOTHER)
    zeros = torch.nonzero(vectors.abs().amax(dim=1) == 0).flatten().tolist()
    if zeros:
        raise ArtefactError(
            f"{path}: {name!r}: {len(zeros)} of {len(vectors)} rows are zero, row {zeros[0]} first: a vector is zero "
            "and has no direction; remove these rows, or cluster again"
        )
    return Centroids(vectors, "" if path.suffix == ".npy" else name, artefact.sha256_of(path))


def _choose(path: Path, tensors: Mapping[str, Tensor], key: str) -> str:
    if key:
        if key in tensors:
            return key
        near = difflib.get_close_matches(key, tensors, n=5, cutoff=0.3)
        raise ArtefactError(
            f"{path}: centroids_key = {key!r}: no such tensor among {len(tensors)}; near names: "
            f"{', '.join(near) or 'none'}"
        )
    for name in SEMANTIC_CODEBOOKS:
        if name in tensors:
            return name
    matrices = [name for name, tensor in tensors.items() if tensor.ndim == 2]
    real = [name for name in matrices if tensors[name].is_floating_point()]
    if len(real) == 1 or len(matrices) == 1:
        return (real or matrices)[0]
    shown = ", ".join(matrices[:8]) + (", ..." if len(matrices) > 8 else "")
    raise ArtefactError(
        f"{path}: holds {len(matrices)} matrices and no semantic codebook of a known name"
        f"{f' ({shown})' if shown else ''}; choose one with --centroids-key"
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npy":
        return {"matrix": _read_matrix(path)}
    return _tensors_of(read_tensors(path, purpose="centroids", suffixes=SUFFIXES))


def _read_matrix(path: Path) -> Tensor:
    try:
        matrix = np.load(at_hand(path), allow_pickle=False)
    except (ValueError, TypeError, OSError, EOFError, LookupError) as error:
        raise ArtefactError(
            f"{path}: not readable as centroids ({error}); bring one of {', '.join(SUFFIXES)}"
        ) from error
    # A conversion to fp32 would drop imaginary parts, and make numbers of counts and truth values.
    if not isinstance(matrix, np.ndarray) or not np.issubdtype(matrix.dtype, np.floating):
        kind = getattr(matrix, "dtype", type(matrix).__name__)
        raise ArtefactError(
            f"{path}: holds {kind}; centroids are a matrix of real numbers (K, width), stored as floating-point "
            "numbers of 16, 32 or 64 bits; bring such a file, or convert it"
        )
    # What fp32 cannot hold becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))


def _tensors_of(loaded: Any) -> dict[str, Tensor]:
    if isinstance(loaded, Tensor):
        return {"matrix": loaded}
    if not isinstance(loaded, Mapping):
        return {}
    return {name: value for name, value in unnested(loaded).items() if isinstance(value, Tensor)}
