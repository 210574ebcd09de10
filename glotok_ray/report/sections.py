"""The sections of report.html in their order, each from the gathered parts of a run to HTML.

A section whose part is missing says so. Read next: glotok_ray/report/page.py
"""

from collections.abc import Callable
from typing import NamedTuple

from glotok_ray.report import details, pictures
from glotok_ray.report.curves import metric_chart
from glotok_ray.report.headlines import GENERATORS, Headline, Source, headlines
from glotok_ray.report.inputs import ReportInputs
from glotok_ray.report.markup import ImageFormat, absent, text
from glotok_ray.report.metric_log import MetricLog, metric_names
from glotok_ray.report.relation_section import relation

# The loss of each kind of training; the total where a log has none of them.
_LOSSES = {
    "train/flow_matching": "flow loss",
    "train/cross_entropy": "cross-entropy",
    "train/total": "loss",
}


_NONE = "\u2013"


class Section(NamedTuple):
    """A part of the page."""

    link: str
    """Its name among the links at the top."""
    heading: str
    build: Callable[[ReportInputs, ImageFormat], str]
    is_folded: bool = False


def _curves(inputs: ReportInputs, _: ImageFormat) -> str:
    """The few curves that say whether training went well."""
    twins = {"with the relation loss": inputs.tokenizer_log}
    if inputs.twin_log:
        twins["without"] = inputs.twin_log
    charts = {
        "Reconstruction": metric_chart("eval/psnr", twins, "PSNR (dB)"),
        "Distance to the teacher": metric_chart("eval/relation_kl", twins, "KL divergence"),
        "xAR": _loss_chart(inputs.generator_log),
        "FAR": _loss_chart(inputs.far_log),
    }
    drawn = "".join(
        f"<figure><figcaption>{title}</figcaption>{drawing}</figure>"
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
    """The short table."""
    lines = headlines(Source(inputs.metrics, inputs.relation, inputs.twin_relation))
    if not lines:
        return absent("This run has no metrics.")
    rows = "".join(_headline_row(line) for line in lines)
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in GENERATORS)
    return (
        '<table class="headlines"><thead><tr><th scope="col">What</th>'
        f'{heads}<th scope="col">To compare with</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _headline_row(line: Headline) -> str:
    if "" in line.values:
        cells = f'<td class="number" colspan="{len(GENERATORS)}">{text(line.values[""])}</td>'
    else:
        cells = "".join(
            f'<td class="number">{text(line.values.get(model, _NONE))}</td>' for model in GENERATORS
        )
    return f'<tr><td>{text(line.what)}</td>{cells}<td class="beside">{text(line.beside)}</td></tr>'


SECTIONS: dict[str, Section] = {
    "reconstructions": Section(
        "Reconstructions", "What goes in comes back", pictures.reconstructions
    ),
    "samples": Section("Samples", "New images, class by class", pictures.samples),
    "retention": Section("Codebooks", "What each codebook holds", pictures.retention),
    "relation": Section(
        "Relation loss", "The paper's idea: codes spread like a teacher's features", relation
    ),
    "curves": Section("Training", "Training", _curves),
    "numbers": Section("Numbers", "The numbers that matter", _numbers),
    "metrics": Section("Metrics", "Every metric and how it was measured", details.metrics, True),
    "all_curves": Section("Curves", "Every training curve", details.every_curve, True),
    "usage": Section("Code use", "How often codes are used", details.usage, True),
    "baselines": Section("Baselines", "Images from codes drawn at random", details.baselines, True),
    "stages": Section("Stages", "Stages and their times", details.stages, True),
    "config": Section("Configuration", "Configuration", details.config, True),
    "versions": Section("Versions", "Versions", details.versions, True),
}
