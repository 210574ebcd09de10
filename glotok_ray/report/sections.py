"""The sections of report.html, each from the gathered parts of a run to HTML.

A section whose part is missing says so. Read next: glotok_ray/report/page.py
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from numpy import ndarray

from glotok_ray.report import grids, plots
from glotok_ray.report.inputs import LabelledImages, ReportInputs
from glotok_ray.report.markup import absent, embedded, image_tag, number, table, text

KEY_METRICS = (
    "reconstruction_psnr",
    "reconstruction_ssim",
    "reconstruction_fd_effnet",
    "samples_fd_effnet",
    "far_samples_fd_effnet",
    "baseline_uniform_fd_effnet",
    "baseline_marginal_fd_effnet",
)
_MOST_PAIRS = 24
_MOST_CLASSES = 24
_SAMPLES_PER_CLASS = 8
_GROUPS = {
    "reconstruction": "Reconstruction",
    "samples": "Samples and baselines",
    "far": "Samples and baselines",
    "baseline": "Samples and baselines",
    "semantic": "Semantic codebook",
    "visual": "Visual codebook",
}
_OTHER = "Other"


def _metrics(inputs: ReportInputs) -> str:
    if not inputs.metrics:
        return absent("This run has no metrics.")
    groups: dict[str, list[str]] = {group: [] for group in (*_GROUPS.values(), _OTHER)}
    for name in sorted(inputs.metrics, key=_order):
        entry = inputs.metrics[name]
        spread = f" ± {entry['std']:.2g}" if "std" in entry else ""
        groups[_GROUPS.get(name.split("_")[0], _OTHER)].append(
            f"<tr><td>{text(entry['label'])}</td>"
            f'<td class="number">{number(entry["value"])}{spread}</td>'
            f'<td class="protocol">{text(entry["protocol"])}</td></tr>'
        )
    columns = ("Metric", "Value", "Protocol")
    return "".join(
        f"<h3>{text(group)}</h3>{table(columns, rows, 'metrics')}"
        for group, rows in groups.items()
        if rows
    )


def _order(name: str) -> int:
    return KEY_METRICS.index(name) if name in KEY_METRICS else len(KEY_METRICS)


def _reconstructions(inputs: ReportInputs) -> str:
    if inputs.reconstructions is None:
        return absent("This run kept no reconstructions.")
    pairs = grids.side_by_side(*inputs.reconstructions)[:_MOST_PAIRS]
    shown = "".join(image_tag(pair, "input and reconstruction") for pair in pairs)
    return (
        '<p class="soft">The first validation crops in shard order, not chosen: left the input, '
        "right its reconstruction.</p>"
        f'<div class="pairs">{shown}</div>'
    )


def _samples(inputs: ReportInputs) -> str:
    if inputs.samples is None:
        return absent("This run has no samples.")
    rows = _class_strips(inputs, inputs.samples)
    total = len(set(inputs.samples.labels))
    note = f"The first {_SAMPLES_PER_CLASS} of each class, not chosen" + (
        f"; {len(rows)} of {total} classes." if total > len(rows) else "."
    )
    far = "".join(_class_strips(inputs, inputs.far_samples)) if inputs.far_samples else ""
    models = f"<h3>xAR</h3>{''.join(rows)}<h3>FAR</h3>{far}" if far else "".join(rows)
    baselines = "".join(
        _strip(what, shown[:_SAMPLES_PER_CLASS]) for what, shown in inputs.baselines.items()
    )
    heading = "<h3>Baselines through the same decoder</h3>" if baselines else ""
    return f'<p class="soft">{note}</p>{models}{heading}{baselines}'


def _class_strips(inputs: ReportInputs, samples: LabelledImages) -> list[str]:
    images, labels = samples
    chosen = grids.by_class(labels, per_class=_SAMPLES_PER_CLASS, most_classes=_MOST_CLASSES)
    return [
        _strip(_class_name(inputs, label), images[indices]) for label, indices in chosen.items()
    ]


def _class_name(inputs: ReportInputs, label: int) -> str:
    known = label < len(inputs.class_names)
    return str(inputs.class_names[label]) if known else f"class {label}"


def _strip(name: str, images: ndarray) -> str:
    shown = "".join(image_tag(image, name) for image in images)
    return f'<div class="class"><div>{text(name)}</div><div class="strip">{shown}</div></div>'


def _curves(inputs: ReportInputs) -> str:
    parts = []
    logs = {
        "Tokenizer": inputs.tokenizer_log,
        "Generator": inputs.generator_log,
        "FAR": inputs.far_log,
    }
    for name, log in logs.items():
        drawings = plots.loss_curves(log)
        body = "".join(
            f"<figure>{embedded(drawing, 'image/svg+xml', f'{name} {key}')}</figure>"
            for key, drawing in drawings.items()
        )
        empty = absent(f"This run has no metrics.jsonl of its {name}.")
        parts.append(f"<h3>{name}</h3>" + (f'<div class="plots">{body}</div>' if body else empty))
    return "".join(parts)


def _relation(inputs: ReportInputs) -> str:
    found = inputs.relation
    if found is None:
        return absent("This run has no relation histograms.")
    names = ("bins", "teacher", "student_initial", "student_final")
    drawing = plots.relation_histograms(*(found[name] for name in names))
    initial, final = (number(found[name]) for name in ("kl_initial", "kl_final"))
    caption = (
        f"KL(teacher || student) {initial} at initialisation, {final} at the end. "
        "Cosines between all pairs of codes, in the bins of the relation loss."
    )
    return (
        f'<figure class="wide">{embedded(drawing, "image/svg+xml", "relation histograms")}'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def _usage(inputs: ReportInputs) -> str:
    if not inputs.code_counts:
        return absent("This run has no code counts.")
    drawing = embedded(plots.code_usage(inputs.code_counts), "image/svg+xml", "code usage")
    caption = (
        "How often each code occurs in the validation crops, most frequent first; dotted: even use."
    )
    return f'<figure class="wide">{drawing}<figcaption>{caption}</figcaption></figure>'


def _stages(inputs: ReportInputs) -> str:
    if not inputs.stages:
        return absent("This run kept no stage times.")
    rows = [
        f"<tr><td><b>{text(stage['stage'])}</b> {text(stage['status'])}</td>"
        f"<td>{text(_in_words(stage['summary']))}</td>"
        f'<td class="number">{float(stage["seconds"]):.1f} s</td>'
        f"<td><code>{text(stage['folder'])}</code></td></tr>"
        for stage in inputs.stages
    ]
    return table(("Stage", "What", "Time", "Folder"), rows, "stages")


def _in_words(summary: Any) -> str:
    if isinstance(summary, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {number(value)}" for name, value in summary.items()
        )
    return str(summary)


def _config(inputs: ReportInputs) -> str:
    if not inputs.config:
        return absent("This run kept no config.")
    fields = text(json.dumps(inputs.config, indent=2))
    return f"<details><summary>Every field, as resolved</summary><pre>{fields}</pre></details>"


def _versions(inputs: ReportInputs) -> str:
    if not inputs.versions:
        return absent("This run kept no versions.")
    rows = [
        f"<tr><td>{text(name)}</td><td><code>{text(value)}</code></td></tr>"
        for name, value in inputs.versions.items()
    ]
    return table(("Package", "Version"), rows, "versions")


SECTIONS: dict[str, tuple[str, Callable[[ReportInputs], str]]] = {
    "metrics": ("Metrics", _metrics),
    "reconstructions": ("Reconstructions", _reconstructions),
    "samples": ("Samples per class", _samples),
    "curves": ("Training curves", _curves),
    "relation": ("Semantic relation histograms", _relation),
    "usage": ("Code usage", _usage),
    "stages": ("Stages", _stages),
    "config": ("Configuration", _config),
    "versions": ("Versions", _versions),
}
