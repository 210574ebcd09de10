"""Reference statistics that others published, in files: ADM's npz, pytorch-fid's npz, and torch-fidelity's cache.

A file is known by its sha256. Read next: glotok_ray/evaluation/statistics_cache.py
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from glotok_ray.evaluation.extractors import Network
from glotok_ray.evaluation.features import POOLED, SPATIAL
from glotok_ray.evaluation.sample_files import IMAGES_ARRAY, stored_images
from glotok_ray.storage.artefact import ArtefactError, sha256_of
from glotok_ray.storage.node_cache import at_hand

_ARRAYS = {POOLED: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
# Of the largest entry; fp32 arithmetic leaves that much.
_ASYMMETRY = 1e-4
_KINDS = (
    "bring ADM's npz (mu, sigma, mu_s, sigma_s, arr_0), pytorch-fid's npz (mu, sigma) or a file of torch-fidelity's "
    "cache that ends in -stat-fid-2048.pt (mu, sigma)"
)


class Gaussian(NamedTuple):
    """Mean and covariance of features, in float64."""

    mean: Float[ndarray, " d"]
    covariance: Float[ndarray, "d d"]


class Reference(NamedTuple):
    """What a file of reference statistics holds."""

    path: Path
    sha256: str
    """Of the whole file, by which protocols name it."""
    gaussians: Mapping[str, Gaussian]
    """By the output of the extractor: "pooled" for FID, "spatial" for sFID."""
    num_images: int
    """Images of arr_0, the reference of precision and recall; 0 where there are none. `image_blocks` reads them."""

    def gaussian(self, output: str) -> Gaussian:
        """The statistics of one output; raises ArtefactError where the file has none."""
        if output not in self.gaussians:
            names = " and ".join(_ARRAYS.get(output, (output,)))
            raise ArtefactError(
                f"{self.path}: holds no {names}, the statistics of {output} features; {_KINDS}"
            )
        return self.gaussians[output]


def read_reference(path: Path, extractor: Network) -> Reference:
    """The statistics in `path`, which must be of `extractor`'s widths; nothing in the file is executed.

    Raises ArtefactError for a file of another kind, arrays of wrong shapes, values that are no statistics (not finite,
    negative variances, a covariance that is not symmetric), images that are not uint8, and features of another width.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file; {_KINDS}")
    is_npz = zipfile.is_zipfile(at_hand(path)) and path.suffix != ".pt"
    arrays = _npz_arrays(path) if is_npz else _cache_arrays(path)
    gaussians = {
        output: _gaussian(path, arrays, names)
        for output, names in _ARRAYS.items()
        if any(name in arrays for name in names)
    }
    num_images = stored_images(path).shape[0] if IMAGES_ARRAY in arrays else 0
    if POOLED not in gaussians and not num_images:
        raise ArtefactError(
            f"{path}: holds {', '.join(arrays) or 'nothing'}, but no mu and sigma; {_KINDS}"
        )
    for output, gaussian in gaussians.items():
        _check_width(path, gaussian, output, extractor)
    return Reference(path, sha256_of(path), gaussians, num_images)


def _check_width(path: Path, gaussian: Gaussian, output: str, extractor: Network) -> None:
    width, expected = len(gaussian.mean), extractor.outputs.get(output)
    if width != expected:
        gives = f"gives {expected}" if expected else "gives none"
        raise ArtefactError(
            f"{path}: its {output} features have {width} numbers, and {extractor.name} {gives}: they are features of "
            "another network; bring the reference of this one"
        )


def _npz_arrays(path: Path) -> dict[str, Any]:
    """The statistics in an npz, and None for arr_0, which stays on the disk."""
    wanted = {name for names in _ARRAYS.values() for name in names}
    try:
        with np.load(at_hand(path), allow_pickle=False) as stored:
            return {
                name: None if name == IMAGES_ARRAY else stored[name]
                for name in stored.files
                if name in wanted or name == IMAGES_ARRAY
            } or dict.fromkeys(stored.files)
    except Exception as error:  # numpy and zipfile raise many untyped errors for damaged files
        raise ArtefactError(f"{path}: not readable as npz ({error}); {_KINDS}") from error


def _cache_arrays(path: Path) -> dict[str, Any]:
    """The statistics in a file of torch-fidelity's cache: a pickled dictionary of arrays."""
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            stored = torch.load(at_hand(path), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many untyped errors for foreign files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtefactError(
            f"{path}: not readable as npz or as torch-fidelity's cache ({reason}); {_KINDS}"
        ) from error
    if not isinstance(stored, Mapping):
        raise ArtefactError(
            f"{path}: holds a {type(stored).__name__}, not a dictionary with mu and sigma; {_KINDS}"
        )
    return {
        str(name): value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in stored.items()
        if name != IMAGES_ARRAY
    }


def _numpy_globals() -> list[Any]:
    """What pickled arrays of floats are made of; numpy 1 and 2 call the module of the first by two names."""
    rebuild = np.zeros(1).__reduce__()[0]
    modules = ("numpy._core.multiarray", "numpy.core.multiarray")
    dtypes = [type(np.dtype(name)) for name in ("float32", "float64")]
    return [
        *((rebuild, f"{module}._reconstruct") for module in modules),
        np.ndarray,
        np.dtype,
        *dtypes,
    ]


def _gaussian(path: Path, arrays: Mapping[str, Any], names: tuple[str, str]) -> Gaussian:
    mean, covariance = (_statistic(path, arrays, name) for name in names)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ArtefactError(
            f"{path}: {names[0]} has shape {mean.shape} and {names[1]} {covariance.shape}; must be (d,) and (d, d); "
            f"{_KINDS}"
        )
    largest = float(np.abs(covariance).max(initial=0))
    if float(np.abs(covariance - covariance.T).max(initial=0)) > _ASYMMETRY * largest:
        raise ArtefactError(
            f"{path}: {names[1]} is not symmetric, so it is no covariance; {_KINDS}"
        )
    if np.diagonal(covariance).min(initial=0) < 0:
        raise ArtefactError(
            f"{path}: {names[1]} has negative variances, the least {np.diagonal(covariance).min():.3g}, so it is no "
            f"covariance; {_KINDS}"
        )
    return Gaussian(mean, covariance)


def _statistic(path: Path, arrays: Mapping[str, Any], name: str) -> Float[ndarray, "..."]:
    """One array in float64."""
    if name not in arrays:
        raise ArtefactError(f"{path}: holds {', '.join(arrays)}, but no {name}; {_KINDS}")
    value = arrays[name]
    if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.floating):
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise ArtefactError(f"{path}: {name} is {kind}; must be an array of floats; {_KINDS}")
    if not np.isfinite(value).all():
        raise ArtefactError(f"{path}: {name} holds values that are not finite; {_KINDS}")
    return value.astype(np.float64)
