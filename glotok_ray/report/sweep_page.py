"""sweep.html: all of a sweep on one self-contained page.

All text from configs, metrics and errors is escaped. Read next: glotok_ray/report/sweep_charts.py
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from glotok_ray.config.sweeps import SweepRun
from glotok_ray.report.markup import absent, table, text
from glotok_ray.report.style import STYLE
from glotok_ray.report.sweep_charts import parallel_chart, pareto_chart, progress_chart
from glotok_ray.report.sweep_summary import FinalistSummary, label
from glotok_ray.report.sweep_table import cell, finalist_cells, finalist_heads
from glotok_ray.training.trials import TrialRecord

_OWN_STYLE = """
.wide { margin-top: 1rem; overflow-x: auto; }
.scroll { overflow-x: auto; }
.parallel .plot { min-width: 36rem; margin: 2rem 4rem 5.5rem; border-bottom: 0; }
.plot .high { bottom: calc(100% + .35rem); transform: translateX(-50%); }
.plot .low { text-align: center; white-space: normal; width: 6.5rem; line-height: 1.2; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def render_sweep(
    config: SweepRun,
    ranked: Sequence[TrialRecord],
    frame: pandas.DataFrame,
    finalists: Sequence[FinalistSummary],
    best: Mapping[str, Any],
) -> str:
    """The page as HTML; `best` are the changes of the best trial, `frame` the ranked trials' rows."""
    sections = {
        "best": ("The best settings", _best(config, ranked, finalists, best)),
        "trials": ("Trials", _trials(frame)),
        "coordinates": (
            "Parallel coordinates",
            _wide(parallel_chart(config, ranked), _PARALLEL_NOTE) + _colours(),
        ),
        "pareto": (
            "Reconstruction against distance to the teacher",
            _wide(pareto_chart(config, ranked), _PARETO_NOTE),
        ),
        "progress": (
            "Evaluations on the way",
            _wide(
                progress_chart(config, ranked),
                "Every trial is measured at the same steps on the same crops.",
            ),
        ),
        "failed": ("Trials that failed", _failed(ranked)),
        "settings": ("Settings", _settings(config)),
    }
    body = "".join(
        f'<section id="{name}"><h2>{text(heading)}</h2>{content}</section>'
        for name, (heading, content) in sections.items()
    )
    links = "".join(
        f'<a href="#{name}">{text(heading)}</a>' for name, (heading, _) in sections.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>Sweep of {text(config.tokenizer.name)}</title>'
        f"<style>{STYLE}{_OWN_STYLE}</style></head><body><main>{_header(config, ranked)}"
        f'<nav aria-label="Sections">{links}</nav>{body}</main></body></html>\n'
    )


_PARALLEL_NOTE = (
    "A line per trial through its settings and its last evaluation; the stronger the line, the better the trial. "
    "Settings that span more than a decade are drawn by their logarithm, 0 at the foot. A trial without relation loss "
    "has neither bins nor alpha."
)
_PARETO_NOTE = (
    "Trials that came to the last step. The distance is the Wasserstein-1 distance between the cosines of all pairs of "
    "codes and those of the teacher's centroids, in units of cosine; no bins enter it, so trials of different bins and "
    "alpha are compared by it."
)


def _header(config: SweepRun, ranked: Sequence[TrialRecord]) -> str:
    counts = {
        words: sum(record.status == status for record in ranked)
        for status, words in (
            ("finished", "came to the end"),
            ("stopped", "were stopped early"),
            ("failed", "failed"),
        )
    }
    told = ", ".join(f"{count} {words}" for words, count in counts.items())
    return (
        f'<header><p class="run">GloTok</p><h1>Sweep of {text(config.tokenizer.name)}</h1>'
        f'<p class="lead">{len(ranked)} trials of up to {config.max_steps} steps: {told}. Judged by '
        f"{text(label(config.judged_by))} of reconstructions, never by the loss; equal data order, seed and teacher."
        "</p></header>"
    )


def _best(
    config: SweepRun,
    ranked: Sequence[TrialRecord],
    finalists: Sequence[FinalistSummary],
    best: Mapping[str, Any],
) -> str:
    items = "".join(
        f"<dt>{text(label(name))}</dt><dd>{text(cell(value))}</dd>" for name, value in best.items()
    )
    command = f"python -m jobs.train_tokenizer {config.output_path}/best_recipe.json"
    shown = f'<dl class="notes">{items}</dl><p>As a recipe beside this page: <code>{text(command)}</code></p>'
    if not finalists:
        return shown + absent("No finalists were trained again; one seed has decided.")
    seeds = ", ".join(map(str, config.finalist_seeds))
    rows = [_row(cells) for cells in finalist_cells(finalists)]
    return (
        f"{shown}<p>Finalists, trained again with seeds {seeds}, by their mean, with the standard deviation over "
        f'seeds:</p><div class="scroll">{table(finalist_heads(finalists), rows, "paper")}</div>'
    )


def _trials(frame: pandas.DataFrame) -> str:
    shown = frame.drop(columns=["failed"])
    rows = [_row([cell(value) for value in row]) for row in shown.itertuples(index=False)]
    return f'<div class="scroll">{table([label(str(name)) for name in shown], rows, "paper")}</div>'


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    others = "".join(f'<td class="number">{text(value)}</td>' for value in rest)
    return f'<tr><th scope="row">{text(first)}</th>{others}</tr>'


def _wide(content: str, note: str) -> str:
    if not content:
        return absent("No trial has both an evaluation and another one to compare with.")
    return f'<p class="soft">{text(note)}</p><div class="wide">{content}</div>'


def _colours() -> str:
    items = "".join(
        f'<li><i class="line {style}"></i>{words}</li>'
        for style, words in (
            ("first", "came to the end"),
            ("third", "stopped early"),
            ("second", "failed"),
        )
    )
    return f'<ul class="key">{items}</ul>'


def _failed(ranked: Sequence[TrialRecord]) -> str:
    failed = [record for record in ranked if record.status == "failed"]
    if not failed:
        return "<p>None.</p>"
    rows = [
        _row([record.trial.name, json.dumps(record.trial.changes), record.reason])
        for record in failed
    ]
    return table(("trial", "settings", "error"), rows, "paper").replace(' class="number"', "")


def _settings(config: SweepRun) -> str:
    space = "".join(f"<li><code>{text(item)}</code></li>" for item in config.space)
    return (
        f"<ul>{space}</ul><p>search {text(config.search)}, scheduler {text(config.scheduler)}, evaluated every "
        f"{config.evaluate_every_steps or config.max_steps} steps on {config.evaluation.num_images or 'all'} crops of "
        f"{text(config.evaluation.data_path)}; seed {config.seed}, tokenizer's seed {config.tokenizer.seed}</p>"
    )
