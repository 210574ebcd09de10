"""From a search space to the changes of one trial, in the dotted names of the command line.

Who chooses is another's work (`Chooser`): chance, Optuna, or the order of a grid.
Read next: glotok_ray/training/suggestions.py
"""

import itertools
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

from glotok_ray.config.losses import RelationConfig
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.search import ALPHA_FACTOR, WEIGHT, SearchField
from glotok_ray.config.sweeps import SweepRun

_BINS, _ALPHA = "loss.relation.num_bins", "loss.relation.alpha"
_OF_RELATION = (ALPHA_FACTOR, "loss.relation.")
_BESIDE = ":beside"
"""Ends the name of the choice between a range and the numbers beside it."""
_RANGE = "range"

Changes = dict[str, Any]


class Chooser(Protocol):
    """Chooses among what a field may be; Optuna's trials are such."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number from `low` to `high`."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number from `low` to `high`, both included."""
        ...


def draw(config: SweepRun, chooser: Chooser) -> Changes:
    """The changes of a trial. With relation weight 0, what only shapes the relation loss is not asked for."""
    # The weight first: it decides what else there is to choose.
    ordered = sorted(config.space, key=lambda item: item.field != WEIGHT)
    chosen: Changes = {}
    for item in ordered:
        if _counts(config, item, chosen):
            chosen[item.field] = _typed(
                config.tokenizer, item.field, _chosen(config, item, chooser)
            )
    return _with_alpha(config, chosen)


def baseline(config: SweepRun) -> Changes | None:
    """The trial without relation loss, all else as the recipe has it; None where the space holds no weight 0."""
    for item in config.space:
        if item.field == WEIGHT and 0.0 in item.values:
            return {WEIGHT: 0.0}
    return None


def grid(config: SweepRun) -> list[Changes]:
    """All points of a space without ranges, none twice."""
    options = [item.words or item.values for item in config.space]
    found: list[Changes] = []
    for point in itertools.product(*options):
        by_name = {item.field: value for item, value in zip(config.space, point, strict=True)}
        changes = draw(config, _Given(by_name))
        if changes not in found:
            found.append(changes)
    return found


def corners(config: SweepRun) -> Iterator[Changes]:
    """Every end of a range and every value, one field changed at a time, and all at their last ones, for what can be
    refused before any trial.
    """
    last: Changes = {}
    for item in config.space:
        ends = (item.low, item.high) if item.has_range else ()
        for value in (*item.words, *item.values, *ends):
            last[item.field] = _typed(config.tokenizer, item.field, value)
            yield _with_alpha(config, {item.field: last[item.field]})
    yield _with_alpha(config, last)


def _counts(config: SweepRun, item: SearchField, chosen: Changes) -> bool:
    weight = chosen.get(WEIGHT, config.tokenizer.loss.relation_weight)
    return weight > 0 or not item.field.startswith(_OF_RELATION)


def _with_alpha(config: SweepRun, chosen: Changes) -> Changes:
    changes = dict(chosen)
    if ALPHA_FACTOR in changes:
        bins = changes.get(_BINS, config.tokenizer.loss.relation.num_bins)
        changes[_ALPHA] = changes.pop(ALPHA_FACTOR) * RelationConfig(num_bins=bins).sharpness
    return changes


def _chosen(config: SweepRun, item: SearchField, chooser: Chooser) -> Any:
    if not item.has_range:
        return chooser.suggest_categorical(item.field, item.words or item.values)
    if item.values:
        beside = chooser.suggest_categorical(item.field + _BESIDE, (_RANGE, *item.values))
        if beside != _RANGE:
            return beside
    if _is_whole(config.tokenizer, item.field):
        return chooser.suggest_int(item.field, round(item.low), round(item.high), log=item.log)
    return chooser.suggest_float(item.field, item.low, item.high, log=item.log)


class _Given:
    """Chooses what a point of a grid says."""

    def __init__(self, point: Changes) -> None:
        self._point = point

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._point[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        raise ValueError(f"space: {name} has a range, and a grid has no points for it")

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        raise ValueError(f"space: {name} has a range, and a grid has no points for it")


# ------------------------------------------------------------------------------------------ types of fields


def _typed(run: TokenizerRun, name: str, value: Any) -> Any:
    """The number or word as the field's own type; raises ValueError for what it cannot be."""
    if name == ALPHA_FACTOR:
        return float(value)
    kinds = _kinds(run, name)
    if isinstance(value, str):
        if bool in kinds:
            if value not in ("true", "false"):
                raise ValueError(f"space: {name} = {value!r}: is a switch; write true or false")
            return value == "true"
        if not any(kind is str or typing.get_origin(kind) is typing.Literal for kind in kinds):
            raise ValueError(f"space: {name} = {value!r}: takes numbers; give them as values")
        return value
    if not {int, float} & set(kinds):
        raise ValueError(f"space: {name} = {value!r}: takes words; give them as words")
    if float in kinds:
        return float(value)
    if value != int(value):
        raise ValueError(f"space: {name} = {value!r}: must be a whole number")
    return int(value)


def _is_whole(run: TokenizerRun, name: str) -> bool:
    if name == ALPHA_FACTOR:
        return False
    kinds = _kinds(run, name)
    return int in kinds and float not in kinds


def _kinds(run: TokenizerRun, name: str) -> tuple[Any, ...]:
    """The types that a dotted field may have; raises ValueError for one that is not there."""
    holder: Any = run
    *sections, last = name.split(".")
    for part in sections:
        if isinstance(holder, tuple) and part.isdigit() and int(part) < len(holder):
            holder = holder[int(part)]
        else:
            holder = getattr(holder, part, None)
    known = [item.name for item in fields(holder)] if is_dataclass(holder) else []
    if last not in known:
        raise ValueError(
            f"space: {name!r} is no field of the tokenizer's run; write it as on the command line of "
            f"jobs.train_tokenizer, or take {ALPHA_FACTOR}"
        )
    hint = typing.get_type_hints(type(holder))[last]
    if typing.get_origin(hint) is typing.Literal:
        return (hint,)
    return typing.get_args(hint) or (hint,)
