"""The few numbers of a run that matter, each with what it is to be compared with, in words.

The page and the terminal show the same. Read next: glotok_ray/report/sections.py
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Metrics = Mapping[str, Mapping[str, Any]]

GENERATORS = {"xAR": "", "FAR": "far_"}
"""Name of a generator -> prefix of its metrics."""


class Headline(NamedTuple):
    """One line of the short table."""

    what: str
    values: Mapping[str, str]
    """Name of the generator -> value; of the tokenizer one value under the empty name."""
    beside: str
    """Chance level, baseline or ceiling, as a sentence; empty where there is none."""


@dataclass(frozen=True)
class Source:
    """Where the headlines come from."""

    metrics: Metrics
    """As `inputs.read_metrics`."""
    relation: Mapping[str, Any] | None = None
    twin_relation: Mapping[str, Any] | None = None

    def value(self, name: str) -> float | None:
        """The value of a metric; None where it is missing or undefined."""
        return self.metrics[name]["value"] if name in self.metrics else None

    def deviation(self, name: str) -> float | None:
        """The deviation of a metric; None where it has none."""
        return self.metrics[name].get("std") if name in self.metrics else None

    def chance(self, name: str) -> float | None:
        """The chance level of a metric; None where it has none."""
        return self.metrics[name].get("chance") if name in self.metrics else None

    def of_generators(self, name: str) -> dict[str, float]:
        """The value of a metric of every generator that has it."""
        return self._of_generators(name, self.value)

    def chances(self, name: str) -> dict[str, float]:
        """The chance level of a metric of every generator that has it."""
        return self._of_generators(name, self.chance)

    def _of_generators(self, name: str, read: Callable[[str], float | None]) -> dict[str, float]:
        found = {model: read(f"{prefix}{name}") for model, prefix in GENERATORS.items()}
        return {model: value for model, value in found.items() if value is not None}


def headlines(source: Source) -> list[Headline]:
    """All lines that the run has a value for."""
    lines = (
        _reconstruction(source),
        _class_from_codes(source),
        _own_class(source),
        _distance(source),
        _labels_matter(source),
        _memory(source),
        _relation(source),
    )
    return [line for line in lines if line.values]


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage: whole from 10 % on, of two digits below, so that a small one is not 0."""
    per_cent = 100 * share
    return f"{per_cent:.0f} %" if per_cent >= 9.95 else f"{per_cent:.2g} %"


def _reconstruction(source: Source) -> Headline:
    psnr = source.value("reconstruction_psnr")
    values = {} if psnr is None else {"": f"{psnr:.1f} dB"}
    alone = [
        f"from the {branch} codes alone {value:.1f} dB"
        for branch in ("visual", "semantic")
        if (value := source.value(f"retention_{branch}_psnr")) is not None
    ]
    beside = _sentence("; ".join([*alone, "higher is better"]))
    return Headline("Reconstruction of crops never trained on (PSNR)", values, beside)


def _class_from_codes(source: Source) -> Headline:
    """The better of a codebook's probes, since either is what a linear classifier finds."""
    found: dict[str, float] = {}
    for branch in ("semantic", "visual"):
        names = (f"probe_{branch}", f"probe_{branch}_histogram")
        values = [value for name in names if (value := source.value(name)) is not None]
        if values:
            found[branch] = max(values)
    chance = source.chance("probe_semantic")
    beside = "" if chance is None else f"Chance {percent(chance)}."
    text = ", ".join(f"{branch} {percent(value)}" for branch, value in found.items())
    return Headline(
        "Class told from one codebook's codes (linear)", {"": text} if text else {}, beside
    )


def own_class(source: Source) -> tuple[dict[str, float], float | None]:
    """Share of each generator's samples that look most like their own class, and the chance level; none of one class,
    of which every sample is.
    """
    found = source.of_generators("samples_own_class")
    chance = next(iter(source.chances("samples_own_class").values()), None)
    return ({}, None) if chance is not None and chance >= 1 else (found, chance)


def _own_class(source: Source) -> Headline:
    found, chance = own_class(source)
    parts = [] if chance is None else [f"chance {percent(chance)}"]
    if (ceiling := source.value("validation_own_class")) is not None:
        parts.append(f"real crops {percent(ceiling)}")
    values = {model: percent(value) for model, value in found.items()}
    return Headline(
        "Samples that look most like their own class", values, _sentence("; ".join(parts))
    )


def _distance(source: Source) -> Headline:
    # As ADM's evaluator compares samples, where the run has compared them so.
    trained, crops = "samples_fd_effnet_training", "training crops"
    if not (found := source.of_generators(trained)):
        trained, crops = "samples_fd_effnet", "real crops"
        found = source.of_generators(trained)
    parts = [
        f"{what} {value:.4g}"
        for name, what in (
            ("baseline_marginal", "codes drawn by how often they occur at each place"),
            ("baseline_uniform", "codes drawn blindly"),
            ("validation", "real crops never trained on"),
        )
        if (value := source.value(trained.replace("samples", name))) is not None
    ]
    values = {model: f"{value:.4g}" for model, value in found.items()}
    beside = _sentence("; ".join([*parts, "lower is closer"]))
    return Headline(f"Distance of samples from {crops} (FD-EffNet)", values, beside)


def _labels_matter(source: Source) -> Headline:
    values = {m: f"{value:.3f}" for m, value in source.of_generators("generator_loss").items()}
    shuffled = source.of_generators("generator_loss_shuffled_labels")
    unlearned = source.chances("generator_loss")
    parts = [
        f"{what} {' and '.join(f'{value:.3f}' for value in found.values())}"
        for what, found in (
            ("with the label of another class", shuffled),
            ("knowing nothing", unlearned),
        )
        if found
    ]
    beside = _sentence("; ".join([*parts, "lower is better"]))
    return Headline("Loss on crops never trained on, with their label", values, beside)


def _memory(source: Source) -> Headline:
    found = source.of_generators("samples_nearest_training")
    values = {model: f"{value:.3g}" for model, value in found.items()}
    real = source.value("validation_nearest_training")
    beside = "" if real is None else f"Crops never trained on {real:.3g}; a copy would be at 0."
    return Headline("Distance of a sample to its nearest training crop", values, beside)


def _relation(source: Source) -> Headline:
    what = "Distance of the codebook from the teacher's cosines (KL)"
    if source.relation is None:
        return Headline(what, {}, "")
    parts = [f"before training {source.relation['kl_initial']:.3g}", "lower is closer"]
    if source.twin_relation is not None:
        parts.insert(0, f"without the relation loss {source.twin_relation['kl_final']:.3g}")
    values = {"": f"{source.relation['kl_final']:.3g}"}
    return Headline(what, values, _sentence("; ".join(parts)))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}." if words else ""
