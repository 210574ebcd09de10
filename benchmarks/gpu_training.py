"""Training and sampling at full size on one device: the sections of `benchmarks.gpu_check` that build whole models.

Networks whose weights would have to be downloaded have the real architecture and random weights, which cost the same.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_place import RATIO, LeftOut, Place, Row, Stopwatch, work_of
from benchmarks.tokenizer_step import operations, random_frozen_networks, random_images
from glotok_ray.config import (
    FlowSamplerConfig,
    TokenizerConfig,
    TokenizerRun,
    XARConfig,
    XARRun,
    override,
)
from glotok_ray.losses import objective
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.recipes.train_generator import xar_b, xar_h
from glotok_ray.recipes.train_tokenizer import glotok_16k
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.training.batches import Batch
from glotok_ray.training.describe import describe_generator, describe_tokenizer
from glotok_ray.training.ema import make_average
from glotok_ray.training.engine import make_engine
from glotok_ray.training.generator_state import GeneratorState
from glotok_ray.training.generator_step import FlowObjective, GeneratorStep
from glotok_ray.training.runs import place as put
from glotok_ray.training.schedule import seed_step
from glotok_ray.training.tokenizer_state import TokenizerState
from glotok_ray.training.tokenizer_step import FrozenNetworks, TokenizerStep
from glotok_ray.training.worker import DistributedWorker

_TINY_TOKENIZER = {
    "autoencoder.image_size": 32,
    "autoencoder.base_channels": 32,
    "autoencoder.channel_multipliers": (1, 1, 2),
    "autoencoder.num_res_blocks": 1,
    "autoencoder.latent_channels": 32,
    "adapter.depth": 1,
    "adapter.num_heads": 2,
    "residual.width": 32,
    "residual.num_heads": 2,
    "codebooks.0.size": 96,
    "codebooks.1.size": 64,
}
_TINY_XAR = {"grid_size": 8, "cell_size": 4, "width": 64, "depth": 2, "num_heads": 2}
# A worker's share of the paper's batch of 240 on 8 GPUs.
_TOKENIZER_BATCH = 30
_XAR_BATCHES = (64, 32, 16, 8, 4)
# What the estimate leaves out, kernels' workspaces and fragmentation, needs room too.
_MEMORY_SHARE = 0.8
_XAR = {"xar_b": xar_b, "xar_h": xar_h}
_SAMPLES = {"xar_b": 64, "xar_h": 32}
_REST = "the rest"


def tokenizer_run(place: Place, accumulation_steps: int = 1) -> TokenizerRun:
    """glotok_16k on one device, the adversarial game on from the first step."""
    batch = place.size(_TOKENIZER_BATCH, 2)
    run = override(glotok_16k(), _one_device(place, batch, accumulation_steps))
    run = override(run, {"loss.adversarial_start_step": 0})
    if not place.tiny:
        return run
    changes = {f"model.{name}": value for name, value in _TINY_TOKENIZER.items()}
    return override(run, {**changes, "discriminator.base_channels": 8})


def _one_device(place: Place, batch: int, accumulation_steps: int = 1) -> dict[str, Any]:
    return {
        "scaling.num_workers": 1,
        "scaling.use_gpu": place.on_gpu,
        "schedule.global_batch_size": batch * accumulation_steps,
        "schedule.micro_batch_size": batch,
    }


@dataclass
class TokenizerAtWork:
    """A tokenizer's step and its batches."""

    run: TokenizerRun
    state: TokenizerState
    step: TokenizerStep
    batches: list[Batch]
    trained: tuple[nn.Module, nn.Module]

    def learn(self) -> None:
        """One optimizer step."""
        self.step.learn(self.batches, 0)


def tokenizer_at_work(
    place: Place, worker: DistributedWorker, run: TokenizerRun
) -> TokenizerAtWork:
    """The training's own step and engines, with random images and frozen."""
    torch.manual_seed(run.seed)
    with place.torch_device:
        modules = GloTokTokenizer(run.model).train(), PatchDiscriminator(run.discriminator)
    steps = run.schedule.accumulation_steps(1)
    tokenizer, discriminator = (
        make_engine(
            put(module, worker, run.scaling),
            run.optimizer,
            run.scaling,
            run.schedule.micro_batch_size,
            steps,
        )
        for module in modules
    )
    found = random_frozen_networks(run)
    dtype = torch.float32 if run.scaling.precision == "fp32" else torch.bfloat16
    perceptual = found.perceptual.requires_grad_(False).eval().to(place.torch_device, dtype)
    assert found.teacher is not None  # the recipe has one
    frozen = FrozenNetworks(perceptual, found.teacher.to(place.torch_device), {})
    images = [random_images(run).to(place.torch_device) for _ in range(steps)]
    state = TokenizerState(run, tokenizer, discriminator, worker)
    step = TokenizerStep(state, frozen, worker)
    return TokenizerAtWork(run, state, step, [{"image": each} for each in images], modules)


def tokenizer(place: Place) -> Iterator[Row]:
    """A step of glotok_16k: images per second, memory, and where the time goes."""
    run = tokenizer_run(place)
    expected = describe_tokenizer(run)["memory_per_worker_gib"]
    with place.worker() as worker:
        found = tokenizer_at_work(place, worker, run)
        seconds = place.seconds(found.learn, place.size(5, 1), place.size(3, 1))
        yield from _speed(place, run.schedule.micro_batch_size, seconds, operations(run))
        yield from _busy(place, found.learn, seconds)
        yield from _memory(worker, expected, "the frozen networks' weights apart")
        yield from _shares(place, found)


def _speed(place: Place, images: int, seconds: float, per_step: float) -> Iterator[Row]:
    yield Row("images per second", images / seconds, "1/s", f"batches of {images}")
    yield Row("step", seconds, "s")
    rate = per_step / seconds
    yield Row("counted operations", rate / 1e12, "TFLOP/s", "convolutions and matrix products")
    peak = place.peak_rate()
    if peak:
        yield Row("MFU", rate / peak, RATIO, f"of {peak / 1e12:.0f} TFLOP/s dense bf16")


def _busy(place: Place, learn: Callable[[], None], seconds: float) -> Iterator[Row]:
    """How much of a step of `seconds` the GPU works: where that is little, the host cannot ask fast enough."""
    work = work_of(place, learn)
    if work is not None:
        yield Row("device busy", work.seconds / seconds, RATIO, "of the step as it is unobserved")
        yield Row("kernels and copies per step", work.launches, "")


def _memory(worker: DistributedWorker, expected: float, note: str) -> Iterator[Row]:
    peak = worker.memory.gib()
    yield Row("peak memory", peak, "GiB")
    yield Row("expected memory", expected, "GiB", f"as --dry-run answers, {note}")
    yield Row("peak / expected memory", peak / expected, RATIO)


def _shares(place: Place, found: TokenizerAtWork) -> Iterator[Row]:
    """Percent of a step by part; the parts of the image side are those that say so."""
    watch, step = Stopwatch(place), found.step
    engines = {"tokenizer": found.state.tokenizer, "discriminator": found.state.discriminator}
    for name, engine in engines.items():
        watch.watch(engine, "step", f"optimizer of the {name}")
    watch.watch(engines["tokenizer"], "backward", "backward pass of the tokenizer")
    watch.watch(engines["discriminator"], "frozen", "image side: adversarial, forward")
    watch.watch(step, "_adaptive_scale", "image side: adaptive weight")
    watch.watch(step, "_discriminator_turn", "turn of the discriminator")
    watch.watch(step, "_relation", "relation, forward")
    step._frozen = step._frozen._replace(
        perceptual=_watched(watch, step._frozen.perceptual, "image side: perceptual, forward")
    )
    repeats = place.size(3, 1)
    real_grad, real_terms = torch.autograd.grad, objective.latent_terms
    try:
        torch.autograd.grad = _watched_in_turns(
            watch,
            real_grad,
            ("image side: pixels and perceptual, backward", "image side: adversarial, backward"),
        )
        objective.latent_terms = _watched(watch, real_terms, "latent terms, forward")
        found.learn()
        watch.seconds()
        with watch.part(_REST):
            for _ in range(repeats):
                found.learn()
        parts = watch.seconds()
    finally:
        torch.autograd.grad, objective.latent_terms = real_grad, real_terms
    whole = parts.pop(_REST)
    for name, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        yield Row(f"share: {name}", 100 * seconds / whole, "%")
    rest = 100 * (whole - sum(parts.values())) / whole
    yield Row(f"share: {_REST}", rest, "%", "the tokenizer's forward pass above all")


def _watched(watch: Stopwatch, real: Any, name: str) -> Any:
    return _watched_in_turns(watch, real, (name,))


def _watched_in_turns(watch: Stopwatch, real: Any, names: tuple[str, ...]) -> Any:
    """The same function, whose calls count under the names one after another."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        name = names[calls % len(names)]
        calls += 1
        with watch.part(name):
            return real(*args, **kwargs)

    return call


def compiled(place: Place) -> Iterator[Row]:
    """The same step as it is and compiled, by the same engines."""
    run = tokenizer_run(place)
    with place.worker() as worker:
        found = tokenizer_at_work(place, worker, run)
        repeats = place.size(5, 1)
        plain = place.seconds(found.learn, repeats, place.size(3, 1))
        images = run.schedule.micro_batch_size
        yield Row("images per second, as it is", images / plain, "1/s")
        start = time.perf_counter()
        for module in found.trained:
            # The compiler proper takes minutes; tiny, only what leads to it runs.
            module.compile(backend="eager" if place.tiny else "inductor")
        found.learn()
        place.wait()
        yield Row("first step when compiled", time.perf_counter() - start, "s")
        seconds = place.seconds(found.learn, repeats, place.size(2, 0))
        yield Row("images per second, compiled", images / seconds, "1/s")
        yield Row("compiled / as it is, speed", plain / seconds, RATIO)


def train_and_sample(place: Place, name: str) -> Iterator[Row]:
    """An xAR: training step with its average, then sampling with pixels."""
    run, expected = _fitting_run(place, name)
    tokenizer = frozen_tokenizer(place)
    yield from _training(place, run, tokenizer, expected)
    place.forget()
    yield from _sampling(place, run.model, tokenizer, place.size(_SAMPLES[name], 2))


def frozen_tokenizer(place: Place) -> GloTokTokenizer:
    """A tokenizer of random weights, on the device."""
    with place.torch_device:
        return GloTokTokenizer(tokenizer_run(place).model).requires_grad_(False).eval()


def _training(
    place: Place, run: XARRun, tokenizer: GloTokTokenizer, expected: float
) -> Iterator[Row]:
    batch = run.schedule.micro_batch_size
    with place.worker() as worker:
        step = generator_step(worker, run, tokenizer)
        batches = [random_codes(place, tokenizer.config, run.model, batch)]

        def learn() -> None:
            seed_step(0, 1, 0)
            step.learn(batches, 1)

        seconds = place.seconds(learn, place.size(8, 1), place.size(3, 1))
        yield from _speed(place, batch, seconds, batch * xar_operations(run.model))
        yield from _busy(place, learn, seconds)
        yield from _memory(worker, expected, "the frozen tokenizer apart")


def _fitting_run(place: Place, name: str) -> tuple[XARRun, float]:
    """The recipe with the largest batch whose expected memory leaves some room, and that memory, GiB."""
    recipe = _XAR[name]()
    if place.tiny:
        changes = {f"model.{field}": value for field, value in _TINY_XAR.items()}
        recipe = override(recipe, changes)
    limit = _MEMORY_SHARE * place.memory_gib()
    expected = float("inf")
    for batch in (2,) if place.tiny else _XAR_BATCHES:
        run = override(recipe, _one_device(place, batch))
        expected = describe_generator(run)["memory_per_worker_gib"]
        if expected <= limit:
            return run, expected
    raise LeftOut(
        f"{name} needs {expected:.0f} GiB and this card has {place.memory_gib():.0f}; train it on several"
    )


def generator_step(
    worker: DistributedWorker, run: XARRun, tokenizer: GloTokTokenizer
) -> GeneratorStep:
    """The training's own step and engine of an xAR; the tokenizer is on the device."""
    torch.manual_seed(run.seed)
    schedule = run.schedule
    # A billion numbers are drawn in no time there.
    with worker.device:
        model = XAR(run.model)
    engine = make_engine(
        put(model, worker, run.scaling).train(),
        run.optimizer,
        run.scaling,
        schedule.micro_batch_size,
        schedule.accumulation_steps(1),
    )
    scale = torch.ones(run.model.channels, device=worker.device)
    objective = FlowObjective(tokenizer, scale, run.model, run.flow)
    average = make_average(engine, run.ema_decay, warmup=run.ema_warmup)
    return GeneratorStep(GeneratorState(engine, average, worker), objective, worker)


def random_codes(
    place: Place, tokenizer: TokenizerConfig, model: XARConfig, count: int
) -> dict[str, Tensor]:
    """A batch of codes and labels on the device."""
    shape, device = (count, model.grid_size**2), place.torch_device
    codes = {
        each.name: torch.randint(0, each.size, shape, device=device) for each in tokenizer.codebooks
    }
    return {**codes, "label": torch.randint(0, model.num_classes, (count,), device=device)}


def xar_operations(model: XARConfig) -> int:
    """Of one image's training step, forward and backward: all matrix products, attention's included."""
    with torch.device("meta"):
        network = XAR(model).train()
        tokens = torch.empty(1, model.num_tokens, model.channels)
        times = torch.empty(1, model.num_entities)
        label = torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        network(tokens, times, label).sum().backward()
    return counter.get_total_flops()


def _sampling(
    place: Place, model: XARConfig, tokenizer: GloTokTokenizer, count: int
) -> Iterator[Row]:
    with place.torch_device:
        network = XAR(model).requires_grad_(False).eval()
    generator = ImageGenerator(network, tokenizer).to(place.torch_device)
    labels = [index % model.num_classes for index in range(count)]
    few = FlowSamplerConfig(num_steps=2, precision="bf16_autocast")
    generator.generate(labels, seed=0, sampler=few)
    sampler = few if place.tiny else FlowSamplerConfig(precision="bf16_autocast")
    seconds = place.seconds(lambda: generator.generate(labels, seed=1, sampler=sampler), 1, 0)
    steps, scale = sampler.num_steps, sampler.guidance_scale
    note = f"{count} at once, {steps} steps per cell, guidance {scale}, pixels included"
    yield Row("sampled images per second", count / seconds, "1/s", note)
