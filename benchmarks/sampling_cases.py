"""Sampling of generators that draw codes, by the published procedures and ours: cases of benchmarks/generator.py."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from benchmarks.published_generators import PublishedFAR, multinomial
from benchmarks.published_scales import (
    PublishedGPT,
    PublishedVAR,
    fixed_draw,
    published_draw,
)
from glotok_ray.config import FARConfig, TokenSamplerConfig
from glotok_ray.config.samplers import ScaleSamplerConfig
from glotok_ray.nn.far import FAR
from glotok_ray.nn.next_scale import Contribution
from glotok_ray.nn.var import VAR
from glotok_ray.peers.multi_scale import SMOOTHING_OF_SCALE, MultiScaleQuantizer
from glotok_ray.recipes.peer_generators import gpt_b
from glotok_ray.recipes.train_generator import far_b
from glotok_ray.recipes.var_generators import var_d16
from glotok_ray.sampling.scales import sample_scales
from glotok_ray.sampling.tokens import GuidedModel
from glotok_ray.training.runs import set_threads

PUBLISHED, OURS = "published", "ours"
GPT_SAMPLING, VAR_SAMPLING = "GPT sampling", "VAR sampling"
SEED, GUIDANCE = 0, 2.0

Actions = dict[str, Callable[[], object]]


def far_sampling(options: argparse.Namespace) -> Actions:
    """Positions of a batch, spread evenly, each as if all before it were drawn; their caches are full of noise."""
    model, labels = build_far(options).eval(), random_labels(options.far_samples)
    return drawn_positions(options, model, labels, PublishedFAR(model, labels, GUIDANCE))


def gpt_sampling(options: argparse.Namespace) -> Actions:
    """The same of LlamaGen's GPT-B."""
    set_threads(options.threads)
    torch.manual_seed(SEED)
    config = gpt_b().model
    model = FAR(replace(config, depth=options.gpt_depth or config.depth)).eval()
    nn.init.normal_(model.outputs[0].get_parameter("weight"), std=0.1)
    labels = random_labels(options.far_samples)
    return drawn_positions(options, model, labels, PublishedGPT(model, labels, GUIDANCE))


def drawn_positions(
    options: argparse.Namespace, model: FAR, labels: Tensor, published: PublishedFAR
) -> Actions:
    """Both procedures at positions of a batch."""
    previous = random_codes(model.config, len(labels))
    ours = GuidedModel(model, labels, TokenSamplerConfig(guidance_scale=GUIDANCE))
    ours.codes[:] = previous
    uniforms = torch.rand(previous.shape[1], len(labels), dtype=torch.float64)
    for memory in (*published.memories, ours.cache):
        memory.keys.normal_()
        memory.values.normal_()
    share = model.config.num_positions / options.positions
    positions = [int((index + 0.5) * share) for index in range(options.positions)]

    @torch.no_grad()
    def sample(procedure: str) -> None:
        for position in positions:
            if procedure == PUBLISHED:
                published.draw_position(previous[..., 0], position, multinomial)
            else:
                ours.draw_position(position, uniforms)

    return {each: partial(sample, each) for each in (PUBLISHED, OURS)}


def var_sampling(options: argparse.Namespace) -> Actions:
    """Codes of all scales of a batch, and the maps that they add up to, by VAR's own tokenizer's codebook."""
    model, contribution = build_var(options)
    labels, sampler = random_labels(options.var_samples), ScaleSamplerConfig()
    published = PublishedVAR(model, contribution)
    return {
        PUBLISHED: partial(published.sample, labels, sampler, published_draw(sampler)),
        OURS: partial(
            sample_scales,
            model,
            labels,
            sampler,
            contribution,
            image_ids=range(len(labels)),
            seed=SEED,
        ),
    }


def build_var(options: argparse.Namespace) -> tuple[VAR, Contribution]:
    """VAR-d16 with random weights, and the quantizer of its tokenizer with others."""
    set_threads(options.threads)
    torch.manual_seed(SEED)
    config = var_d16().model
    model = VAR(replace(config, depth=options.var_depth or config.depth)).eval()
    # Logits that differ, as those of a trained model do.
    nn.init.normal_(model.output.weight, std=0.1)
    shape = (config.num_codes, config.code_width)
    sides = config.scale_sides
    quantizer = MultiScaleQuantizer(shape, "euclidean", sides, SMOOTHING_OF_SCALE)
    return model, quantizer.requires_grad_(False).contribution


@torch.no_grad()
def var_differences(options: argparse.Namespace) -> dict[str, float]:
    """Of the maps that the same codes add up to, and the share of equal codes where both draw the likeliest."""
    model, contribution = build_var(options)
    labels, sampler = random_labels(1), ScaleSamplerConfig(top_k=1)
    ours = sample_scales(model, labels, sampler, contribution, image_ids=[0], seed=SEED)
    published = PublishedVAR(model, contribution)
    drawn, _ = published.sample(labels, sampler, published_draw(sampler))
    _, summed = published.sample(labels, sampler, fixed_draw(ours.codes))
    equal = torch.cat(drawn, dim=1) == torch.cat(ours.codes, dim=1)
    return {
        f"{VAR_SAMPLING}, difference": largest_difference(summed, ours.latents),
        f"{VAR_SAMPLING}, equal codes": float(equal.double().mean()),
    }


def build_far(options: argparse.Namespace, grid_size: int = 16) -> FAR:
    """FAR-B with random weights; those of its outputs, which start at zero, are drawn too."""
    set_threads(options.threads)
    torch.manual_seed(SEED)
    config = far_b().model
    depth = options.far_depth or config.depth
    head_depth = -(-config.head_depth * depth // config.depth)
    model = FAR(replace(config, grid_size=grid_size, depth=depth, head_depth=head_depth))
    for output in model.outputs:
        nn.init.normal_(output.get_parameter("weight"), std=0.1)
    return model


def random_labels(count: int) -> Int64[Tensor, " b"]:
    """Any of the 1,000 classes."""
    return torch.randint(0, 1000, (count,))


def random_codes(config: FARConfig, count: int) -> Int64[Tensor, "b k n"]:
    """Even over each codebook."""
    size = (count, config.num_positions)
    return torch.stack([torch.randint(0, each.size, size) for each in config.codebooks], dim=1)


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Over all elements."""
    return float((first - second).abs().max())
