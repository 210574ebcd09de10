"""The few numbers of a run that matter, each with what it is to be compared with, in words.

The page and the terminal show the same. Read next: glotok_ray/report/sections.py
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Metrics = Mapping[str, Mapping[str, Any]]

GENERATORS = {"xAR": "", "FAR": "far_"}
"""Name of a generator -> prefix of its metrics."""


_LEAST_SHARE = 1 / 4
"""Of the samples' count: a Frechet distance of fewer real crops says more of their count than of the crops."""


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

    def fact(self, name: str, fact: str) -> Any:
        """A fact of a metric's protocol; None where it does not state it."""
        return self.metrics.get(name, {}).get("facts", {}).get(fact)

    def of_generators(self, name: str) -> dict[str, float]:
        """The value of a metric of every generator that has it."""
        return self._of_generators(name, self.value)

    def chances(self, name: str) -> dict[str, float]:
        """The chance level of a metric of every generator that has it."""
        return self._of_generators(name, self.chance)

    def facts(self, name: str, fact: str) -> dict[str, Any]:
        """A fact of the protocols of every generator that states it."""
        return self._of_generators(name, lambda metric: self.fact(metric, fact))

    def _of_generators(self, name: str, read: Callable[[str], Any]) -> dict[str, Any]:
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
    """One probe for all codebooks, whichever finds more: that of histograms, or that of mean vectors where there are
    too many codes for it.
    """
    for suffix, what in (("_histogram", "histogram of codes"), ("", "mean code vector")):
        names = {branch: f"probe_{branch}{suffix}" for branch in ("semantic", "visual")}
        values = {b: source.value(name) for b, name in names.items() if name in source.metrics}
        found = {branch: value for branch, value in values.items() if value is not None}
        if not found or len(found) < len(values):
            continue
        name = names[next(iter(found))]
        chance, words = source.chance(name), source.fact(name, "chance_is") or "chance"
        return Headline(
            f"Class told from one codebook's {what} (linear)",
            {"": ", ".join(f"{branch} {percent(value)}" for branch, value in found.items())},
            _sentence("" if chance is None else f"{words} {percent(chance)}"),
        )
    return Headline("", {}, "")


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
    with_mean = source.facts("samples_own_class", "classes_with_mean")
    if with_mean and found:
        model, count = next(iter(with_mean.items()))
        total = source.facts("samples_own_class", "classes")[model]
        parts.append(
            f"of {count:,} of {total:,} classes: the others have too few real crops to tell"
        )
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
    counts = source.facts(trained, "num_images")
    parts = []
    if counts:
        numbers = dict.fromkeys(f"{count:,}" for count in counts.values())
        parts.append(f"of {' and '.join(numbers)} samples")
    for name, what in (
        ("baseline_marginal", "codes drawn by how often they occur at each place"),
        ("baseline_uniform", "codes drawn blindly"),
        ("validation", "real crops never trained on"),
    ):
        metric = trained.replace("samples", name)
        if (value := source.value(metric)) is None:
            continue
        count = source.fact(metric, "num_images")
        images = "" if count is None else f" ({count:,} images)"
        if count is not None and count < _LEAST_SHARE * max(counts.values(), default=0):
            parts.append(f"{what} are too few to compare with{images}")
        else:
            parts.append(f"{what} {value:.4g}{images}")
    values = {model: f"{value:.4g}" for model, value in found.items()}
    closer = "lower is closer, and fewer images lie farther" if counts else "lower is closer"
    return Headline(
        f"Distance of samples from {crops} (FD-EffNet)",
        values,
        _sentence("; ".join([*parts, closer])),
    )


def _labels_matter(source: Source) -> Headline:
    values = {m: f"{value:.3f}" for m, value in source.of_generators("generator_loss").items()}
    shuffled = source.of_generators("generator_loss_shuffled_labels")
    # Evaluations of before noted no words, and xAR's chance was another one.
    words = {"xAR": "a velocity of zero", "FAR": "codes that are equally likely"}
    words |= source.facts("generator_loss", "chance_is")
    parts = []
    if shuffled:
        losses = " and ".join(f"{value:.3f}" for value in shuffled.values())
        parts.append(f"with the label of another class {losses}")
    for model, value in source.chances("generator_loss").items():
        parts.append(f"{words[model]} {value:.3f}")
    beside = _sentence("; ".join([*parts, "lower is better"]))
    return Headline("Loss on crops never trained on, with their label", values, beside)


def _memory(source: Source) -> Headline:
    name = "nearest_training"
    values = {m: f"{value:.3g}" for m, value in source.of_generators(f"samples_{name}").items()}
    parts = [
        f"{what} {value:.3g}"
        for metric, what in (
            (f"decoded_{name}", "training crops themselves, encoded and decoded"),
            (f"validation_{name}", "crops never trained on"),
        )
        if (value := source.value(metric)) is not None
    ]
    for model, reference in source.facts(f"samples_{name}", "reference").items():
        if "drawn" in reference:
            count = source.facts(f"samples_{name}", "reference_images")[model]
            parts.append(f"only {count:,} training crops were searched")
            break
    beside = _sentence("; ".join(parts))
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
