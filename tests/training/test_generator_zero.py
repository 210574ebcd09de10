"""Generators on two DeepSpeed workers under every ZeRO stage against one plain process."""

import math
from pathlib import Path

import pytest
import torch
import two_generator_workers
from two_generator_workers import KINDS, RESUMED_FROM, SCALING, STEPS
from two_workers import run_pair

from glotok_ray.config import override
from glotok_ray.training.worker import LocalWorker

pytestmark = pytest.mark.slow

STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What both ranks found, all stages in one pair of processes."""
    found = tmp_path_factory.mktemp("generators")
    run_pair(Path(two_generator_workers.__file__), found)
    return torch.load(found / "answers-0.pt", weights_only=True)


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest) -> tuple[str, list[float], dict[str, torch.Tensor]]:
    """Kind, losses and averaged weights of one process with all images."""
    worker = LocalWorker()
    one = override(SCALING, {"num_workers": 1, "engine": "torch"})
    training = two_generator_workers.build(request.param, one, worker)
    losses = two_generator_workers.learn(training, worker, range(STEPS))
    return request.param, losses, training.state.average.whole(keep=True)


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_follow_one_process(answers, plain, stage: int) -> None:
    kind, losses, average = plain
    found = answers[f"{kind}-{stage}"]["fp32"]
    assert found["curve"] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]
    for name, value in average.items():
        torch.testing.assert_close(found["average"][name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_autocast"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_repeats_the_uninterrupted_one(
    answers, kind: str, stage: int, precision: str
) -> None:
    found = answers[f"{kind}-{stage}"][precision]
    assert found["again"] == found["curve"][RESUMED_FROM:]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_autocast"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_snapshot_holds_the_whole_average_for_sampling(
    answers, kind: str, stage: int, precision: str
) -> None:
    assert answers[f"{kind}-{stage}"][precision]["exported"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_bf16_with_fp32_masters_and_recomputed_blocks_stay_near(
    answers, kind: str, stage: int
) -> None:
    found = answers[f"{kind}-{stage}"]
    assert found["bf16"]["curve"] == pytest.approx(found["fp32"]["curve"], rel=0.03)
    assert found["bf16"]["curve"] != found["fp32"]["curve"]


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        (stage, precision)
        for stage in STAGES
        for precision in ("fp32", "bf16", "bf16_autocast")
        if (stage, precision) != (0, "bf16")  # which no config may have
    ],
)
def test_a_gradient_that_is_not_finite_moves_no_weight(answers, stage: int, precision: str) -> None:
    found = answers[f"broken-{stage}-{precision}"]
    # Moved, and a finite loss.
    assert found["broken"] == (False, True)
    assert found["norm"] == math.inf
    assert found["whole"] == (True, True)
    assert found["later"] == (False, True)
    assert found["average"]
    # DeepSpeed would ask every gradient, by a dozen kernels each.
    assert "amax" not in found["operations"]
    assert found["operations"]["abs"] < 20
