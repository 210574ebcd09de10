"""Finished evaluations and what they measured: the tokenizer, the samples, the generator, and their scale.

An evaluation's manifest names its inputs. A folder of them that is gone leaves its facts out and is named.
Read next: glotok_ray/report/linked_models.py
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from glotok_ray.evaluation.files import FOREIGN_SAMPLES
from glotok_ray.report.linked_models import (
    LinkedGenerator,
    LinkedSamples,
    LinkedTokenizer,
    read_generator,
    read_own_tokenizer,
    read_samples,
    read_tokenizer,
)
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import MANIFEST, ArtefactError
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
KIND = "evaluation"

Linked = TypeVar("Linked")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """One evaluation with all that it is an evaluation of."""

    folder: Path
    commit: str
    """Git commit of the evaluation, seven digits; empty outside a checkout."""
    metrics: Mapping[str, Mapping[str, Any]]
    """metrics.json."""
    num_images: int
    """Validation crops measured."""
    image_size: int | None
    """Side of the crops, pixels; None where an older version left it out."""
    num_classes: int | None
    crops: str
    uniformity_vectors: int | None
    """Latent vectors per draw of Table 3's measure."""
    tokenizer: LinkedTokenizer | None
    samples: LinkedSamples | None
    generator: LinkedGenerator | None
    missing: Sequence[str]
    """One sentence per linked folder that is not there."""

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer's run, else the folder's."""
        return self.tokenizer.name if self.tokenizer else self.folder.name

    @property
    def generator_name(self) -> str:
        """The name of the generator's run, else the folder's."""
        return self.generator.name if self.generator else self.folder.name

    @property
    def data(self) -> str:
        """Classes and side of the crops, as protocols name them."""
        if self.image_size is None or self.num_classes is None:
            return ""
        return f"{self.num_classes:,} classes at {self.image_size} x {self.image_size} pixels"

    @property
    def measures_tokenizer(self) -> bool:
        """Whether reconstructions were measured."""
        return any(name.startswith("reconstruction_") for name in self.metrics)


def evaluation_folders(folders: Sequence[Path], *, skip_missing: bool = False) -> list[Path]:
    """The evaluations that the given folders are, or hold in their sub-folders, in the order given.

    Raises ArtefactError for an evaluation that comes twice and, unless `skip_missing`, for a folder that is none and
    holds none or is unfinished; ArtefactError when nothing is left.
    """
    found: list[Path] = []
    for folder in folders:
        try:
            evaluations = _evaluations_in(folder)
        except ArtefactError as error:
            if not skip_missing:
                raise
            logger.info("left out: %s", error)
            continue
        for inner in evaluations:
            if inner in found:
                raise ArtefactError(f"{inner}: is given twice; name each evaluation once")
            found.append(inner)
    if not found:
        raise ArtefactError(
            f"{', '.join(map(str, folders))}: none is a finished evaluation; run jobs.evaluate_images first"
        )
    return found


def _evaluations_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ArtefactError(
            f"{folder}: no such folder; run the job that writes it, or correct the path"
        )
    if (folder / METRICS_FILE).is_file() and not (folder / MANIFEST).is_file():
        raise ArtefactError(
            f"{folder}: is unfinished (no {MANIFEST}); let jobs.evaluate_images finish it first"
        )
    if _is_evaluation(folder):
        return [folder.resolve()]
    inner = sorted(place.resolve() for place in folder.iterdir() if _is_evaluation(place))
    if not inner:
        raise ArtefactError(
            f"{folder}: holds no {METRICS_FILE} of an evaluation, nor does a folder in it; give the folder that "
            "jobs.evaluate_images wrote"
        )
    return inner


def _is_evaluation(folder: Path) -> bool:
    if not artefact.is_finished(folder) or not (folder / METRICS_FILE).is_file():
        return False
    return artefact.stated_manifest(folder)["kind"] == KIND


def read_run(folder: Path) -> FinishedRun:
    """What a finished evaluation says, with what it links to; raises ArtefactError for damaged files."""
    manifest = artefact.read_manifest(folder, KIND)
    # Older versions did not name their inputs.
    config: dict[str, Any] = manifest.get("config", {})
    missing: list[str] = []
    if not config:
        missing.append(
            f"{folder.name}: an older version wrote it and did not note what it measured"
        )
    # Samples of others lie in no folder of ours; their protocols say what they are.
    is_foreign = FOREIGN_SAMPLES in manifest
    samples = None if is_foreign else _linked(config.get("samples_path"), read_samples, missing)
    generator_path = samples.generator_path if samples else config.get("generator_path")
    generator = _linked(generator_path, read_generator, missing)
    tokenizer_path = config.get("tokenizer_path") or (samples.tokenizer_path if samples else "")
    tokenizer = _linked(tokenizer_path, read_tokenizer, missing)
    if samples and generator and not tokenizer_path:
        tokenizer = _linked(generator_path, read_own_tokenizer, missing)
    return FinishedRun(
        folder=folder,
        commit=manifest["versions"]["git_commit"][:7],
        metrics=artefact.read_json(folder / METRICS_FILE),
        num_images=manifest["num_images"],
        image_size=manifest.get("image_size"),
        num_classes=manifest.get("num_classes"),
        crops=manifest.get("crops", ""),
        uniformity_vectors=config.get("uniformity_vectors"),
        tokenizer=tokenizer,
        samples=samples,
        generator=generator,
        missing=missing,
    )


def _linked(path: str | None, read: Callable[[Path], Linked], missing: list[str]) -> Linked | None:
    """What `read` finds in a linked folder; None, and a sentence in `missing`, where it is gone."""
    if not path:
        return None
    try:
        return read(to_path(path))
    except ArtefactError as error:
        missing.append(str(error))
        return None
