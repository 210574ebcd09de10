"""What the page shows, gathered from the folders that a quickstart run leaves behind.

A part that is not there becomes a note, so that the page says what is missing. Read next:
glotok_ray/report/page.py
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet
from jaxtyping import Int, UInt8
from numpy import ndarray

from glotok_ray.data.records import DATASET
from glotok_ray.evaluation.files import BASELINES, CODE_COUNTS_FILE, RECONSTRUCTIONS_FILE
from glotok_ray.report.images import ImagePairs, LabelledImages, Retention
from glotok_ray.report.metric_log import MetricLog, read_metric_lines
from glotok_ray.report.real_crops import read_real_crops
from glotok_ray.report.stage_times import is_least, seconds_of
from glotok_ray.storage import artefact
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.retries import StorageError

MOST_CLASSES = 24
"""Classes shown; of more, the first in label order."""
REAL_PER_CLASS = 4

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Everything the page needs, already in memory; None or empty where the run has no such
    part.
    """

    title: str = "GloTok run"
    stages: Sequence[Mapping[str, Any]] = ()
    """One of {"stage", "seconds", "began_unix_s", "attempts", "status", "folder", "summary", "versions"} per stage, in
    order; several may have run at the same time. Older runs have neither attempts nor versions in it.
    """
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """metrics.json: name -> {"label", "value", "protocol", "std", "chance"}; FAR's begin with far_, those of the
    tokenizer without the relation loss with twin_.
    """
    reconstructions: ImagePairs | None = None
    retention: Retention | None = None
    real_crops: LabelledImages | None = None
    samples: LabelledImages | None = None
    far_samples: LabelledImages | None = None
    baselines: Mapping[str, UInt8[ndarray, "n h w 3"]] = field(default_factory=dict)
    """Description of a baseline -> its images."""
    class_names: Sequence[str] = ()
    num_train_images: int | None = None
    tokenizer_log: MetricLog = ()
    twin_log: MetricLog = ()
    generator_log: MetricLog = ()
    far_log: MetricLog = ()
    relation: Mapping[str, Any] | None = None
    """relation.json: bins, teacher, student_initial, student_final, kl_initial, kl_final."""
    twin_relation: Mapping[str, Any] | None = None
    """The same of the tokenizer without the relation loss."""
    code_counts: Mapping[str, Int[ndarray, " n"]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    """versions.json of an older run, whose stages.json tells none."""
    missing: Sequence[str] = ()
    """One sentence per part that could not be read."""

    @property
    def shown_classes(self) -> list[int]:
        """Labels of the classes that have samples, in order, at most MOST_CLASSES."""
        return _shown_classes(self.samples, self.far_samples)

    @property
    def seconds(self) -> float:
        """In which at least one stage ran, as far as it is known."""
        return seconds_of(self.stages)

    @property
    def minutes_text(self) -> str:
        """`seconds` in minutes, without the unit."""
        least = "at least " if is_least(self.stages) else ""
        return f"{least}{self.seconds / 60:.1f}"


def collect(run_folder: Path) -> ReportInputs:
    """Gather the parts that lie in RUN's folders, one per stage, and in RUN/*.json."""
    missing: list[str] = []

    def part(path: str, read: Callable[[Path], Part], otherwise: Part) -> Part:
        try:
            return read(run_folder / path)
        except (OSError, ValueError, KeyError, StorageError) as error:
            reason = "no such file" if not (run_folder / path).exists() else str(error)
            missing.append(f"{path}: {reason}")
            return otherwise

    samples = part("samples/samples.npz", _read_samples, None)
    far_samples = part("far_samples/samples.npz", _read_samples, None)

    def real_crops(folder: Path) -> LabelledImages | None:
        shown = samples or far_samples
        if shown is None:
            return None
        classes = _shown_classes(samples, far_samples)
        return read_real_crops(
            folder, classes=classes, per_class=REAL_PER_CLASS, image_size=shown.images.shape[1]
        )

    dataset = part(f"data/train/{DATASET}", artefact.read_json, {})
    stages = part("stages.json", artefact.read_json, [])
    is_older = not any(stage.get("versions") for stage in stages)
    return ReportInputs(
        title=f"GloTok {run_folder.resolve().name}",
        stages=stages,
        metrics=part("evaluation/metrics.json", lambda _: read_metrics(run_folder), {}),
        reconstructions=part(f"evaluation/{RECONSTRUCTIONS_FILE}", read_pairs, None),
        retention=part("evaluation/retention.npz", read_retention, None),
        real_crops=part("data/train", real_crops, None),
        samples=samples,
        far_samples=far_samples,
        baselines={
            text: images
            for name, text in BASELINES.items()
            if (images := part(f"evaluation/{name}.npz", _read_images, None)) is not None
        },
        class_names=dataset.get("classes", []),
        num_train_images=dataset.get("num_images"),
        tokenizer_log=part("tokenizer/metrics.jsonl", read_metric_lines, []),
        twin_log=part("twin/metrics.jsonl", read_metric_lines, []),
        generator_log=part("generator/metrics.jsonl", read_metric_lines, []),
        far_log=part("far/metrics.jsonl", read_metric_lines, []),
        relation=part("tokenizer/relation.json", artefact.read_json, None),
        twin_relation=part("twin/relation.json", artefact.read_json, None),
        code_counts=part(f"evaluation/{CODE_COUNTS_FILE}", _read_arrays, {}),
        config=part("config.json", artefact.read_json, {}),
        versions=part("versions.json", artefact.read_json, {}) if is_older else {},
        missing=missing,
    )


def read_metrics(run_folder: Path) -> dict[str, dict[str, Any]]:
    """The metrics of reconstructions, of xAR's samples and of the baselines; FAR's samples' and the twin tokenizer's
    among them, where the run has such.
    """
    metrics = artefact.read_json(run_folder / "evaluation" / "metrics.json")
    for prefix, suffix in (("far", "of FAR"), ("twin", "without the relation loss")):
        other = run_folder / f"{prefix}_evaluation" / "metrics.json"
        if other.is_file():
            for name, entry in artefact.read_json(other).items():
                metrics[f"{prefix}_{name}"] = {**entry, "label": f"{entry['label']} {suffix}"}
    return metrics


def _shown_classes(*samples: LabelledImages | None) -> list[int]:
    labels = {int(label) for found in samples if found is not None for label in found.labels}
    return sorted(labels)[:MOST_CLASSES]


def _read_arrays(path: Path) -> dict[str, ndarray]:
    with np.load(at_hand(path), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _read_images(path: Path) -> ndarray | None:
    return _read_arrays(path)["images"]


def read_pairs(path: Path) -> ImagePairs:
    """reconstructions.npz: crops and their reconstructions."""
    arrays = _read_arrays(path)
    return ImagePairs(arrays["inputs"], arrays["reconstructions"])


def read_retention(path: Path) -> Retention:
    """retention.npz: crops decoded from all codes and from each codebook's alone."""
    arrays = _read_arrays(path)
    return Retention(arrays.pop("inputs"), arrays.pop("both"), arrays)


def _read_samples(path: Path) -> LabelledImages | None:
    labels = pyarrow.parquet.read_table(
        at_hand(path.with_name("samples.parquet")), columns=["label"]
    )
    return LabelledImages(_read_arrays(path)["arr_0"], labels["label"].to_pylist())
