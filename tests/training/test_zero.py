"""Two DeepSpeed workers under every ZeRO stage against one plain process: losses, averages, restarts, resuming."""

from pathlib import Path

import pytest
import torch
import two_workers
from two_workers import RESUMED_FROM, RUN, STEPS

from glotok_ray.config import override
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.training.worker import LocalWorker

pytestmark = pytest.mark.slow

STAGES = (0, 1, 2, 3)
RESTARTED_AFTER = RUN.loss.restart_every_steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both ranks left behind, all stages in one pair of processes."""
    found = tmp_path_factory.mktemp("zero")
    two_workers.run_pair(Path(two_workers.__file__), found)
    return found


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict:
    return torch.load(folder / "answers-0.pt", weights_only=True)


@pytest.fixture(scope="module")
def plain() -> tuple[list[float], dict[str, torch.Tensor], float]:
    """Losses and averaged weights of one process with all images, and the gradient's norm on the way."""
    one = override(RUN, {"scaling.num_workers": 1, "scaling.engine": "torch"})
    worker = LocalWorker()
    training = two_workers.build(one, worker)
    losses = two_workers.learn(training, worker, range(RESUMED_FROM))
    norm = float(training.state.tokenizer.gradient_norm)
    losses += two_workers.learn(training, worker, range(RESUMED_FROM, RESTARTED_AFTER))
    return losses, training.state.average.whole(keep=True), norm


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_follow_one_process(answers, plain, stage: int) -> None:
    # Up to the restart of unused codes, which draws tokens per worker.
    found, expected = answers[stage]["curve"][:RESTARTED_AFTER], plain[0]
    assert found == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) == RESTARTED_AFTER
    assert answers[stage]["norm"] == pytest.approx(plain[2], rel=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_averages_and_restarts_alike(answers, folder: Path, stage: int) -> None:
    # After the restart tokens lie on codes exactly, and a rounding may pick a neighbour.
    assert answers[stage]["curve"] == pytest.approx(answers[0]["curve"], rel=1e-3)
    assert answers[stage]["metrics"] == pytest.approx(answers[0]["metrics"], rel=1e-3)
    found, expected = (
        GloTokTokenizer.from_pretrained(folder / f"stage-{number}").state_dict()
        for number in (stage, 0)
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_repeats_the_uninterrupted_one(answers, stage: int) -> None:
    assert answers[stage]["again"] == answers[stage]["curve"][RESUMED_FROM:STEPS]


@pytest.mark.parametrize("stage", STAGES)
def test_the_adaptive_weight_needs_no_whole_layer(answers, stage: int) -> None:
    assert answers[stage]["rival"] == pytest.approx(answers[0]["rival"], rel=1e-4)
    assert answers[stage]["rival_norm"] == pytest.approx(answers[0]["rival_norm"], rel=1e-3)
    assert answers[stage]["rival_norm"] > 0


@pytest.mark.parametrize("stage", STAGES)
def test_the_adam_of_gpus_follows_that_of_cpus_and_resumes(answers, stage: int) -> None:
    found, expected = answers[stage]["fused"], answers[stage]["curve"]
    assert found["fused"]
    assert all(found["fused"])
    assert found["curve"][:RESTARTED_AFTER] == pytest.approx(expected[:RESTARTED_AFTER], rel=1e-4)
    # After the restart of unused codes tokens lie on codes exactly, and a rounding may pick a neighbour.
    assert found["curve"] == pytest.approx(expected, rel=1e-2)
    assert found["again"] == found["curve"][RESUMED_FROM:]


@pytest.mark.parametrize("stage", STAGES)
def test_one_workers_nan_in_any_micro_batch_stops_all_before_a_weight_changes(
    folder: Path, stage: int
) -> None:
    for rank in (0, 1):
        found = torch.load(folder / f"answers-{rank}.pt", weights_only=True)[stage]["stopped"]
        assert found["text"].startswith("step 3: perceptual, adversarial_scale, total not")
        assert found["kept"]
        assert found["sums"] == {"due": 3.0}


@pytest.mark.parametrize("precision", ["thrifty", "masters"])
@pytest.mark.parametrize("stage", STAGES)
def test_half_precision_stays_near(answers, stage: int, precision: str) -> None:
    assert answers[stage][precision] == pytest.approx(answers[0]["curve"][:2], rel=0.03)
    assert answers[stage][precision] != answers[stage]["curve"][:2]
