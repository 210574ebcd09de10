"""Training step and sampling of xAR-B and FAR-B, and sampling of LlamaGen's GPT-B and VAR-d16, against the published
procedures, in one run: time and operations.

    python -m benchmarks.generator                 # a table; about 10 minutes and 10 GiB on 2 cores
    python -m benchmarks.generator --json
    python -m benchmarks.generator --cases "GPT sampling" "VAR sampling"
    python -m benchmarks.generator --generator runs/quickstart/generator

The published procedures (benchmarks/published_generators.py, benchmarks/published_scales.py) run on the same weights:
masked attention, a modulation vector for every token, both halves of the guidance in every cell of xAR, FAR's caches of
the full length. Outputs are compared in fp32. The procedures take turns in one process for each case; medians count.

- A training step is forward, loss and backward; the optimizer's part is the same for both and left out.
- xAR is sampled with few steps; at 50 the unconditional half of the first cell is a larger share. "evaluations at
  50 steps" says how much is saved there.
- FAR is timed at positions spread evenly over the image, with caches full of noise: seconds are those of --positions.
- LlamaGen's GPT is timed as FAR is; VAR draws whole images.
- VAR's sampling is little else than its matrix products, the same in both but for half the output layer: 40.5 s
  published, 36.5 ours, 34.3 the products alone (one thread of a busy Xeon), so that no more than 1.18 can be had.
- Processor time counts what this process computed, whatever else the machine does; quartiles are over the rounds'
  ratios. Take it with --threads 1, where no thread spins while it waits.
- Operations are those of the matrix products, attention's included; no other work on the machine disturbs them.
- The bound is the time of these products alone, on operands that may stay in the processor's cache.

Annealing xAR's steps over the cells is approximate, so it is apart. Its quality needs a trained model: with --generator
the Frechet distance (EfficientNet-Lite0) of its images to those of all steps, beside that of two sets of the latter.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from benchmarks import measured
from benchmarks.products import Products
from benchmarks.published_generators import (
    PublishedFAR,
    PublishedXAR,
    published_latents,
    published_logits,
)
from benchmarks.sampling_cases import (
    GPT_SAMPLING,
    GUIDANCE,
    OURS,
    PUBLISHED,
    SEED,
    VAR_SAMPLING,
    Actions,
    build_far,
    far_sampling,
    gpt_sampling,
    largest_difference,
    random_codes,
    random_labels,
    var_differences,
    var_sampling,
)
from glotok_ray.config import FlowSamplerConfig, TokenSamplerConfig
from glotok_ray.losses.flow_matching import flow_matching_loss
from glotok_ray.losses.token_prediction import codebook_cross_entropies, token_prediction_loss
from glotok_ray.metrics.frechet import frechet_distance_of_features
from glotok_ray.nn.far import FAR
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.feature_networks import EfficientNetLite0
from glotok_ray.recipes.train_generator import xar_b
from glotok_ray.sampling.flow import count_evaluations, sample_latents
from glotok_ray.sampling.image_random import image_generator
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.sampling.tokens import draw_codes, sample_codes
from glotok_ray.training.runs import set_threads

ANNEALED, BOUND = "annealed", "bound"
QUARTILES = ("lower quartile", "median", "upper quartile")
XAR_STEP, XAR_SAMPLING = "xAR step", "xAR sampling"
FAR_STEP, FAR_SAMPLING = "FAR step", "FAR sampling"
_ALL_STEPS, _LAST_STEPS = 50, 15
"""Of xAR's paper, and where its third-party speed-up DiSA ends."""


def xar_step(options: argparse.Namespace) -> Actions:
    """Forward, loss and backward of xAR on a batch of noise."""
    model = build_xar(options).train()
    networks = {PUBLISHED: PublishedXAR(model).train(), OURS: model}
    clean, noise = torch.randn(2, options.batch, model.config.num_tokens, model.config.channels)
    times, labels = (
        torch.rand(options.batch, model.config.num_entities),
        random_labels(options.batch),
    )

    def step(procedure: str) -> None:
        model.zero_grad()
        flow_matching_loss(networks[procedure](noise, times, labels), clean, noise).backward()

    return {each: partial(step, each) for each in networks}


def xar_sampling(options: argparse.Namespace) -> Actions:
    """Latents of a batch; annealed, the last cell takes the same share of the steps as 15 are of 50."""
    model, labels = build_xar(options).eval(), random_labels(options.samples)
    last_steps = max(2, round(options.steps * _LAST_STEPS / _ALL_STEPS))
    exact = FlowSamplerConfig(num_steps=options.steps)
    annealed = replace(exact, last_num_steps=last_steps)
    return {
        PUBLISHED: partial(draw_latents, model, labels, exact, PUBLISHED),
        OURS: partial(draw_latents, model, labels, exact, OURS),
        ANNEALED: partial(draw_latents, model, labels, annealed, OURS),
    }


def far_step(options: argparse.Namespace) -> Actions:
    """Forward, loss and backward of FAR on a batch of random codes."""
    model = build_far(options).train()
    codes, labels = random_codes(model.config, options.far_batch), random_labels(options.far_batch)

    def step(procedure: str) -> None:
        model.zero_grad()
        logits = far_logits(model, codes, labels, procedure)
        token_prediction_loss(codebook_cross_entropies(logits, codes)).backward()

    return {each: partial(step, each) for each in (PUBLISHED, OURS)}


CASES: dict[str, Callable[[argparse.Namespace], Actions]] = {
    XAR_STEP: xar_step,
    XAR_SAMPLING: xar_sampling,
    FAR_STEP: far_step,
    FAR_SAMPLING: far_sampling,
    GPT_SAMPLING: gpt_sampling,
    VAR_SAMPLING: var_sampling,
}


def paired(options: argparse.Namespace, name: str) -> tuple[Callable, Callable]:
    """A case whose procedures take turns; the run that warms up records the products, which then run alone."""
    actions = CASES[name](options)
    products = {procedure: Products() for procedure in actions}
    ratios: list[float] = []

    def run() -> dict[str, float]:
        if not products[OURS].counts:
            for procedure, action in actions.items():
                with products[procedure]:
                    action()
            return {}
        seconds, of_processor = {}, {}
        for procedure, action in actions.items():
            started = time.process_time()
            seconds[procedure], _ = measured.seconds_of(action)
            of_processor[procedure] = time.process_time() - started
        ratios.append(of_processor[PUBLISHED] / of_processor[OURS])
        return seconds | {BOUND: products[OURS].seconds()}

    def facts() -> dict[str, float]:
        operations = {each: float(found.operations) for each, found in products.items()}
        return operations | dict(
            zip(QUARTILES, np.quantile(ratios, (0.25, 0.5, 0.75)), strict=True)
        )

    return run, facts


def differences(options: argparse.Namespace) -> tuple[Callable, Callable]:
    """The largest difference of any output of the two procedures, and the share of equal codes, in fp32."""
    set_threads(options.threads)
    found = {XAR_STEP: xar_differences, FAR_STEP: far_differences, VAR_SAMPLING: var_differences}

    def facts() -> dict[str, float]:
        answers: dict[str, float] = {}
        for name, measure in found.items():
            answers |= measure(options) if name in options.cases else {}
        return answers

    return (dict, facts)


@torch.no_grad()
def xar_differences(options: argparse.Namespace) -> dict[str, float]:
    """Of one image's velocities and of its sampled latents."""
    model, labels = build_xar(options).eval(), random_labels(1)
    noisy = torch.randn(1, model.config.num_tokens, model.config.channels)
    times = torch.rand(1, model.config.num_entities)
    velocities = model(noisy, times, labels), PublishedXAR(model).eval()(noisy, times, labels)
    sampler = FlowSamplerConfig(num_steps=options.steps)
    latents = [draw_latents(model, labels, sampler, each) for each in (OURS, PUBLISHED)]
    return {
        f"{XAR_STEP}, difference": largest_difference(*velocities),
        f"{XAR_SAMPLING}, difference": largest_difference(*latents),
    }


@torch.no_grad()
def far_differences(options: argparse.Namespace) -> dict[str, float]:
    """Of the logits of all positions, and of those on which the codes of a small grid are drawn, uniforms alike."""
    model, labels = build_far(options, grid_size=4).eval(), random_labels(2)
    codes = sample_codes(
        model,
        labels,
        TokenSamplerConfig(guidance_scale=GUIDANCE),
        image_ids=range(len(labels)),
        seed=SEED,
    )
    published = PublishedFAR(model, labels, GUIDANCE)
    uniforms = far_uniforms(model, len(labels))
    drawn, previous = [], None
    for position in range(model.config.num_positions):
        numbers = iter(uniforms[position])
        previous = published.draw_position(
            previous, position, lambda logits, numbers=numbers: draw_codes(logits, next(numbers))
        )
        drawn.append(previous)
    logits = [far_logits(model, codes, labels, each) for each in (OURS, PUBLISHED)]
    return {
        f"{FAR_STEP}, difference": max(map(largest_difference, *logits)),
        f"{FAR_SAMPLING}, equal codes": float((torch.stack(drawn, dim=2) == codes).double().mean()),
    }


def far_uniforms(model: FAR, count: int) -> Tensor:
    """The numbers that `sample_codes` draws from for images 0, 1, ...: (positions, codebooks, images)."""
    size = (model.config.num_positions, len(model.config.codebooks))
    generators = [image_generator(SEED, index) for index in range(count)]
    return torch.stack(
        [torch.rand(size, generator=each, dtype=torch.float64) for each in generators], dim=-1
    )


def build_xar(options: argparse.Namespace) -> XAR:
    """xAR-B with random weights."""
    set_threads(options.threads)
    torch.manual_seed(SEED)
    config = xar_b().model
    return XAR(replace(config, depth=options.xar_depth or config.depth))


def draw_latents(model: XAR, labels: Tensor, sampler: FlowSamplerConfig, procedure: str) -> Tensor:
    """By either procedure, from the same noise."""
    if procedure == PUBLISHED:
        return published_latents(model, labels, sampler, seed=SEED)
    return sample_latents(model, labels, sampler, image_ids=range(len(labels)), seed=SEED)


def far_logits(model: FAR, codes: Tensor, labels: Tensor, procedure: str) -> Sequence[Tensor]:
    """Teacher-forced, by either procedure."""
    if procedure == PUBLISHED:
        return published_logits(model, codes, labels)
    return model(codes, labels)


def evaluations_of_all_steps() -> dict[str, float]:
    """Passes of one cell through xAR at the paper's 50 steps: each step once per half, and each finished cell."""
    cells = xar_b().model.num_entities
    annealed = FlowSamplerConfig(num_steps=_ALL_STEPS, last_num_steps=_LAST_STEPS)
    return {
        PUBLISHED: 2 * cells * _ALL_STEPS + 2 * (cells - 1),
        OURS: count_evaluations(cells, FlowSamplerConfig(num_steps=_ALL_STEPS)),
        ANNEALED: count_evaluations(cells, annealed),
    }


def annealed_quality(options: argparse.Namespace) -> dict[str, float]:
    """Frechet distances of a trained xAR's images: annealed to all steps, and all steps to others with all steps."""
    generator = ImageGenerator.from_pretrained(options.generator)
    network, count = EfficientNetLite0(), options.images
    annealed = FlowSamplerConfig(last_num_steps=_LAST_STEPS)

    def features(first: int, sampler: FlowSamplerConfig) -> Float[np.ndarray, "n d"]:
        labels = [index % generator.num_classes for index in range(count)]
        ids = range(first, first + count)
        images = generator.generate(labels, seed=SEED, image_ids=ids, sampler=sampler)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        return network.pooled(functional.interpolate(pixels, 224, mode="bilinear")).numpy()

    reference = features(count, FlowSamplerConfig())
    return {
        f"FD-EffNet, {name}": frechet_distance_of_features(features(0, sampler), reference)
        for name, sampler in (("all steps", FlowSamplerConfig()), ("annealed", annealed))
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both procedures and print them."""
    options = _parser().parse_args(argv)
    set_threads(options.threads)
    cases = {
        name: measured.in_own_process(paired, options, name, repeats=options.rounds)
        for name in options.cases
    }
    checks = measured.in_own_process(differences, options, repeats=1).facts
    quality = annealed_quality(options) if options.generator else {}
    measured.answer(
        as_json=options.json,
        columns=("case", "published s", "ours s", "bound s", "published TFLOP", "ours TFLOP"),
        rows=[_row(name, case) for name, case in cases.items()],
        figures={
            "setting": {key: value for key, value in vars(options).items() if key != "json"},
            **{
                name: {"seconds": case.seconds, "operations": case.facts}
                for name, case in cases.items()
            },
            f"evaluations at {_ALL_STEPS} steps": evaluations_of_all_steps(),
        },
        ratios=_ratios(cases) | checks | quality,
    )


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser(str(__doc__).split("\n", maxsplit=1)[0])
    for name, default, text in (
        ("--batch", 4, "latents of xAR's training step"),
        ("--samples", 2, "images that xAR samples at once"),
        ("--steps", 10, "steps of each cell"),
        ("--far-batch", 1, "images of FAR's training step"),
        ("--far-samples", 32, "images that FAR samples at once"),
        ("--positions", 8, "timed positions of FAR's 256"),
        ("--rounds", 3, "timed runs of each procedure, in turn; their median counts"),
        ("--var-samples", 2, "images that VAR samples at once"),
        ("--gpt-depth", 0, "blocks of LlamaGen's GPT; 0 takes all"),
        ("--var-depth", 0, "VAR's blocks; 0 takes all"),
        ("--xar-depth", 0, "xAR's blocks, an even number; 0 takes all"),
        ("--far-depth", 0, "FAR's blocks over positions, the head's in proportion; 0 takes all"),
        ("--threads", 0, "torch threads; 0 takes all cores"),
        ("--images", 200, "images for each Frechet distance"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} ({default})")
    parser.add_argument(
        "--cases", nargs="+", default=list(CASES), choices=list(CASES), help="which; all of them"
    )
    parser.add_argument("--generator", default="", help="a trained xAR's folder, for the quality")
    return parser


def _row(name: str, case: measured.Measured) -> list[str]:
    return [
        name,
        *(f"{case.seconds[each]:.2f}" for each in (PUBLISHED, OURS, BOUND)),
        *(f"{case.facts[each] / 1e12:.2f}" for each in (PUBLISHED, OURS)),
    ]


def _ratios(cases: dict[str, measured.Measured]) -> dict[str, float]:
    ratios = {}
    for name, case in cases.items():
        seconds, operations = case.seconds, case.facts
        ratios[f"{name}, published / ours, time"] = seconds[PUBLISHED] / seconds[OURS]
        for quartile in QUARTILES:
            ratios[f"{name}, published / ours, processor time, {quartile}"] = operations[quartile]
        ratios[f"{name}, published / ours, operations"] = operations[PUBLISHED] / operations[OURS]
        ratios[f"{name}, ours / bound, time"] = seconds[OURS] / seconds[BOUND]
    if XAR_SAMPLING not in cases:
        return ratios
    evaluations, steps = evaluations_of_all_steps(), f"evaluations at {_ALL_STEPS} steps"
    ratios[f"{XAR_SAMPLING}, published / ours, {steps}"] = (
        evaluations[PUBLISHED] / evaluations[OURS]
    )
    seconds = cases[XAR_SAMPLING].seconds
    ratios["approximate: annealed xAR, ours / annealed, time"] = seconds[OURS] / seconds[ANNEALED]
    ratios[f"approximate: annealed xAR, ours / annealed, {steps}"] = (
        evaluations[OURS] / evaluations[ANNEALED]
    )
    return ratios


if __name__ == "__main__":
    main()
