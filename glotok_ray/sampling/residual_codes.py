"""Sampling from RQ-Transformer: position by position, and code by code at each.

Source: RQ-Transformer (Lee et al. 2022), section 3.2; its released models are sampled without guidance.
Read next: glotok_ray/nn/rq_transformer.py
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from glotok_ray.config.samplers import TokenSamplerConfig
from glotok_ray.nn.quantizer import NO_CODE
from glotok_ray.nn.rq_transformer import RQTransformer
from glotok_ray.sampling.image_random import check_sampling, image_generator
from glotok_ray.sampling.tokens import check_guidance, draw_codes, filter_logits


@torch.no_grad()
def sample_residual_codes(
    model: RQTransformer,
    labels: Int64[Tensor, " b"],
    config: TokenSamplerConfig,
    codebook: Float[Tensor, "size c"],
    *,
    image_ids: Sequence[int],
    seed: int,
) -> Int64[Tensor, "b h w k"]:
    """Codes of one image per label, as `RQVAETokenizer` decodes them, on the model's device; `codebook` is its own.

    An image depends on its label, its id and `seed` alone, up to the rounding of sums in batches of another size. One
    of which some logits were not finite has NO_CODE everywhere. Raises ValueError when the model is in training mode,
    for guidance, and for labels, ids or a seed that do not fit.
    """
    check_sampling(model, labels, image_ids, seed)
    check_guidance(model.config, config)
    device, sizes = model.output.weight.device, model.config
    shape = (sizes.num_positions, sizes.num_residuals)
    draws = [
        torch.rand(shape, generator=image_generator(seed, image_id), dtype=torch.float64)
        for image_id in image_ids
    ]
    uniforms, table = torch.stack(draws, dim=-1).to(device), codebook.to(device)
    labels, cache = labels.to(device), model.new_cache(len(labels))
    drawn: list[Tensor] = []
    for position, numbers in enumerate(uniforms.unbind(0)):
        hidden = (
            model.next_position(table[drawn[-1].clamp_min(0)], position, cache)
            if drawn
            else model.first_position(labels, cache)
        )
        drawn.append(_draw_position(model, hidden, table, config, numbers))
    codes = torch.stack(drawn, dim=1)
    sound = (codes != NO_CODE).flatten(1).all(dim=1)
    codes = torch.where(sound[:, None, None], codes, NO_CODE)
    return codes.unflatten(1, (sizes.grid_size, sizes.grid_size))


def _draw_position(
    model: RQTransformer,
    hidden: Tensor,
    table: Tensor,
    config: TokenSamplerConfig,
    uniforms: Float[Tensor, "k b"],
) -> Int64[Tensor, "b k"]:
    cache = model.new_head_cache(len(hidden))
    codes: list[Tensor] = []
    summed = table.new_zeros(len(hidden), table.shape[1])
    for depth, numbers in enumerate(uniforms.unbind(0)):
        logits = (
            model.next_residual(summed, depth, cache)
            if depth
            else model.first_residual(hidden, cache)
        )
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        codes.append(draw_codes(filter_logits(logits, config), numbers))
        # Some code, since the model goes on with it; the caller takes it back.
        summed = summed + table[codes[-1].clamp_min(0)]
    return torch.stack(codes, dim=1)
