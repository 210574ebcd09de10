"""The published sampling of LlamaGen's GPT and of VAR, plainly written on this project's weights, to compare speed.

What the released code does, in its order and with its shapes, by the same torch operations as here. LlamaGen's attends
at every position to a cache of the full length under a mask, and first copies all keys and values (its repetition over
groups of heads, of which there is one per head). VAR's appends each scale to its caches by concatenation, asks every
block for the class's part again at every scale, and sorts all codes for its top-p. Both run the two halves of the
guidance throughout. Nothing is slowed down on purpose.
Read next: benchmarks/generator.py
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from benchmarks.published_generators import PublishedFAR, StaticMemory
from glotok_ray.config.samplers import ScaleSamplerConfig
from glotok_ray.nn.next_scale import Contribution, at_scale
from glotok_ray.nn.var import VAR
from glotok_ray.nn.var_blocks import VARBlock, plain_norm
from glotok_ray.sampling.scales import ramped_guidance

DrawScale = Callable[[Float[Tensor, "b n size"], int], Int64[Tensor, "b n"]]
"""From guided logits, and the scale's number, to codes."""


class PublishedGPT(PublishedFAR):
    """LlamaGen's sampling step."""

    def _token(self, previous: Tensor | None) -> Tensor:
        model = self.model
        if previous is None:
            return model.class_embedding(self.labels).unsqueeze(1)
        return model.embeddings[0](previous[:, 0].repeat(2)).unsqueeze(1)

    def _remembered(
        self, memory: StaticMemory, index: int, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        keys, values = memory.extend(index, key, value)
        return keys.repeat_interleave(1, dim=1), values.repeat_interleave(1, dim=1)


class _Growing:
    """Keys and values of one block, as they come."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Those of all scales so far, in new memory."""
        if self.keys is not None and self.values is not None:
            key = torch.cat([self.keys, key], dim=2)
            value = torch.cat([self.values, value], dim=2)
        self.keys, self.values = key, value
        return key, value


class PublishedVAR:
    """VAR's sampling, scale by scale."""

    def __init__(self, model: VAR, contribution: Contribution) -> None:
        self.model, self._contribution = model, contribution

    @torch.no_grad()
    def sample(
        self, labels: Int64[Tensor, " b"], sampler: ScaleSamplerConfig, draw: DrawScale
    ) -> tuple[list[Tensor], Tensor]:
        """Codes of all scales, and the map that they add up to."""
        model, config = self.model, self.model.config
        sides = config.scale_sides
        null = torch.full_like(labels, model.null_label)
        classes = model.class_embedding(torch.cat([labels, null]))
        levels = torch.arange(len(sides)).repeat_interleave(torch.tensor(config.scale_lengths))
        places = model.level_embedding(levels) + model.positions
        tokens = (classes + model.start).unsqueeze(1) + places[:1]
        memories = [_Growing() for _ in model.blocks]
        summed = torch.zeros(len(labels), config.code_width, sides[-1], sides[-1])
        found, end = [], 0
        for scale, side in enumerate(sides):
            end += side**2
            for block, memory in zip(model.blocks, memories, strict=True):
                tokens = self._block(block, tokens, classes, memory)
            conditional, unconditional = self._logits(tokens, classes).chunk(2)
            strength = ramped_guidance(sampler.guidance_scale, scale, len(sides))
            logits = (1 + strength) * conditional - strength * unconditional
            codes = draw(logits, scale)
            found.append(codes)
            summed = summed + self._contribution(codes.unflatten(1, (side, side)), scale)
            if scale + 1 < len(sides):
                following = sides[scale + 1]
                tokens = model.input_projection(at_scale(summed, following))
                tokens = (tokens + places[end : end + following**2]).repeat(2, 1, 1)
        return found, summed

    def _block(self, block: nn.Module, tokens: Tensor, classes: Tensor, memory: _Growing) -> Tensor:
        assert isinstance(block, VARBlock)
        parts = block.modulation(F.silu(classes)).view(len(classes), 1, 6, -1).unbind(2)
        gate1, gate2, scale1, scale2, shift1, shift2 = parts
        inner = plain_norm(tokens).mul(scale1.add(1)).add_(shift1)
        tokens = tokens + self._attend(block, inner, memory).mul_(gate1)
        inner = plain_norm(tokens).mul(scale2.add(1)).add_(shift2)
        hidden = F.gelu(block.mlp_first(inner), approximate="tanh")
        return tokens + block.mlp_second(hidden).mul(gate2)

    def _attend(self, block: VARBlock, tokens: Tensor, memory: _Growing) -> Tensor:
        attention = block.attention
        zeros = torch.zeros_like(attention.query_bias)
        bias = torch.cat([attention.query_bias, zeros, attention.value_bias])
        heads = F.linear(tokens, attention.query_key_value.weight, bias)
        heads = heads.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        strength = attention.head_scale.clamp_max(torch.tensor(100.0).log()).exp().view(-1, 1, 1)
        query = F.normalize(query, dim=-1).mul(strength)
        key, value = memory.extend(F.normalize(key, dim=-1), value)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return attention.projection(mixed.transpose(1, 2).flatten(2))

    def _logits(self, tokens: Tensor, classes: Tensor) -> Tensor:
        model = self.model
        parts = model.final_modulation(F.silu(classes)).view(len(classes), 1, 2, -1)
        scale, shift = parts.unbind(2)
        return model.output(plain_norm(tokens).mul(scale.add(1)).add_(shift))


def published_draw(sampler: ScaleSamplerConfig) -> DrawScale:
    """Top-k, then top-p over all codes in rising order, then torch's own draw."""

    def draw(logits: Tensor, _scale: int) -> Tensor:
        if sampler.top_k > 0:
            least = logits.topk(sampler.top_k, largest=True, sorted=False, dim=-1)[0]
            logits = logits.masked_fill(logits < least.amin(dim=-1, keepdim=True), -torch.inf)
        if sampler.top_p < 1:
            ordered, order = logits.sort(dim=-1, descending=False)
            dropped = ordered.softmax(dim=-1).cumsum_(dim=-1) <= 1 - sampler.top_p
            dropped[..., -1:] = False
            logits = logits.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
        probabilities = logits.softmax(dim=-1).flatten(0, 1)
        return torch.multinomial(probabilities, 1, replacement=True).view(logits.shape[:2])

    return draw


def fixed_draw(codes: Sequence[Int64[Tensor, "b n"]]) -> DrawScale:
    """The same codes whatever the logits, to compare what else is computed."""
    return lambda _logits, scale: codes[scale]
