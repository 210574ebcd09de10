"""Sampling from VAR: all codes of a scale are drawn at once, then those of the next one.

Source: VAR (Tian et al. 2024), section 3.2, and its released sampler; ImageFolder (Li et al. 2024) for branches.
Read next: glotok_ray/nn/var.py
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from glotok_ray.config.samplers import ScaleSamplerConfig
from glotok_ray.config.var import VARConfig
from glotok_ray.nn.next_scale import Contribution, at_scale
from glotok_ray.nn.quantizer import NO_CODE
from glotok_ray.nn.var import VAR
from glotok_ray.sampling.image_random import check_sampling, image_generator
from glotok_ray.sampling.tokens import draw_codes, filter_logits


class SampledScales(NamedTuple):
    """What was drawn of a batch."""

    codes: tuple[Int64[Tensor, "b *k tokens"], ...]
    """Of every scale, in raster order, with an axis for branches where there are several; NO_CODE throughout for an
    image of which some logits were not finite.
    """
    latents: Float[Tensor, "b c h w"]
    """What all codes add up to, for the tokenizer's decoder; NaN for such an image."""


def ramped_guidance(guidance_scale: float, scale: int, num_scales: int) -> float:
    """t_i = t * i / (n - 1): none in the first scale, all of it in the last."""
    return guidance_scale * scale / (num_scales - 1)


@torch.no_grad()
def sample_scales(
    model: VAR,
    labels: Int64[Tensor, " b"],
    config: ScaleSamplerConfig,
    contribution: Contribution,
    *,
    image_ids: Sequence[int],
    seed: int,
) -> SampledScales:
    """Codes of one image per label, scale by scale, on the model's device; `contribution` is the tokenizer's part.

    An image depends on its label, its id and `seed` alone, up to the rounding of sums in batches of another size. Each
    image has a twin without a class unless the guidance is 0. Raises ValueError when the model is in training mode and
    for labels, ids or a seed that do not fit.
    """
    check_sampling(model, labels, image_ids, seed)
    device, sides = model.output.weight.device, model.config.scale_sides
    uniforms = _uniforms(image_ids, seed, model.config).to(device)
    labels = labels.to(device)
    halves = 2 if config.guidance_scale > 0 else 1
    null = torch.full_like(labels, model.null_label)
    cache = model.new_cache(torch.cat([labels, null]) if halves == 2 else labels)
    sound = torch.ones(len(labels), dtype=torch.bool, device=device)
    inputs: Tensor | None = None
    summed: Tensor | None = None
    drawn: list[Tensor] = []
    for scale, numbers in enumerate(uniforms.split(list(model.config.scale_lengths), dim=1)):
        hidden = model.scale_hidden(inputs, scale, cache)
        if halves == 2:
            hidden = guided_hidden(
                hidden, ramped_guidance(config.guidance_scale, scale, len(sides))
            )
        codes = _draw(model.logits_by_branch(model.logits_of(hidden)), config, numbers)
        sound &= (codes != NO_CODE).flatten(1).all(dim=1)
        # Some code, since the model goes on with it; NO_CODE takes its place below.
        drawn.append(codes.clamp_min(0))
        side = sides[scale]
        added = contribution(drawn[-1].unflatten(-1, (side, side)), scale)
        summed = added if summed is None else summed + added
        if scale + 1 < len(sides):
            inputs = at_scale(summed, sides[scale + 1]).repeat(halves, 1, 1)
    assert summed is not None
    kept = tuple(
        codes.masked_fill(~sound.view(-1, *[1] * (codes.ndim - 1)), NO_CODE) for codes in drawn
    )
    return SampledScales(kept, torch.where(sound[:, None, None, None], summed, torch.nan))


def _uniforms(
    image_ids: Sequence[int], seed: int, config: VARConfig
) -> Float64[Tensor, "b tokens k"]:
    size = (config.num_tokens, config.num_branches)
    draws = [
        torch.rand(size, generator=image_generator(seed, image_id), dtype=torch.float64)
        for image_id in image_ids
    ]
    return torch.stack(draws)


def guided_hidden(hidden: Float[Tensor, "two_b n d"], strength: float) -> Float[Tensor, "b n d"]:
    """(1 + t) c - t u of what the output layer takes: the same of its logits, since it is linear and its bias comes
    1 + t - t times.
    """
    conditional, unconditional = hidden.chunk(2)
    return torch.lerp(unconditional, conditional, 1 + strength)


def _draw(
    branches: Sequence[Float[Tensor, "b n size"]],
    config: ScaleSamplerConfig,
    uniforms: Float64[Tensor, "b n k"],
) -> Int64[Tensor, "b *k n"]:
    """All positions of a scale and all branches independently, the filters on each branch alone."""
    drawn = [
        draw_codes(filter_logits(logits.flatten(0, 1), config), numbers.flatten()).view_as(numbers)
        for logits, numbers in zip(branches, uniforms.unbind(-1), strict=True)
    ]
    return torch.stack(drawn, dim=1) if len(drawn) > 1 else drawn[0]
