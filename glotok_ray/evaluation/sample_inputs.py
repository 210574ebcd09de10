"""The samples of an evaluation, ours or others': what they must be, and their images by number.

Read next: glotok_ray/evaluation/foreign_samples.py
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.data.forms import CROP, ORIGINAL
from glotok_ray.data.recorded import check_classes, check_side, read_image_dataset
from glotok_ray.data.records import DATASET, DatasetInfo
from glotok_ray.data.shard_reader import read_shard_rows
from glotok_ray.evaluation.foreign_samples import (
    IMAGES_FILE,
    ForeignSamples,
    is_foreign,
    read_files_of,
    read_foreign,
)
from glotok_ray.evaluation.sample_files import read_images, stored_images, unpacked
from glotok_ray.pretrained.generator import read_facts
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE, code_layout
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path


class Samples(NamedTuple):
    """The facts of samples that fit an evaluation."""

    num_images: int
    image_size: int
    """Side, pixels."""
    foreign: ForeignSamples | None = None
    """What lies at the path of samples of others; None of our own."""


def measured_samples(config: EvaluateRun, dataset: DatasetInfo) -> Samples:
    """The samples' facts; raises ArtefactError when they are of other classes than the validation images of `dataset`,
    of another size than these or, of our own, drawn through another tokenizer than the one that they are measured
    beside.
    """
    if is_foreign(to_path(config.samples_path)):
        samples = read_foreign(to_path(config.samples_path))
        _check_foreign(samples, config, dataset)
        return Samples(samples.num_images, samples.image_size, samples)
    return _measured_own(config, dataset)


def unpack_samples(config: EvaluateRun, folder: Path) -> None:
    """Write the images of a compressed npz as a plain one into `folder`, once, before actors ask for it."""
    if to_path(config.samples_path).is_file():
        unpacked(to_path(config.samples_path), folder)


class ReadSamples(NamedTuple):
    """Some samples."""

    images: UInt8[np.ndarray, "b h w 3"]
    labels: Integer[np.ndarray, " b"] | None
    """Class numbers; None where nothing says them."""


class SampleReader:
    """The images of samples_path by their numbers; `folder` holds the plain copy of a compressed npz."""

    def __init__(self, config: EvaluateRun, folder: Path | None, *, image_size: int = 0) -> None:
        """With the side of the samples, where it is known, headers of images are not read once more.

        Raises ArtefactError as `read_foreign` does.
        """
        self._path, self._pool = to_path(config.samples_path), config.pool
        self._foreign: ForeignSamples | None = None
        self._stored = self._path / IMAGES_FILE
        if is_foreign(self._path):
            self._foreign = read_foreign(self._path, image_size=image_size)
            if self._path.is_file():
                self._stored = unpacked(self._path, folder) if folder else self._path

    def read(self, start: int, stop: int) -> ReadSamples:
        """Samples start .. stop."""
        foreign = self._foreign
        if foreign is None:
            minutes = self._pool.storage_retry_minutes
            rows = read_shard_rows(
                self._path / "samples.parquet", start, stop, minutes=minutes, columns=("label",)
            )
            return ReadSamples(read_images(self._stored, start, stop), rows["label"].to_numpy())
        labels = None if foreign.labels is None else foreign.labels[start:stop]
        if foreign.files:
            threads = self._pool.decoding_threads
            return ReadSamples(read_files_of(foreign, start, stop, num_threads=threads), labels)
        return ReadSamples(read_images(self._stored, start, stop), labels)


def _check_foreign(samples: ForeignSamples, config: EvaluateRun, dataset: DatasetInfo) -> None:
    for field in ("codes_path", "generator_path"):
        if getattr(config, field):
            raise ArtefactError(
                f"{field} = {getattr(config, field)!r}: nothing says that {samples.path} was drawn by that generator "
                f"or decoded by that tokenizer; leave {field} empty to measure samples of others"
            )
    side, stored = samples.image_size, dataset.image_size
    fits = dataset.form == ORIGINAL or (side == stored if dataset.form == CROP else side <= stored)
    if not fits:
        raise ArtefactError(
            f"{samples.path}: its images have {side} x {side} pixels, and the validation crops of {config.data_path} "
            f"{stored} x {stored} ({DATASET}: form = {dataset.form!r}); bring samples of that size, or shards of this"
        )
    if config.tokenizer_path:
        made = code_layout(to_path(config.tokenizer_path)).image_size
        if made != side:
            raise ArtefactError(
                f"{samples.path}: its images have {side} x {side} pixels, and tokenizer_path = {config.tokenizer_path} "
                f"reconstructs crops of {made}; measure the samples alone, without tokenizer_path"
            )
    _check_labels(samples, dataset, config.data_path)


def _check_labels(samples: ForeignSamples, dataset: DatasetInfo, data_path: str) -> None:
    if samples.labels is None:
        return
    low, high, classes = samples.labels.min(), samples.labels.max(), len(dataset.classes)
    if low < 0 or high >= classes:
        raise ArtefactError(
            f"{samples.path}: its labels reach from {low} to {high}, and {data_path} has {classes} classes; correct a "
            "path, or write the file without labels"
        )


def _measured_own(config: EvaluateRun, dataset: DatasetInfo) -> Samples:
    folder = to_path(config.samples_path)
    manifest, samples = artefact.read_manifest(folder, "samples"), read_image_dataset(folder)
    recorded = (samples.num_images, samples.image_size, samples.image_size, 3)
    found = stored_images(folder / IMAGES_FILE).shape
    if found != recorded:
        raise ArtefactError(
            f"{folder / IMAGES_FILE}: holds an array of shape {found}, and {DATASET} says {recorded}; sample again "
            "with --fresh"
        )
    check_classes(samples.classes, str(folder), dataset.classes, config.data_path)
    check_side(dataset, to_path(config.data_path), samples.image_size)
    decoded_by = manifest["tokenizer_sha256"]
    if config.tokenizer_path:
        digest = artefact.sha256_of(to_path(config.tokenizer_path) / WEIGHTS_FILE)
        if decoded_by != digest:
            raise ArtefactError(
                f"{folder}: decoded by tokenizer {decoded_by[:12]}, but tokenizer_path = {config.tokenizer_path} is "
                f"{digest[:12]}, whose reconstructions and baselines would stand beside them; correct a path, or "
                "measure the samples alone, without tokenizer_path and codes_path"
            )
    elif config.generator_path:
        digest = read_facts(to_path(config.generator_path))["tokenizer_sha256"]
        if decoded_by != digest:
            raise ArtefactError(
                f"{folder}: decoded by tokenizer {decoded_by[:12]}, but generator_path = {config.generator_path} "
                f"learned codes of {digest[:12]}, so it drew none of them; correct a path"
            )
    return Samples(samples.num_images, samples.image_size)
