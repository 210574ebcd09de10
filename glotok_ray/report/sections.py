"""The sections of report.html in their order, each from the gathered parts of a run to HTML.

A section whose part is missing says so. Read next: glotok_ray/report/page.py
"""

from collections.abc import Callable
from typing import NamedTuple

from glotok_ray.report import details, pictures
from glotok_ray.report.curves import metric_chart
from glotok_ray.report.headlines import GENERATORS, Headline, Source, headlines
from glotok_ray.report.inputs import ReportInputs
from glotok_ray.report.markup import ImageFormat, absent, number, text
from glotok_ray.report.metric_log import MetricLog, metric_names
from glotok_ray.report.relation_section import relation

# The loss of each kind of training; the total where a log has none of them.
_LOSSES = {
    "train/flow_matching": "flow loss",
    "train/cross_entropy": "cross-entropy",
    "train/total": "loss",
}


class Section(NamedTuple):
    """A part of the page."""

    heading: str
    build: Callable[[ReportInputs, ImageFormat], str]
    is_folded: bool = False


def _curves(inputs: ReportInputs, _: ImageFormat) -> str:
    """The few curves that say whether training went well."""
    twins = {"with the relation loss": inputs.tokenizer_log}
    if inputs.twin_log:
        twins["without"] = inputs.twin_log
    charts = {
        "Reconstruction of held-out crops, PSNR in dB": metric_chart("eval/psnr", twins, "PSNR (dB)"),
        "Distance of the semantic codebook from the teacher": metric_chart(
            "eval/relation_kl", twins, "KL divergence"
        ),
        "Training of xAR": _loss_chart(inputs.generator_log),
        "Training of FAR": _loss_chart(inputs.far_log),
    }
    drawn = "".join(
        f"<figure>{drawing}<figcaption>{title}</figcaption></figure>"
        for title, drawing in charts.items()
        if drawing
    )
    if not drawn:
        return absent("This run has no metrics.jsonl of any training.")
    return f'<div class="charts">{drawn}</div>'


def _loss_chart(log: MetricLog) -> str:
    logged = metric_names(log)
    known = [name for name in _LOSSES if name in logged]
    return metric_chart(known[0], {"": log}, _LOSSES[known[0]]) if known else ""


def _numbers(inputs: ReportInputs, _: ImageFormat) -> str:
    """The short table, and the same in sentences."""
    lines = headlines(Source(inputs.metrics, inputs.relation, inputs.twin_relation))
    if not lines:
        return absent("This run has no metrics.")
    rows = "".join(_headline_row(line) for line in lines)
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in GENERATORS)
    return (
        '<table class="headlines"><thead><tr><th scope="col">What</th>'
        f'{heads}<th scope="col">To compare with</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="soft">{text(summary(inputs))}</p>'
    )


def _headline_row(line: Headline) -> str:
    if "" in line.values:
        cells = f'<td class="number" colspan="{len(GENERATORS)}">{text(line.values[""])}</td>'
    else:
        cells = "".join(
            f'<td class="number">{text(line.values.get(model, "–"))}</td>' for model in GENERATORS
        )
    return f'<tr><td>{text(line.what)}</td>{cells}<td class="beside">{text(line.beside)}</td></tr>'


def summary(inputs: ReportInputs) -> str:
    """One paragraph in plain sentences, from whatever the run has."""
    seconds = sum(float(stage["seconds"]) for stage in inputs.stages)
    parts = ["A GloTok image tokenizer and generators on its codes, trained and measured"]
    if inputs.stages:
        parts[0] += f" in {seconds / 60:.1f} minutes over {len(inputs.stages)} stages"
    parts[0] += "."
    source = Source(inputs.metrics)
    psnr, ssim = source.value("reconstruction_psnr"), source.value("reconstruction_ssim")
    if psnr is not None and ssim is not None:
        parts.append(
            "Validation crops, held out from training, come back at "
            f"{psnr:.2f} dB PSNR and {ssim:.3f} SSIM."
        )
    if inputs.relation:
        initial, final = (number(inputs.relation[name]) for name in ("kl_initial", "kl_final"))
        parts.append(
            "The divergence of the semantic codebook's cosine histogram from the teacher's went "
            f"from {initial} to {final}."
        )
    return " ".join([*parts, *_verdicts(source)])


def _verdicts(source: Source) -> list[str]:
    """What the distances say of each generator's samples."""
    uniform, marginal = (
        source.value(f"baseline_{name}_fd_effnet") for name in ("uniform", "marginal")
    )
    if uniform is None or marginal is None:
        return []
    sentences = []
    for model, prefix in GENERATORS.items():
        sample = source.value(f"{prefix}samples_fd_effnet")
        if sample is not None:
            verdict = "closer" if sample < min(uniform, marginal) else "not closer"
            sentences.append(
                f"Samples of {model} lie at FD-EffNet {sample:.1f} from the validation crops, {verdict} than both "
                f"baselines through the same decoder (uniform codes {uniform:.1f}, marginal codes {marginal:.1f}); "
                "lower is better."
            )
    return sentences


SECTIONS: dict[str, Section] = {
    "reconstructions": Section("What goes in comes back", pictures.reconstructions),
    "samples": Section("New images, class by class", pictures.samples),
    "retention": Section("What each codebook holds", pictures.retention),
    "relation": Section("The paper's idea: codes spread like a teacher's features", relation),
    "curves": Section("Training", _curves),
    "numbers": Section("The numbers that matter", _numbers),
    "metrics": Section("Every metric and how it was measured", details.metrics, True),
    "all_curves": Section("Every training curve", details.every_curve, True),
    "usage": Section("How often codes are used", details.usage, True),
    "baselines": Section("Images from codes drawn at random", details.baselines, True),
    "stages": Section("Stages and their times", details.stages, True),
    "config": Section("Configuration", details.config, True),
    "versions": Section("Versions", details.versions, True),
}
