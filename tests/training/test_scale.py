"""Plans on paper: closed forms of what is sent and what binds, memory as a dry run expects it, and docs/scale.md."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from glotok_ray.config import override
from glotok_ray.recipes import train_generator, train_tokenizer
from glotok_ray.training.describe import describe_generator
from glotok_ray.training.gpu_kinds import GPUS
from glotok_ray.training.scale import Needs, needs_of, row_of
from glotok_ray.training.scale_table import table
from jobs import plan

ROOT = Path(__file__).parents[2]
H100 = GPUS["h100"]


@pytest.fixture(scope="module")
def xar_b() -> Needs:
    return needs_of(train_generator.RECIPES["xar_b"]())


def with_stage(needs: Needs, stage: int) -> Needs:
    return needs._replace(run=override(needs.run, {"scaling.zero_stage": stage}))


def test_memory_is_what_a_dry_run_of_as_many_workers_expects(xar_b: Needs) -> None:
    row = row_of(xar_b, 32, H100)
    expected = describe_generator(train_generator.RECIPES["xar_b"]())
    assert row.memory_gib[2] == pytest.approx(expected["memory_per_worker_gib"], abs=1e-3)
    assert row.steps == expected["total_steps"] == 500_000
    assert row.memory_gib[0] is None  # bf16 weights need masters
    assert row.memory_gib[1] >= row.memory_gib[2] >= row.memory_gib[3]


@pytest.mark.parametrize(
    ("stage", "gpus", "times"), [(1, 8, 2), (2, 8, 5), (2, 64, 2), (3, 8, 12), (3, 64, 3)]
)
def test_what_is_sent_counts_the_rings(xar_b: Needs, stage: int, gpus: int, times: int) -> None:
    # 2,048 images in passes of 64 are four on 8 GPUs and one on 64.
    row = row_of(with_stage(xar_b, stage), gpus, H100)
    assert row.network_gb * 1e9 == pytest.approx(times * 2 * 172_638_224 * (gpus - 1) / gpus)
    link = 450e9 if gpus == 8 else 50e9
    assert row.seconds["network"] == pytest.approx(row.network_gb * 1e9 / (0.7 * link))


@pytest.mark.parametrize("price", ["-3", "nan", "inf"])
def test_a_price_that_is_none_is_refused_in_one_line(
    price: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(["xar_b", "--gpus", "8", f"--price={price}"]) == 2
    assert caplog.messages == [
        f"plan: --price = {float(price)}: must be a finite number, 0 or more"
    ]
    assert capsys.readouterr().out == ""


def test_one_gpu_sends_nothing(xar_b: Needs) -> None:
    assert row_of(xar_b, 1, H100).network_gb == 0


def test_days_and_hours_follow_from_the_step(xar_b: Needs) -> None:
    row = row_of(xar_b, 64, H100)
    step = max(row.seconds["gpu"], row.seconds["host"]) + row.seconds["network"]
    assert row.days == pytest.approx(500_000 * step / 86_400)
    assert row.gpu_hours == pytest.approx(row.days * 24 * 64)
    assert row.images_per_s == pytest.approx(2048 / step)


def test_a_measured_step_is_found_again(xar_b: Needs) -> None:
    """One H200 with 64 images: 442 images/s, where the host binds (docs/gpu_figures.md)."""
    run = override(xar_b.run, {"schedule.global_batch_size": 64})
    row = row_of(xar_b._replace(run=run), 1, GPUS["h200"])
    assert row.images_per_s == pytest.approx(442, rel=1e-3)
    assert row.bound == "host"


@pytest.mark.parametrize(("asked", "gpus"), [(8, 8), (60, 32), (100, 64), (5000, 2048)])
def test_gpus_that_do_not_divide_the_batch_are_left_out(
    xar_b: Needs, asked: int, gpus: int
) -> None:
    row = row_of(xar_b, asked, H100)
    assert (row.asked, row.gpus) == (asked, gpus)
    assert row.gpus * row.micro_batch * row.accumulation == 2048


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        (lambda needs: needs, "host"),
        (lambda needs: needs._replace(operations=1e13), "gpu"),
    ],
)
def test_what_takes_longest_binds(
    xar_b: Needs, change: Callable[[Needs], Needs], bound: str
) -> None:
    assert row_of(change(xar_b), 8, H100).bound == bound


@pytest.mark.parametrize(
    ("num_steps", "told"),
    [
        (0, " 800 epochs of 1,281,167 images in batches of 2,048: 500,000 steps;"),
        (1000, " 1.6 epochs of 1,281,167 images in batches of 2,048: 1,000 steps;"),
    ],
)
def test_epochs_are_those_of_the_steps(xar_b: Needs, num_steps: int, told: str) -> None:
    needs = xar_b._replace(run=override(xar_b.run, {"schedule.num_steps": num_steps}))
    assert told in table(needs, [row_of(needs, 8, H100)], H100, 0.0)


def test_a_slow_network_binds(xar_b: Needs) -> None:
    assert row_of(xar_b, 64, H100._replace(between_gb_s=1)).bound == "network"


def test_too_little_memory_binds_and_stages_that_fit_are_named(xar_b: Needs) -> None:
    row = row_of(xar_b, 8, H100)
    between = 1.0866 * (row.memory_gib[2] + row.memory_gib[3]) / 2
    small = H100._replace(memory_gib=between)
    assert row_of(xar_b, 8, small).bound == "memory (stage 3 fits)"
    assert row_of(xar_b, 8, H100._replace(memory_gib=1)).bound == "memory"
    assert "(too much)" in table(xar_b, [row_of(xar_b, 8, small)], small, 0.0)


def test_few_cpus_make_a_tokenizer_wait_for_its_images() -> None:
    run = override(train_tokenizer.RECIPES["quickstart"](), {"data.num_train_images": 1000})
    needs = needs_of(run)
    row = row_of(needs, 1, H100._replace(cpus=run.scaling.cpus_per_worker + 0.1))
    assert row.ingest_capacity == pytest.approx(14)
    assert row.bound == "ingest"
    assert row.images_per_s == pytest.approx(14)
    assert math.isfinite(row.days)


def test_bad_numbers_are_refused_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert plan.main(["xar_b", "--gpus", "8,x"]) == 2
    assert "--gpus = '8,x': must be whole numbers" in caplog.messages[-1]
    assert plan.main(["quickstart_far", "--gpus", "0"]) == 2
    assert "--gpus = 0: must be at least 1" in caplog.messages[-1]


def test_the_command_knows_every_gpu() -> None:
    assert set(plan.KINDS) == set(GPUS)


@pytest.mark.slow
def test_the_page_holds_what_the_command_prints() -> None:
    text = plan.plan(("glotok_16k", "xar_b", "xar_l", "xar_h"), (8, 64, 256), "h100", 3.0)
    assert text in (ROOT / "docs" / "scale.md").read_text(), "run the command of docs/scale.md"
