"""The numbers of a finished run that belong into a column of the paper's tables, each with its protocol as data.

Read next: glotok_ray/report/protocols.py
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from glotok_ray.data.recorded import ADM_CROPS
from glotok_ray.evaluation.entries import truncation_texts
from glotok_ray.report.finished_runs import FinishedRun
from glotok_ray.report.protocols import TSNE, Protocol

SAME_CROPS = "the same validation crops"
VALIDATION_CROPS = "the validation crops"
NOT_STATED = "not stated"


class _Kind(NamedTuple):
    """What a metric of metrics.json is."""

    measure: str
    network: str
    reference: str
    of_samples: bool = False


# Where a run has several metrics for a column, the first counts. FID and Inception Score state their networks and
# references themselves (`entry["facts"]`); without such facts their protocol counts as not known.
_FROM_METRICS: Mapping[str, Mapping[str, _Kind]] = {
    "rFID": {
        "reconstruction_fid": _Kind("FID", "", ""),
        "reconstruction_fd_effnet": _Kind("FD-EffNet", "EfficientNet-Lite0", SAME_CROPS),
    },
    "PSNR": {"reconstruction_psnr": _Kind("PSNR", "", SAME_CROPS)},
    "gFID": {
        "samples_fid_reference": _Kind("FID", "", "", of_samples=True),
        "samples_fid_training": _Kind("FID", "", "", of_samples=True),
        "samples_fid": _Kind("FID", "", "", of_samples=True),
        "samples_fd_effnet": _Kind(
            "FD-EffNet", "EfficientNet-Lite0", VALIDATION_CROPS, of_samples=True
        ),
    },
    "IS": {"samples_inception_score": _Kind("IS", "", "", of_samples=True)},
}
_STATE_THEMSELVES = ("FID", "IS")
_UNIFORMITY = {
    "density CV": "tsne_density_cv",
    "normalized entropy": "tsne_normalized_entropy",
    "Gini": "tsne_gini",
}


class MeasuredNumber(NamedTuple):
    """A number of ours in a column of the paper."""

    value: float
    std: float | None
    protocol: Protocol


def measured_numbers(run: FinishedRun, columns: tuple[str, ...]) -> dict[str, MeasuredNumber]:
    """The run's numbers for those columns that it has one for; metrics without a value are left out."""
    found: dict[str, MeasuredNumber] = {}
    for column in columns:
        number = _size(run, column) or _metric(run, column) or _uniformity(run, column)
        if number is not None:
            found[column] = number
    return found


def _size(run: FinishedRun, column: str) -> MeasuredNumber | None:
    tokenizer, generator = run.tokenizer, run.generator
    sizes: dict[str, float | None] = {
        "codebook size": sum(tokenizer.sizes) if tokenizer else None,
        "weight": tokenizer.relation_weight if tokenizer else None,
        "parameters": generator.parameters if generator else None,
        "tokens": generator.tokens if generator else None,
    }
    value = sizes.get(column)
    if value is None:
        return None
    measure = {"codebook size": "size"}.get(column, column)
    protocol = Protocol(measure, "", None, "", "", "measured", "Read from the run's folder.")
    return MeasuredNumber(value, None, protocol)


def _metric(run: FinishedRun, column: str) -> MeasuredNumber | None:
    for name, kind in _FROM_METRICS.get(column, {}).items():
        entry = run.metrics.get(name)
        if entry is not None and entry["value"] is not None:
            return MeasuredNumber(entry["value"], entry.get("std"), _protocol(run, kind, entry))
    return None


def _protocol(run: FinishedRun, kind: _Kind, entry: Mapping[str, Any]) -> Protocol:
    count = run.samples.num_images if kind.of_samples and run.samples else run.num_images
    facts = entry.get("facts")
    is_known = facts is not None or kind.measure not in _STATE_THEMSELVES
    stated = facts or {}
    return Protocol(
        measure=kind.measure,
        network=stated.get("network", kind.network),
        num_images=stated.get("num_images", count),
        reference=stated.get("reference", kind.reference),
        crop="" if kind.of_samples else _crop(run),
        known="measured" if is_known else "unknown",
        sentence=entry["protocol"],
        data=run.data or NOT_STATED,
        guidance=guidance_text(stated),
        sampler=sampler_text(stated),
        class_sampling=stated.get("class_sampling", ""),
        order=stated.get("order", ""),
    )


def guidance_text(facts: Mapping[str, Any]) -> str:
    """The guidance of samples in a few words, from a metric's facts; empty where they do not say it."""
    if "guidance" not in facts:
        return ""
    parts = [f"{facts['guidance']:g}"]
    if facts.get("guidance_schedule", "constant") != "constant":
        parts.append(facts["guidance_schedule"])
    low, high = facts.get("guidance_interval", (0, 1))
    if (low, high) != (0, 1):
        parts.append(f"from {low:g} to {high:g}")
    return ", ".join(parts)


def sampler_text(facts: Mapping[str, Any]) -> str:
    """Solver and steps, or temperature, in a few words; empty where the facts do not say them."""
    parts = []
    if "solver" in facts:
        parts.append(f"{facts['solver']}, {facts['steps']} steps")
        if facts.get("last_steps"):
            parts[0] += f" to {facts['last_steps']}"
    if "temperature" in facts:
        parts.append(f"temperature {facts['temperature']:g}")
    parts += truncation_texts(facts)
    return ", ".join(parts)


def _crop(run: FinishedRun) -> str:
    return "ADM" if run.crops == ADM_CROPS else run.crops or NOT_STATED


def _uniformity(run: FinishedRun, column: str) -> MeasuredNumber | None:
    """Table 3's measure, of the one codebook that has it."""
    ending = _UNIFORMITY.get(column)
    names = [name for name in run.metrics if ending and name.endswith(f"_{ending}")]
    if not names or run.metrics[names[0]]["value"] is None:
        return None
    entry = run.metrics[names[0]]
    vectors = min(run.uniformity_vectors or run.num_images, run.num_images)
    # One vector per crop; the paper's crops are ImageNet's.
    protocol = Protocol(
        column, TSNE, vectors, "", "", "measured", entry["protocol"], run.data or NOT_STATED
    )
    return MeasuredNumber(entry["value"], entry.get("std"), protocol)
