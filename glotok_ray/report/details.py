"""The folded sections: every metric with its protocol, every curve, codes, baselines, stages, configuration, versions.

Read next: glotok_ray/report/sections.py
"""

import json
from collections.abc import Mapping
from typing import Any

from glotok_ray.report.curves import all_metric_charts, usage_chart
from glotok_ray.report.headlines import GENERATORS, Source
from glotok_ray.report.inputs import ReportInputs
from glotok_ray.report.markup import ImageFormat, absent, number, table, text
from glotok_ray.report.stage_times import status_text, time_text

_GROUPS = {
    "reconstruction": "Reconstruction",
    "retention": "Reconstruction",
    "samples": "xAR and baselines",
    "generator": "xAR and baselines",
    "baseline": "xAR and baselines",
    "validation": "xAR and baselines",
    "decoded": "xAR and baselines",
    "far": "FAR",
    "semantic": "Semantic codebook",
    "visual": "Visual codebook",
    "probe": "Class from codes",
    "twin": "Tokenizer without the relation loss",
}
_OTHER = "Other"
_BASELINE_IMAGES = 8


def metrics(inputs: ReportInputs, _: ImageFormat) -> str:
    """Every metric with how it was obtained."""
    if not inputs.metrics:
        return absent("This run has no metrics.")
    groups: dict[str, list[str]] = {group: [] for group in (*_GROUPS.values(), _OTHER)}
    for name, entry in inputs.metrics.items():
        spread = f" ± {entry['std']:.2g}" if entry.get("std") is not None else ""
        groups[_GROUPS.get(name.split("_")[0], _OTHER)].append(
            f"<tr><td>{text(entry['label'])}</td>"
            f'<td class="number">{number(entry["value"])}{spread}</td>'
            f'<td class="protocol">{text(entry["protocol"])}</td></tr>'
        )
    columns = ("Metric", "Value", "How it was measured")
    tables = "".join(
        f"<h3>{text(group)}</h3>{table(columns, rows, 'metrics')}"
        for group, rows in groups.items()
        if rows
    )
    return f"<p>{text(_summary(inputs))}</p>{tables}"


def _summary(inputs: ReportInputs) -> str:
    """One paragraph in plain sentences, from whatever the run has."""
    parts = ["A GloTok image tokenizer and generators on its codes, trained and measured"]
    if inputs.stages:
        parts[0] += f" in {inputs.minutes_text} minutes over {len(inputs.stages)} stages"
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


def every_curve(inputs: ReportInputs, _: ImageFormat) -> str:
    """Every logged metric of every training."""
    logs = {
        "Tokenizer": inputs.tokenizer_log,
        "Tokenizer without the relation loss": inputs.twin_log,
        "xAR": inputs.generator_log,
        "FAR": inputs.far_log,
    }
    parts = []
    for name, log in logs.items():
        drawn = "".join(f"<figure>{drawing}</figure>" for drawing in all_metric_charts(log))
        empty = absent(f"This run has no metrics.jsonl of its training: {name}.")
        parts.append(
            f"<h3>{name}</h3>" + (f'<div class="charts">{drawn}</div>' if drawn else empty)
        )
    return "".join(parts)


def usage(inputs: ReportInputs, _: ImageFormat) -> str:
    """How often codes occur."""
    drawing = usage_chart(inputs.code_counts)
    if not drawing:
        return absent("This run has no code counts.")
    caption = (
        "How often each code occurs in the validation crops, most frequent first; dashed: even use."
    )
    return f'<figure class="wide">{drawing}<figcaption>{caption}</figcaption></figure>'


def baselines(inputs: ReportInputs, images: ImageFormat) -> str:
    """Images that no generator chose the codes of."""
    if not inputs.baselines:
        return absent("This run has no baselines.")
    rows = []
    for what, found in inputs.baselines.items():
        tags = "".join(images.tag(image, what) for image in found[:_BASELINE_IMAGES])
        rows.append(f'<h3>{text(what.capitalize())}</h3><div class="strip">{tags}</div>')
    note = "What the same decoder makes of codes that no generator chose."
    return f'<p class="soft">{note}</p>{"".join(rows)}'


def stages(inputs: ReportInputs, _: ImageFormat) -> str:
    """What ran, how long, and where its result lies."""
    if not inputs.stages:
        return absent("This run kept no stage times.")
    rows = [
        f"<tr><td>{text(stage['stage'])}</td><td>{text(_in_words(stage['summary']))}</td>"
        f'<td class="number">{time_text(stage, digits=1)}</td>'
        f"<td>{text(status_text(stage))}</td><td><code>{text(stage['folder'])}</code></td></tr>"
        for stage in inputs.stages
    ]
    return table(("Stage", "What", "Time", "", "Folder"), rows, "stages")


def _in_words(summary: Any) -> str:
    if isinstance(summary, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {number(value)}" for name, value in summary.items()
        )
    return str(summary)


def config(inputs: ReportInputs, _: ImageFormat) -> str:
    """Every field of every stage."""
    if not inputs.config:
        return absent("This run kept no config.")
    return f"<pre>{text(json.dumps(inputs.config, indent=2))}</pre>"


def versions(inputs: ReportInputs, _: ImageFormat) -> str:
    """Packages and the commit, as they were when each stage was made."""
    of_stages = {stage["stage"]: stage.get("versions") or {} for stage in inputs.stages}
    if not any(of_stages.values()):
        of_stages = {"": inputs.versions} if inputs.versions else {}
    if not of_stages:
        return absent("This run kept no versions.")
    rows = []
    for name in sorted({name for found in of_stages.values() for name in found}):
        stages: dict[str, list[str]] = {}
        for stage, found in of_stages.items():
            stages.setdefault(str(found.get(name, "not known")), []).append(stage)
        for value, those in stages.items():
            which = f" ({', '.join(those)})" if len(stages) > 1 else ""
            rows.append(
                f"<tr><td>{text(name)}</td><td><code>{text(value)}</code>{text(which)}</td></tr>"
            )
    return table(("Package", "Version"), rows, "versions")
