"""Times of steps: the warm-up left out, waits counted, and MFU where the device's peak is known."""

import pytest

from glotok_ray.training.step_times import WARMUP_STEPS, StepTimes, Utilization


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("glotok_ray.training.step_times.time.monotonic", lambda: found.now)
    return found


def step(times: StepTimes, clock: Clock, *, data: float, work: float) -> None:
    times.begin()
    times.waiting_for(lambda: clock.wait(data))
    clock.wait(work)
    times.end()


def test_the_first_steps_are_not_timed(clock: Clock) -> None:
    times = StepTimes(images_per_step=8)
    for _ in range(WARMUP_STEPS):
        step(times, clock, data=1.0, work=9.0)
    assert times.take(WARMUP_STEPS - 1) == {"images_per_s": 0.8, "data_share": 0.1}
    step(times, clock, data=0.5, work=0.5)
    found = times.take(WARMUP_STEPS)
    assert found["step_median_s"] == found["step_p95_s"] == 1.0
    assert (found["images_per_s"], found["data_share"]) == (8.0, 0.5)


def test_median_and_95th_percentile_are_of_steps_alone(clock: Clock) -> None:
    times = StepTimes(images_per_step=8)
    for _ in range(WARMUP_STEPS):
        step(times, clock, data=0.0, work=1.0)
    times.take(WARMUP_STEPS - 1)
    for number in range(101):
        step(times, clock, data=0.0, work=1.0 + number / 100)
        clock.wait(3.0)  # an evaluation
    found = times.take(0)
    assert found["step_median_s"] == pytest.approx(1.5)
    assert found["step_p95_s"] == pytest.approx(1.95)
    assert found["images_per_s"] == pytest.approx(101 * 8 / (101 * 1.5 + 101 * 3))
    assert "mfu" not in found


def test_the_wait_for_the_first_batch_is_kept_apart(clock: Clock) -> None:
    times = StepTimes(images_per_step=8)
    assert times.first_wait_s is None
    for data in (4.5, 0.5):
        step(times, clock, data=data, work=1.0)
    times.take(1)
    assert times.first_wait_s == 4.5


def test_mfu_is_the_share_of_the_peak_at_the_median(clock: Clock) -> None:
    times = StepTimes(8, Utilization(lambda number: 100.0 if number > 5 else 50.0, peak=200.0))
    for _ in range(WARMUP_STEPS + 1):
        step(times, clock, data=1.0, work=1.0)
    assert times.take(5)["mfu"] == 0.125
    step(times, clock, data=1.0, work=1.0)
    assert times.take(6)["mfu"] == 0.25
