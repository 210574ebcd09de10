"""The paper's idea as a section: two tokenizers that differ in the relation loss alone, beside their teacher.

Read next: glotok_ray/report/sections.py
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from glotok_ray.report.curves import relation_chart
from glotok_ray.report.headlines import Source, percent
from glotok_ray.report.inputs import ReportInputs
from glotok_ray.report.markup import ImageFormat, absent, number, table, text
from glotok_ray.report.metric_log import last_value

_BRANCH = "semantic"


class _Value(NamedTuple):
    """A measured value and, where it has one, its deviation."""

    mean: float
    deviation: float | None = None


class _Row(NamedTuple):
    """One measure of both tokenizers."""

    what: str
    meaning: str
    with_loss: _Value | None
    without_loss: _Value | None
    lower_is_better: bool
    shown: Callable[[float], str] = number


def relation(inputs: ReportInputs, _: ImageFormat) -> str:
    """Histograms in one plot and the measures of both codebooks in a table."""
    if inputs.relation is None:
        return absent("This run has no relation histograms.")
    twin = "" if inputs.twin_relation else absent("This run has no tokenizer without the relation loss.")
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
        f"lies {ratio:.3g} times closer to the teacher's (KL divergence)"
        if ratio > 1
        else "lies no closer to the teacher's (KL divergence)"
    )
    return f"{idea} Trained with it, the codebook's histogram {found} than the same tokenizer's, trained without it."


def relation_gain(inputs: ReportInputs) -> float | None:
    """How many times smaller the divergence from the teacher is with the relation loss than without."""
    if inputs.relation is None or inputs.twin_relation is None or inputs.relation["kl_final"] <= 0:
        return None
    return inputs.twin_relation["kl_final"] / inputs.relation["kl_final"]


def _comparison(inputs: ReportInputs) -> str:
    rows = [row for row in _rows(inputs) if row.with_loss or row.without_loss]
    bold = any(_better(row) for row in rows)
    body = [_line(row) for row in rows]
    note = "Bold: the better one, where the difference exceeds both deviations (±)." if bold else ""
    note = f'<p class="soft">{note}</p>' if note else ""
    heads = ("Semantic codebook", "With the loss", "Without")
    return f"<div>{table(heads, body, 'twins')}{note}</div>"


def _line(row: _Row) -> str:
    better = _better(row)
    cells = "".join(
        f'<td class="number{" better" if better is side else ""}">{_shown(row, value)}</td>'
        for side, value in ((True, row.with_loss), (False, row.without_loss))
    )
    return f"<tr><td>{text(row.what)}<small>{text(row.meaning)}</small></td>{cells}</tr>"


def _shown(row: _Row, value: _Value | None) -> str:
    if value is None:
        return "\u2013"
    spread = "" if value.deviation is None else f"<small>± {value.deviation:.1g}</small>"
    return f"{text(row.shown(value.mean))}{spread}"


def _better(row: _Row) -> bool | None:
    """Whether the tokenizer with the loss is better; None where that cannot be said."""
    if row.with_loss is None or row.without_loss is None:
        return None
    difference = row.with_loss.mean - row.without_loss.mean
    noise = sum(value.deviation or 0 for value in (row.with_loss, row.without_loss))
    return None if abs(difference) <= noise else (difference < 0) is row.lower_is_better


def _rows(inputs: ReportInputs) -> Sequence[_Row]:
    source = Source(inputs.metrics)

    def measured(name: str) -> tuple[_Value | None, _Value | None]:
        names = (name, f"twin_{name}")
        found = ((source.value(key), source.deviation(key)) for key in names)
        first, second = (None if mean is None else _Value(mean, std) for mean, std in found)
        return first, second

    def logged(name: str) -> tuple[_Value | None, _Value | None]:
        found = (last_value(log, name) for log in (inputs.tokenizer_log, inputs.twin_log))
        first, second = (None if value is None else _Value(value) for value in found)
        return first, second

    twin = inputs.twin_relation
    divergences = (
        None if inputs.relation is None else _Value(inputs.relation["kl_final"]),
        None if twin is None else _Value(twin["kl_final"]),
    )
    evenness = f"{_BRANCH}_tsne"
    return (
        _Row("Distance to the teacher", "KL divergence; lower is closer", *divergences, True, "{:.3g}".format),
        _Row("Density, unevenness", "variation, Table 3; lower is more even", *measured(f"{evenness}_density_cv"), True, "{:.3f}".format),
        _Row("Density, inequality", "Gini, Table 3; lower is more even", *measured(f"{evenness}_gini"), True, "{:.3f}".format),
        _Row("Density, entropy", "Table 3; 1 is even", *measured(f"{evenness}_normalized_entropy"), False, "{:.4f}".format),
        _Row("Near duplicates", "codes with another one almost on top", *logged(f"eval/{_BRANCH}_duplicates"), True, _percent),
        _Row("Codes in use", "in the validation crops", *measured(f"{_BRANCH}_usage"), False, percent),
        _Row("Reconstruction", "PSNR in dB; higher is better", *measured("reconstruction_psnr"), False, "{:.2f}".format),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
