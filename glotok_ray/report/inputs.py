"""What the page shows, gathered from the folders that a quickstart run leaves behind.

A part that is not there becomes a note, so that the page says what is missing. Read next:
glotok_ray/report/page.py
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow.parquet
from jaxtyping import Int, UInt8
from numpy import ndarray

from glotok_ray.evaluation.files import BASELINES, CODE_COUNTS_FILE, RECONSTRUCTIONS_FILE
from glotok_ray.report.plots import read_metric_lines
from glotok_ray.storage import artefact

Part = TypeVar("Part")


class ImagePairs(NamedTuple):
    """Validation crops and their reconstructions."""

    inputs: UInt8[ndarray, "n h w 3"]
    reconstructions: UInt8[ndarray, "n h w 3"]


class LabelledImages(NamedTuple):
    """Samples with their class."""

    images: UInt8[ndarray, "n h w 3"]
    labels: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Everything the page needs, already in memory; None or empty where the run has no such
    part.
    """

    title: str = "GloTok run"
    stages: Sequence[Mapping[str, Any]] = ()
    """One of {"stage", "seconds", "status", "folder", "summary"} per stage, in order."""
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """metrics.json: name -> {"label", "value", "protocol", "std"}."""
    reconstructions: ImagePairs | None = None
    samples: LabelledImages | None = None
    far_samples: LabelledImages | None = None
    baselines: Mapping[str, UInt8[ndarray, "n h w 3"]] = field(default_factory=dict)
    """Description of a baseline -> its images."""
    class_names: Sequence[str] = ()
    tokenizer_log: Sequence[Mapping[str, Any]] = ()
    generator_log: Sequence[Mapping[str, Any]] = ()
    far_log: Sequence[Mapping[str, Any]] = ()
    relation: Mapping[str, Any] | None = None
    """relation.json: bins, teacher, student_initial, student_final, kl_initial, kl_final."""
    code_counts: Mapping[str, Int[ndarray, " n"]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    missing: Sequence[str] = ()
    """One sentence per part that could not be read."""


def collect(run_folder: Path) -> ReportInputs:
    """Gather the parts that lie in RUN's folders, one per stage, and in RUN/*.json."""
    missing: list[str] = []

    def part(path: str, read: Callable[[Path], Part], otherwise: Part) -> Part:
        try:
            return read(run_folder / path)
        except (OSError, ValueError, KeyError) as error:
            reason = "no such file" if not (run_folder / path).exists() else str(error)
            missing.append(f"{path}: {reason}")
            return otherwise

    return ReportInputs(
        title=f"GloTok {run_folder.resolve().name}",
        stages=part("stages.json", artefact.read_json, []),
        metrics=part("evaluation/metrics.json", lambda _: read_metrics(run_folder), {}),
        reconstructions=part(f"evaluation/{RECONSTRUCTIONS_FILE}", _read_pairs, None),
        samples=part("samples/samples.npz", _read_samples, None),
        far_samples=part("far_samples/samples.npz", _read_samples, None),
        baselines={
            text: images
            for name, text in BASELINES.items()
            if (images := part(f"evaluation/{name}.npz", _read_images, None)) is not None
        },
        class_names=part("data/train/dataset.json", _read_class_names, []),
        tokenizer_log=part("tokenizer/metrics.jsonl", read_metric_lines, []),
        generator_log=part("generator/metrics.jsonl", read_metric_lines, []),
        far_log=part("far/metrics.jsonl", read_metric_lines, []),
        relation=part("tokenizer/relation.json", artefact.read_json, None),
        code_counts=part(f"evaluation/{CODE_COUNTS_FILE}", _read_arrays, {}),
        config=part("config.json", artefact.read_json, {}),
        versions=part("versions.json", artefact.read_json, {}),
        missing=missing,
    )


def read_metrics(run_folder: Path) -> dict[str, dict[str, Any]]:
    """The metrics of reconstructions, of xAR's samples and of the baselines, and those of FAR's samples among them."""
    metrics = artefact.read_json(run_folder / "evaluation" / "metrics.json")
    far = run_folder / "far_evaluation" / "metrics.json"
    if far.is_file():
        for name, entry in artefact.read_json(far).items():
            metrics[f"far_{name}"] = {**entry, "label": f"{entry['label']} of FAR"}
    return metrics


def _read_arrays(path: Path) -> dict[str, ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _read_images(path: Path) -> ndarray | None:
    return _read_arrays(path)["images"]


def _read_pairs(path: Path) -> ImagePairs | None:
    arrays = _read_arrays(path)
    return ImagePairs(arrays["inputs"], arrays["reconstructions"])


def _read_samples(path: Path) -> LabelledImages | None:
    labels = pyarrow.parquet.read_table(path.with_name("samples.parquet"), columns=["label"])
    return LabelledImages(_read_arrays(path)["arr_0"], labels["label"].to_pylist())


def _read_class_names(path: Path) -> list[str]:
    return artefact.read_json(path)["classes"]
