"""Sampling from FAR and the GPTs: codes are drawn position by position, and codebook by codebook at each.

Source: LlamaGen (Sun et al. 2024) and FQGAN (Bai et al. 2024), their released samplers.
Read next: glotok_ray/nn/far.py
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from glotok_ray.config.generator import FARConfig
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.samplers import ScaleSamplerConfig, TokenSamplerConfig
from glotok_ray.nn.far import FAR
from glotok_ray.nn.quantizer import NO_CODE
from glotok_ray.sampling.image_random import check_sampling, image_generator


def guided_positions(config: TokenSamplerConfig, num_positions: int) -> range:
    """Positions p with low <= p / num_positions < high of the guidance interval; none when the scale is 1."""
    if config.guidance_scale == 1.0:
        return range(0)
    # The tolerance keeps a product such as 0.07 * 100 = 7.000000000000001 from moving a bound.
    low, high = (math.ceil(share * num_positions - 1e-9) for share in config.guidance_interval)
    return range(low, high)


def has_null_label(model: FARConfig | RQConfig) -> bool:
    """Whether the model knows images without a class, which guidance needs."""
    return isinstance(model, FARConfig) and model.variant.has_null_label


def check_guidance(model: FARConfig | RQConfig, config: TokenSamplerConfig) -> None:
    """Raise ValueError for guidance of a model that knows no null label."""
    if config.guidance_scale == 1.0 or has_null_label(model):
        return
    cause = (
        f"model.variant.class_input = {model.variant.class_input!r}"
        if isinstance(model, FARConfig)
        else "RQ-Transformer"
    )
    raise ValueError(
        f"sampler.guidance_scale = {config.guidance_scale}: must be 1, since this generator has no null label "
        f"({cause}); pass --sampler.guidance-scale 1"
    )


def guide(
    conditional: Float[Tensor, "b size"], unconditional: Float[Tensor, "b size"], scale: float
) -> Float[Tensor, "b size"]:
    """u + s (c - u): logits that lean s times as far from the unconditional ones as the class does."""
    return unconditional + scale * (conditional - unconditional)


def keep_top_k(logits: Float[Tensor, "b size"], top_k: int) -> Float[Tensor, "b size"]:
    """Set to -inf what is less likely than the k-th most likely code; codes that tie with it stay."""
    least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Float[Tensor, "b size"], top_p: float) -> Float[Tensor, "b size"]:
    """Keep the fewest most likely codes whose probabilities sum to at least p, and what ties with the last of them; set
    the others to -inf.
    """
    ordered = logits.sort(dim=-1, descending=True).values
    return logits.masked_fill(logits < _least_of_top_p(ordered, top_p), -math.inf)


def _keep_both(
    logits: Float[Tensor, "b size"], top_k: int, top_p: float
) -> Float[Tensor, "b size"]:
    """`keep_top_p` of what `keep_top_k` leaves; only the k codes are put in order."""
    ordered = logits.topk(min(top_k, logits.shape[-1])).values
    num_tied = (logits >= ordered[:, -1:]).sum(dim=-1, keepdim=True) - ordered.shape[-1]
    least = _least_of_top_p(ordered, top_p, num_tied)
    return logits.masked_fill(logits < least, -math.inf)


def _least_of_top_p(
    ordered: Float[Tensor, "b n"], top_p: float, num_tied: Int64[Tensor, "b 1"] | int = 0
) -> Float[Tensor, "b 1"]:
    """The smallest logit that top-p keeps, given all logits from the largest on, of which the last occurs `num_tied`
    times more.
    """
    probabilities = ordered.softmax(dim=-1)
    total = 1 + num_tied * probabilities[:, -1:]
    before = probabilities.cumsum(dim=-1) - probabilities
    # What comes before the most likely code sums to 0, so one code always stays; NaN drops none.
    num_dropped = (before >= top_p * total).sum(dim=-1, keepdim=True)
    return ordered.gather(-1, ordered.shape[-1] - 1 - num_dropped)


def filter_logits(
    logits: Float[Tensor, "b size"], config: TokenSamplerConfig | ScaleSamplerConfig
) -> Float[Tensor, "b size"]:
    """Divide by the temperature, then keep the top k codes, then of these the top p."""
    if config.temperature != 1:
        logits = logits / config.temperature
    if config.top_k > 0 and config.top_p < 1:
        return _keep_both(logits, config.top_k, config.top_p)
    if config.top_k > 0:
        return keep_top_k(logits, config.top_k)
    return keep_top_p(logits, config.top_p) if config.top_p < 1 else logits


def draw_codes(
    logits: Float[Tensor, "b size"], uniforms: Float64[Tensor, " b"]
) -> Int64[Tensor, " b"]:
    """The first code at which the cumulative probability exceeds a uniform number of [0, 1), one per row.

    The sum is float64; a code of probability 0 is never drawn. NO_CODE where the logits are no distribution: NaN, +inf,
    or -inf for all codes.
    """
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    # fp32 probabilities sum to 1 only up to rounding.
    targets = uniforms.unsqueeze(-1) * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, targets, right=True).squeeze(-1)
    return torch.where(torch.isfinite(cumulative[:, -1]), drawn, NO_CODE)


class GuidedModel:
    """A model and a batch that it continues; while guidance lasts, each image has an unconditional twin."""

    def __init__(self, model: FAR, labels: Tensor, config: TokenSamplerConfig) -> None:
        self.model = model
        self.config = config
        self.count = labels.shape[0]
        self.guided = guided_positions(config, model.config.num_positions)
        # Twins begin at position 0 even if guidance begins later: it will attend to all positions.
        halves = 2 if len(self.guided) > 0 else 1
        null = torch.full_like(labels, model.null_label)
        self.labels = torch.cat([labels, null]) if halves == 2 else labels
        shape = (halves, self.count, len(model.config.codebooks), model.config.num_positions)
        self.codes = torch.empty(shape, dtype=torch.int64, device=labels.device)
        self.cache = model.new_cache(halves * self.count)
        self.sound = torch.ones(self.count, dtype=torch.bool, device=labels.device)
        """Images whose codes all came from a distribution; the host does not wait for it."""

    def trunk(self, position: int) -> Tensor:
        """The trunk's output at a position, for those rows whose logits are needed there."""
        if position == 0:
            hidden = self.model.first_position(self.labels, self.cache)
        else:
            if position == self.guided.stop:
                self.codes, self.cache = self.codes[:1], self.cache.rows(self.count)
            previous = self.codes[..., position - 1].flatten(0, 1)
            hidden = self.model.next_position(previous, position, self.cache)
        return hidden if position in self.guided else hidden[: self.count]

    def draw_position(self, position: int, uniforms: Tensor) -> None:
        """Draw the codes of all codebooks at one position from uniform numbers (codebooks, images)."""
        hidden = self.trunk(position)
        halves = hidden.shape[0] // self.count
        logits, memory = self.model.first_codebook(hidden, self.cache)
        for codebook, uniform in enumerate(uniforms.unbind(0)):
            if codebook > 0:
                latest = self.codes[:halves, :, codebook - 1, position].flatten()
                logits = self.model.next_codebook(latest, codebook, memory)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if halves == 2:
                logits = guide(*logits.chunk(2), scale=self.config.guidance_scale)
            drawn = draw_codes(filter_logits(logits, self.config), uniform)
            self.sound &= drawn != NO_CODE
            # Some code, since the model goes on with it; `found` takes it back.
            self.codes[:, :, codebook, position] = drawn.clamp_min(0)

    def found(self) -> Int64[Tensor, "b k n"]:
        """The codes of all images, and NO_CODE throughout those that are not sound."""
        return torch.where(self.sound[:, None, None], self.codes[0], NO_CODE)


@torch.no_grad()
def sample_codes(
    model: FAR,
    labels: Int64[Tensor, " b"],
    config: TokenSamplerConfig,
    *,
    image_ids: Sequence[int],
    seed: int,
) -> Int64[Tensor, "b k n"]:
    """Codes of one image per label, in the order of the model's codebooks, on the model's device.

    An image depends on its label, its id and `seed` alone, since every draw has its own uniform number; where sums
    round otherwise in a batch of another size, a draw at the edge of two codes may fall to the other. The unconditional
    half of the batch is computed only up to the last guided position, and never when the scale is 1. The network
    runs in its own dtype or under autocast. An image of which some logits were not finite has NO_CODE everywhere.
    Raises ValueError when the model is in training mode, for labels, ids or a seed that do not fit, and for guidance of
    a model without a null label.
    """
    check_sampling(model, labels, image_ids, seed)
    check_guidance(model.config, config)
    device = next(model.parameters()).device
    size = (model.config.num_positions, len(model.config.codebooks))
    draws = [
        torch.rand(size, generator=image_generator(seed, image_id), dtype=torch.float64)
        for image_id in image_ids
    ]
    uniforms = torch.stack(draws, dim=-1).to(device)
    batch = GuidedModel(model, labels.to(device), config)
    for position in range(model.config.num_positions):
        batch.draw_position(position, uniforms[position])
    return batch.found()
