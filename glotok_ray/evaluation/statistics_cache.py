"""Reference statistics that were computed here, kept in files under a hash of everything that they depend on.

Read next: glotok_ray/evaluation/kept_features.py
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from glotok_ray.evaluation.extractors import Network
from glotok_ray.evaluation.features import FeatureExtractor
from glotok_ray.metrics.frechet import FeatureMoments
from glotok_ray.storage.artefact import ArtefactError, replacing
from glotok_ray.storage.node_cache import at_hand

_VERSION = 2
"""Of how features and moments are computed: raise it with any change of their digits."""
_KEY = "key"
_PARTS = ("count", "mean", "scatter")


@dataclass(frozen=True)
class StatisticsKey:
    """What computed statistics depend on: other values, other statistics."""

    extractor: str
    """Its name."""
    weights_sha256: str
    outputs: Mapping[str, int]
    """Widths by name."""
    input_contract: str
    """How images reach the network."""
    crop: str
    """How images were cut, in words, with their side."""
    num_images: int
    image_ids_sha256: str
    """`ids_sha256` of the images, in their order."""
    dataset: str
    """Identity of the data set, such as a digest of its shards."""
    computed: str = ""
    """How the features were computed, as far as their last digits may depend on it: device, batches, packages."""

    @classmethod
    def of(
        cls,
        extractor: FeatureExtractor | Network,
        *,
        crop: str,
        image_ids: Iterable[str],
        dataset: str,
        computed: str = "",
    ) -> "StatisticsKey":
        """The key of statistics of these images by `extractor`."""
        ids = list(image_ids)
        return cls(
            extractor=extractor.name,
            weights_sha256=extractor.weights_sha256,
            outputs=dict(extractor.outputs),
            input_contract=extractor.input_contract,
            crop=crop,
            num_images=len(ids),
            image_ids_sha256=ids_sha256(ids),
            dataset=dataset,
            computed=computed,
        )

    def only(self, output: str) -> "StatisticsKey":
        """The key of one output's statistics."""
        return replace(self, outputs={output: self.outputs[output]})

    @property
    def sha256(self) -> str:
        """The hash of all of it."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """All of it as JSON in one order."""
        return json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True)


def ids_sha256(ids: Iterable[str]) -> str:
    """Digest of a list of names; another order is another list, and no two lists look the same."""
    digest = hashlib.sha256()
    for name in ids:
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def statistics_path(folder: Path, key: StatisticsKey) -> Path:
    """Where the statistics of `key` lie in a cache."""
    return folder / f"statistics-{key.sha256[:16]}.npz"


def write_statistics(
    folder: Path, key: StatisticsKey, moments: Mapping[str, FeatureMoments]
) -> Path:
    """Keep the moments of every output; returns their file. Raises ValueError for moments that `key` does not
    promise.
    """
    for name, width in key.outputs.items():
        if name not in moments or (moments[name].count, len(moments[name].mean)) != (
            key.num_images,
            width,
        ):
            raise ValueError(
                f"moments: those of {name} must be of {key.num_images} images and of width {width}"
            )
    arrays: dict[str, Any] = {_KEY: np.frombuffer(key.text().encode(), np.uint8)}
    for name in key.outputs:
        arrays |= {f"{name}_{part}": getattr(moments[name], part) for part in _PARTS}
    path = statistics_path(folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    return path


def read_statistics(folder: Path, key: StatisticsKey) -> dict[str, FeatureMoments] | None:
    """The moments that were kept for `key`, or None where there are none.

    Raises ArtefactError for a file that is damaged or of another key: its numbers must not be used.
    """
    path = statistics_path(folder, key)
    if not path.is_file():
        return None
    try:
        with np.load(at_hand(path), allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
        text = found[_KEY].tobytes().decode()
        if text != key.text():
            raise ArtefactError(
                f"{path}: holds statistics of {_difference(text, key)}; remove the file, and they are computed again"
            )
        moments = {
            name: FeatureMoments(
                int(found[f"{name}_count"]), found[f"{name}_mean"], found[f"{name}_scatter"]
            )
            for name in key.outputs
        }
    except ArtefactError:
        raise
    except Exception as error:  # numpy and zipfile raise many untyped errors for damaged files
        raise ArtefactError(
            f"{path}: not readable as kept statistics ({error}); remove the file, and they are computed again"
        ) from error
    _check_moments(path, key, moments)
    return moments


def _check_moments(path: Path, key: StatisticsKey, moments: Mapping[str, FeatureMoments]) -> None:
    for name, width in key.outputs.items():
        count, mean, scatter = moments[name]
        right = (
            count == key.num_images
            and mean.shape == (width,)
            and scatter.shape == (width, width)
            and mean.dtype == scatter.dtype == np.float64
            and np.isfinite(mean).all()
            and np.isfinite(scatter).all()
        )
        if not right:
            raise ArtefactError(
                f"{path}: its {name} moments are not finite float64 of {key.num_images} images and width {width}; "
                "remove the file, and they are computed again"
            )


def _difference(text: str, key: StatisticsKey) -> str:
    """Where a stored key differs from the wanted one."""
    stored, wanted = json.loads(text), json.loads(key.text())
    names = sorted(
        name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name)
    )
    return "; ".join(f"{name} {stored.get(name)!r}, wanted {wanted.get(name)!r}" for name in names)
