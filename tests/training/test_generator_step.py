"""One optimizer step of a generator, on the smallest real models."""

import copy

import pytest
import torch
from small_tokenizer import MODEL, write_snapshot
from torch import nn

from glotok_ray.config import (
    FARConfig,
    FlowConfig,
    OptimizerConfig,
    VocabularyConfig,
    XARConfig,
)
from glotok_ray.losses.flow_matching import draw_times, flow_matching_loss, order_times
from glotok_ray.nn.far import FAR
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.training import profiling
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.generator_state import GeneratorState
from glotok_ray.training.generator_step import (
    FlowObjective,
    GeneratorStep,
    Objective,
    TokenObjective,
)
from glotok_ray.training.schedule import seed_step, step_generator
from glotok_ray.training.worker import LocalWorker

PLAIN = OptimizerConfig(learning_rate=1e-3, gradient_clip=0.0)
XAR_SIZE = XARConfig(grid_size=8, cell_size=4, width=32, depth=2, num_heads=2, num_classes=3)
FAR_SIZE = FARConfig(
    grid_size=8,
    codebooks=(
        VocabularyConfig(name="visual", size=48),
        VocabularyConfig(name="semantic", size=32),
    ),
    width=32,
    depth=2,
    head_depth=1,
    num_heads=2,
    mlp_multiple=1,
    num_classes=3,
)


def batch(count: int = 8) -> dict[str, torch.Tensor]:
    images, positions = torch.arange(count).unsqueeze(1), torch.arange(64)
    return {
        "semantic": ((positions + images) % 4).int(),
        "visual": ((positions // 8 + images) % 5).int(),
        "label": torch.arange(count) % 3,
    }


def flow(**changes: object) -> FlowObjective:
    torch.manual_seed(0)
    tokenizer = GloTokTokenizer(MODEL).requires_grad_(False).eval()
    return FlowObjective(tokenizer, torch.full((16,), 2.0), XAR_SIZE, FlowConfig(**changes))


def make(kind: str) -> tuple[nn.Module, Objective]:
    torch.manual_seed(0)
    if kind == "xar":
        return XAR(XAR_SIZE), flow()
    model = FAR(FAR_SIZE)
    for output in model.outputs:
        nn.init.normal_(output.weight, std=0.1)  # zeros would make the first loss equal for all
    return model, TokenObjective(FAR_SIZE, label_dropout=0.1)


def step_of(model: nn.Module, objective: Objective, decay: float = 0.99) -> GeneratorStep:
    engine = TorchEngine(model, PLAIN, 1)
    average = ExponentialMovingAverage(engine, decay) if decay else None
    worker = LocalWorker()
    return GeneratorStep(GeneratorState(engine, average, worker), objective, worker)


@pytest.mark.parametrize(("kind", "term"), [("xar", "flow_matching"), ("far", "cross_entropy")])
def test_a_generator_learns_and_its_average_follows(kind: str, term: str, tmp_path) -> None:
    model, objective = make(kind)
    step = step_of(model, objective)
    losses = []
    for number in range(40):
        seed_step(0, number, 0)
        losses.append(float(step.learn([batch()], number)[term]))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    write_snapshot(step._state, tmp_path)
    other, _ = make(kind)
    again = step_of(other, objective)
    again._state.load(tmp_path)
    seed_step(0, 40, 0)
    expected = step.learn([batch()], 40)
    seed_step(0, 40, 0)
    assert again.learn([batch()], 40) == expected


@pytest.mark.parametrize("kind", ["xar", "far"])
def test_equal_seeds_give_equal_losses_and_others_do_not(kind: str) -> None:
    model, objective = make(kind)

    def first_loss(seed: int) -> dict[str, torch.Tensor]:
        seed_step(seed, 0, 0)
        return step_of(copy.deepcopy(model), objective).learn([batch()], 0)

    assert first_loss(0) == first_loss(0)
    assert first_loss(0) != first_loss(1)


def test_a_trace_has_the_parts_of_a_step_once_each() -> None:
    model, objective = make("far")
    step = step_of(model, objective)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step.learn([batch()], 0)
    counts = {event.key: event.count for event in profiler.key_averages()}
    # What is left of them is the trainer's.
    parts = set(profiling.PARTS) - {profiling.DATA, profiling.METRICS}
    assert {name: counts.get(name) for name in parts} == dict.fromkeys(parts, 1)


def test_a_run_may_keep_no_average(tmp_path) -> None:
    model, objective = make("far")
    step = step_of(model, objective, decay=0.0)
    step.learn([batch()], 0)
    write_snapshot(step._state, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["generator"]


def test_the_terms_of_far_are_its_codebooks_and_their_mean() -> None:
    model, objective = make("far")
    seed_step(0, 0, 0)
    terms = step_of(model, objective).learn([batch()], 0)
    mean = (terms["visual_cross_entropy"] + terms["semantic_cross_entropy"]) / 2
    assert torch.allclose(terms["cross_entropy"], mean)
    assert terms["visual_cross_entropy"] != terms["semantic_cross_entropy"]


@pytest.mark.parametrize("context", ["random", "clean", "increasing", "decreasing"])
@pytest.mark.parametrize("latent_space", ["codes", "codes_plus_residual"])
def test_the_flow_objective_is_eq_4_on_scaled_latents(context: str, latent_space: str) -> None:
    """The engine sees noisy tokens, times and labels; the loss follows from them and the clean latents."""
    objective = flow(context=context, latent_space=latent_space, label_dropout=1.0)
    seen: list[tuple[torch.Tensor, ...]] = []

    class Recorder(TorchEngine):
        def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
            seen.append(inputs)
            return torch.zeros_like(inputs[0]).requires_grad_()

    engine = Recorder(XAR(XAR_SIZE), PLAIN, 1)
    seed_step(0, 0, 0)
    loss = objective(engine, batch(), step_generator(torch.device("cpu")))["flow_matching"]
    noisy, times, labels, *rest = seen[0]
    codes = torch.stack([batch()[name].long().reshape(8, 8, 8) for name in MODEL.names], dim=1)
    refine = latent_space == "codes_plus_residual"
    clean = engine.module.to_entities(2.0 * objective._tokenizer.latents(codes, refine=refine))
    per_token = times.repeat_interleave(16, dim=1).unsqueeze(2)
    # The same draws again, in the objective's order: times, then noise.
    seed_step(0, 0, 0)
    again = step_generator(torch.device("cpu"))
    drawn = order_times(draw_times((8, 4), "logit_normal", again), context)
    noise = torch.randn(clean.shape, generator=again)
    assert torch.equal(times, drawn)
    assert torch.allclose((1 - per_token) * clean + per_token * noise, noisy, atol=1e-5)
    assert loss.item() == pytest.approx(
        flow_matching_loss(torch.zeros_like(clean), clean, noise).item(), rel=1e-3
    )
    assert (labels == 3).all()
    assert bool(rest) == (context == "clean")
    if rest:
        assert torch.allclose(rest[0], clean)
    order = (times.diff(dim=1) >= 0).all(), (times.diff(dim=1) <= 0).all()
    assert order == {"increasing": (True, False), "decreasing": (False, True)}.get(
        context, (False, False)
    )


def test_the_heartbeat_hears_every_phase_of_a_step() -> None:
    step = step_of(*make("far"))
    heard: list[str] = []
    step._worker.heartbeat.enter = lambda phase, number=None: heard.append(phase)  # type: ignore[method-assign]
    step.learn([batch()] * 2, 0)
    assert heard == ["forward", "backward", "reduce"] * 2
