"""The paper's idea as a section: two tokenizers that differ in the relation loss alone, beside their teacher.

Read next: glotok_ray/report/sections.py
"""

from typing import NamedTuple

from glotok_ray.report.curves import relation_chart
from glotok_ray.report.headlines import Source
from glotok_ray.report.inputs import ReportInputs
from glotok_ray.report.markup import ImageFormat, absent, table, text


class _Value(NamedTuple):
    """A measured value and, where it has one, its deviation."""

    mean: float
    deviation: float | None = None


class _Measure(NamedTuple):
    """One line of the table: what is read of both tokenizers, and how it is shown."""

    what: str
    meaning: str
    lower_is_better: bool
    shown: str
    """A format of Python."""
    metric: str = ""
    """Its name in metrics.json."""
    is_mean: bool = False
    """Over crops: without a deviation there were too few to say which side is better."""


class _Row(NamedTuple):
    """A measure of both tokenizers."""

    measure: _Measure
    with_loss: _Value | None
    without_loss: _Value | None


_DIVERGENCE = _Measure("Distance to the teacher", "KL divergence; lower is closer", True, "{:.3g}")
_MEASURES = (
    _Measure(
        "Unevenness",
        "density CV, Table 3; lower is more even",
        True,
        "{:.3f}",
        metric="semantic_tsne_density_cv",
    ),
    _Measure(
        "Inequality",
        "density Gini, Table 3; lower is more even",
        True,
        "{:.3f}",
        metric="semantic_tsne_gini",
    ),
    _Measure(
        "Evenness",
        "density entropy, Table 3; 1 is even",
        False,
        "{:.4f}",
        metric="semantic_tsne_normalized_entropy",
    ),
    _Measure(
        "Near duplicates",
        "codes with another one beside them",
        True,
        "{:.1%}",
        metric="semantic_duplicates",
    ),
    _Measure("Codes in use", "in the validation crops", False, "{:.0%}", metric="semantic_usage"),
    _Measure(
        "Reconstruction",
        "PSNR in dB, \u00b1 over crops; higher is better",
        False,
        "{:.2f}",
        metric="reconstruction_psnr",
        is_mean=True,
    ),
)


def relation(inputs: ReportInputs, _: ImageFormat) -> str:
    """Histograms in one plot and the measures of both codebooks in a table."""
    if inputs.relation is None:
        return absent("This run has no relation histograms.")
    twin = (
        ""
        if inputs.twin_relation
        else absent("This run has no tokenizer without the relation loss.")
    )
    return (
        f"<p>{text(verdict(inputs))}</p>{twin}"
        f'<div class="halves"><figure>{relation_chart(inputs.relation, inputs.twin_relation)}<figcaption>Cosines '
        "between all pairs of codes of the semantic codebook. The teacher&#x27;s are between the cluster centres of a "
        f"frozen network&#x27;s features.</figcaption></figure>{_comparison(inputs)}</div>"
    )


def verdict(inputs: ReportInputs) -> str:
    """What the loss asks for, and how much closer it brings the codebook, from the run's two divergences."""
    if inputs.relation is None:
        return ""
    idea = (
        "The relation loss asks the semantic codebook to be spread like the features of a frozen network, the teacher: "
        "as many pairs of codes at each cosine."
    )
    ratio = relation_gain(inputs)
    if ratio is None:
        return idea
    found = (
        f"lies {times(ratio)} times closer to the teacher's (KL divergence)"
        if ratio > 1
        else "lies no closer to the teacher's (KL divergence)"
    )
    return f"{idea} Trained with it, the codebook's histogram {found} than the same tokenizer's, trained without it."


def relation_gain(inputs: ReportInputs) -> float | None:
    """How many times smaller the divergence from the teacher is with the relation loss than without."""
    if inputs.relation is None or inputs.twin_relation is None or inputs.relation["kl_final"] <= 0:
        return None
    return inputs.twin_relation["kl_final"] / inputs.relation["kl_final"]


def times(ratio: float) -> str:
    """A ratio with as many digits as a reader needs."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _comparison(inputs: ReportInputs) -> str:
    rows = [row for row in _rows(inputs) if row.with_loss or row.without_loss]
    bold = any(_better(row) is not None for row in rows)
    note = (
        "Bold: the better one, where the shown numbers differ; in rows with deviations (\u00b1), by more than both."
        if bold
        else ""
    )
    note = f'<p class="soft">{note}</p>' if note else ""
    heads = ("Semantic codebook", "With the loss", "Without")
    return f"<div>{table(heads, map(_line, rows), 'twins')}{note}</div>"


def _line(row: _Row) -> str:
    better = _better(row)
    cells = "".join(
        f'<td class="number{" better" if better is side else ""}">{_shown(row, value)}</td>'
        for side, value in ((True, row.with_loss), (False, row.without_loss))
    )
    what = f"{text(row.measure.what)}<small>{text(row.measure.meaning)}</small>"
    return f"<tr><td>{what}</td>{cells}</tr>"


def _shown(row: _Row, value: _Value | None) -> str:
    if value is None:
        return "\u2013"
    spread = "" if value.deviation is None else f"<small>\u00b1 {value.deviation:.2g}</small>"
    return f"{_number(row, value)}{spread}"


def _number(row: _Row, value: _Value) -> str:
    return row.measure.shown.format(value.mean).replace("%", " %")


def _better(row: _Row) -> bool | None:
    """Whether the tokenizer with the loss is better; None where that cannot be said."""
    if row.with_loss is None or row.without_loss is None:
        return None
    difference = row.with_loss.mean - row.without_loss.mean
    deviations = [value.deviation for value in (row.with_loss, row.without_loss)]
    if row.measure.is_mean and None in deviations:
        return None
    if _number(row, row.with_loss) == _number(row, row.without_loss):
        return None
    noise = sum(value or 0 for value in deviations)
    return None if abs(difference) <= noise else (difference < 0) is row.measure.lower_is_better


def _rows(inputs: ReportInputs) -> list[_Row]:
    relations = (inputs.relation, inputs.twin_relation)
    first, second = (None if found is None else _Value(found["kl_final"]) for found in relations)
    return [_Row(_DIVERGENCE, first, second), *(_row(measure, inputs) for measure in _MEASURES)]


def _row(measure: _Measure, inputs: ReportInputs) -> _Row:
    source = Source(inputs.metrics)
    names = (measure.metric, f"twin_{measure.metric}")
    found = [(source.value(name), source.deviation(name)) for name in names]
    first, second = (None if mean is None else _Value(mean, std) for mean, std in found)
    return _Row(measure, first, second)
