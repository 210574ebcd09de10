"""Which point of a search space a sweep tries next: asked before a trial and told of its end, in any order.

A sweep that is taken up again first replays what it had suggested, with the results, and then draws what it would have
drawn: every draw has a seed of its own. Knows nothing of Ray. Read next: glotok_ray/on_ray/search.py
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from glotok_ray.config.overrides import override
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.training.search_space import Changes, baseline, corners, draw, grid
from glotok_ray.training.trials import STEP, Status, Trial, TrialRecord

_MOST_TRIES = 50
"""Draws in a row that repeat earlier trials, after which the space counts as exhausted."""


class Search(Protocol):
    """How points of the space are drawn, in order."""

    def ask(self, number: int, known: Sequence[Changes]) -> tuple[Changes, Changes] | None:
        """Changes and choices of the next trial, `number` counted from 0; None when there are no more points."""
        ...

    def tell(self, number: int, reports: Sequence[Mapping[str, Any]], status: Status) -> None:
        """The evaluations of a trial that was asked for or replayed, and how it ended."""
        ...

    def replay(self, number: int, choices: Changes) -> None:
        """Take a trial as asked for that an earlier process had asked for."""
        ...


class Suggestions:
    """The trials of a sweep, one after another; the baseline is the first."""

    def __init__(self, config: SweepRun) -> None:
        self._config, self._search = config, _search_of(config)
        self._trials: list[Trial] = []

    @property
    def trials(self) -> Sequence[Trial]:
        """All that were suggested or replayed."""
        return self._trials

    def replay(self, records: Iterable[TrialRecord]) -> None:
        """Take up the trials of an earlier process, in order, with what came of those that ended."""
        for record in records:
            number = len(self._trials)
            self._trials.append(record.trial)
            if record.choices:
                self._search.replay(number, record.choices)
            if record.status:
                self.tell(record.trial.name, record.reports, record.status)

    def ask(self) -> tuple[Trial, Changes] | None:
        """The next trial and what was chosen for it; None when all are suggested."""
        number = len(self._trials)
        if number >= self._config.num_trials:
            return None
        first = baseline(self._config) if number == 0 else None
        found = (
            (first, {}) if first else self._search.ask(number, [t.changes for t in self._trials])
        )
        if found is None:
            return None
        changes, choices = found
        trial = Trial(f"trial_{number:02d}", changes)
        self._trials.append(trial)
        return trial, choices

    def tell(self, name: str, reports: Sequence[Mapping[str, Any]], status: Status) -> None:
        """How a trial ended, and its evaluations; an error teaches nothing."""
        (number,) = (n for n, trial in enumerate(self._trials) if trial.name == name)
        self._search.tell(number, reports, status)


def first_trials(config: SweepRun) -> list[Trial]:
    """The trials that no result decides: all of a grid or of a random search, Optuna's first ones. Raises ValueError
    where a grid holds fewer points than there are trials, and for an end of the space that no tokenizer's run can have.
    """
    for changes in corners(config):
        override(config.tokenizer, changes)
    suggestions = Suggestions(config)
    wanted = config.num_trials
    if config.search == "optuna":
        wanted = min(wanted, config.startup_trials)
    while len(suggestions.trials) < wanted and suggestions.ask() is not None:
        pass
    found = list(suggestions.trials)
    if len(found) < wanted:
        raise ValueError(
            f"num_trials = {config.num_trials}: the search space holds only {len(found)} points; lower it, or add "
            "values to space"
        )
    return found


def _search_of(config: SweepRun) -> Search:
    return GridSearch(config) if config.search == "grid" else SampledSearch(config)


class GridSearch:
    """The points of a grid in an order drawn by the seed, none twice."""

    def __init__(self, config: SweepRun) -> None:
        points = grid(config)
        order = seeded_generator("sweep", config.seed).permutation(len(points))
        self._points = [points[index] for index in order]

    def ask(self, number: int, known: Sequence[Changes]) -> tuple[Changes, Changes] | None:
        """The first point that is not known yet."""
        return next(((point, {}) for point in self._points if point not in known), None)

    def tell(self, number: int, reports: Sequence[Mapping[str, Any]], status: Status) -> None:
        """A grid learns nothing."""

    def replay(self, number: int, choices: Changes) -> None:
        """What is known is told at every `ask`."""


class SampledSearch:
    """Optuna's TPE or chance, through Optuna's own ask and tell.

    Trials that were stopped early are told as pruned, with their values by step; TPE ranks them below finished ones.
    """

    def __init__(self, config: SweepRun) -> None:
        import optuna  # half a second, of which a dry run of other jobs need not know

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._config = optuna, config
        direction = "maximize" if config.higher_is_better else "minimize"
        self._study = optuna.create_study(direction=direction)
        self._asked: dict[int, Any] = {}

    def ask(self, number: int, known: Sequence[Changes]) -> tuple[Changes, Changes] | None:
        """A point that is not known yet."""
        for attempt in range(_MOST_TRIES):
            self._study.sampler = self._sampler(number, attempt)
            asked = self._study.ask()
            changes = draw(self._config, asked)
            if changes not in known:
                self._asked[number] = asked
                return changes, dict(asked.params)
            # Equal settings and seed give an equal trial: it would tell nothing new.
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        return None

    def tell(self, number: int, reports: Sequence[Mapping[str, Any]], status: Status) -> None:
        """Value by step for trials that ended well or were stopped."""
        asked = self._asked.pop(number, None)
        if asked is None:  # the baseline, which is no point of the space's own names
            return
        states = self._optuna.trial.TrialState
        name = self._config.judged_by
        values = {line[STEP]: line[name] for line in reports if line.get(name) is not None}
        if status == "failed" or not values:
            self._study.tell(asked, state=states.FAIL)
            return
        for step, value in values.items():
            asked.report(value, step)
        if status == "stopped":
            self._study.tell(asked, state=states.PRUNED)
        else:
            self._study.tell(asked, values[max(values)])

    def replay(self, number: int, choices: Changes) -> None:
        """Ask for exactly these choices."""
        self._study.enqueue_trial(choices)
        asked = self._study.ask()
        draw(self._config, asked)
        self._asked[number] = asked

    def _sampler(self, number: int, attempt: int) -> Any:
        config = self._config
        seeds = seeded_generator("sweep", config.seed, number, attempt)
        seed = int(seeds.integers(2**31))
        if config.search == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)
        return self._optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=config.startup_trials,
            # Trials that run beside it count as bad ones, so that not all of them try one place.
            constant_liar=config.max_concurrent_trials > 1,
        )
