"""Which trials are stopped: Tune's policies by the trials' names, the same after a restart. Starts no Ray."""

import math

import pytest

from glotok_ray.config import override
from glotok_ray.on_ray.stopping import StoppedTrials
from glotok_ray.on_ray.tune import driver_resources
from glotok_ray.recipes import sweep_tokenizer
from glotok_ray.training.trials import Trial, TrialRecord

STEPS = (8, 16, 24, 32)


def test_trials_wait_on_the_head_and_those_that_train_themselves_take_their_share() -> None:
    config = sweep_tokenizer.quickstart_search()
    assert driver_resources(config.tokenizer) == {"CPU": 1, "GPU": 0}
    on_workers = sweep_tokenizer.glotok_16k().tokenizer
    assert driver_resources(on_workers) == driver_resources()
    assert driver_resources() == {"CPU": 0, "node:__internal_head__": 0.001}


def losses(number: int) -> list[float]:
    """Of every third trial the best."""
    return [100 - 2.0 * step - (50 if number % 3 == 0 else number) for step in STEPS]


def judged(config, *, restart_at: int | None = None, sign: float = 1.0):
    """The steps that eight trials reach, two at a time, and those that were stopped."""
    stopping = StoppedTrials(config)
    reports: dict[str, list[dict[str, float]]] = {}
    time, ended = 0, set()
    for pair in range(4):
        for place, step in enumerate(STEPS):
            for number in (2 * pair, 2 * pair + 1):
                name = f"trial_{number:02d}"
                if name in ended:
                    continue
                time += 1
                value = sign * losses(number)[place]
                report = {"step": step, config.judged_by: value, "unix_s": time}
                reports.setdefault(name, []).append(report)
                if time == restart_at:
                    stopping = StoppedTrials(config)
                    # Named out of the order of time, the one that has just reported among them.
                    stopping.replay(
                        TrialRecord(Trial(key, {}), {}, found, "")
                        for key, found in sorted(reports.items(), reverse=True)
                    )
                if stopping.judge(name, report) == "STOP":
                    ended.add(name)
    return {name: found[-1]["step"] for name, found in reports.items()}, stopping.stopped


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_the_worse_are_stopped_and_a_restart_changes_nothing(scheduler) -> None:
    config = override(sweep_tokenizer.quickstart_search(), {"scheduler": scheduler})
    reached, stopped = judged(config)
    assert {"trial_00", "trial_03", "trial_06"} <= {
        name for name, at in reached.items() if at == 32
    }
    assert stopped == {name for name, at in reached.items() if at < 32}
    assert stopped
    for restart_at in (1, 5, 9):
        assert judged(config, restart_at=restart_at) == (reached, stopped)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_one_that_went_on_is_not_stopped_afterwards(scheduler) -> None:
    """Reports of one moment may reach the driver in another order than that of their times."""
    config = override(sweep_tokenizer.quickstart_search(), {"scheduler": scheduler})
    live, reports = StoppedTrials(config), []

    def report(name: str, step: int, loss: float, time: int) -> str:
        found = {"step": step, config.judged_by: loss, "unix_s": time}
        reports.append((name, found))
        return live.judge(name, found)

    early = ("first", 8, 10.0, 1), ("second", 8, 20.0, 2), ("third", 8, 30.0, 3)
    # The last to write was judged first, when nothing was better.
    assert report("swapped", 8, 90.0, 4) == "CONTINUE"
    for each in early:
        report(*each)
    assert report("swapped", 16, 80.0, 5) == "CONTINUE"
    later = StoppedTrials(config)
    names = dict.fromkeys(name for name, _ in reports)
    later.replay(
        TrialRecord(Trial(name, {}), {}, [found for other, found in reports if other == name], "")
        for name in names
    )
    assert "swapped" not in later.stopped
    assert later.judge("swapped", {"step": 24, config.judged_by: 70.0}) == "CONTINUE"


def test_higher_is_better_where_it_is_and_nobody_stops_without_a_scheduler() -> None:
    config = override(sweep_tokenizer.quickstart_search(), {"metric": "psnr"})
    by_loss = judged(override(config, {"metric": "fd_effnet"}))
    assert judged(config, sign=-1.0) == by_loss
    reached, stopped = judged(override(config, {"scheduler": "none"}))
    assert set(reached.values()) == {32}
    assert not stopped


def test_a_trial_that_is_taken_up_again_is_judged_once_a_step_and_one_without_a_value_is_worst() -> (
    None
):
    stopping = StoppedTrials(sweep_tokenizer.quickstart_search())
    for number in range(4):
        stopping.judge(f"trial_{number}", {"step": 8, "fd_effnet": 10.0 + number})
    assert stopping.judge("late", {"step": 8, "fd_effnet": 10.0}) == "CONTINUE"
    stopping.judge("best", {"step": 8, "fd_effnet": 1.0})
    # Judged by what was known then.
    assert stopping.judge("late", {"step": 8, "fd_effnet": 10.0}) == "CONTINUE"
    assert stopping.judge("unmeasured", {"step": 8, "fd_effnet": None}) == "STOP"
    assert stopping.judge("undefined", {"step": 8, "fd_effnet": math.nan}) == "STOP"
    assert stopping.judge("failed", {"failed": "reason"}) == "CONTINUE"
    assert stopping.stopped == {"trial_1", "trial_2", "trial_3", "unmeasured", "undefined"}
