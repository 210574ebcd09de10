"""VAR: the codes of one scale after the other, all positions of a scale at once.

A token sees its own scale and those before; a scale's input is made of the codes of earlier scales, so the output at a
position predicts the code of that position itself, or one of each branch. Source: VAR (Tian et al. 2024), section 3;
ImageFolder (Li et al. 2024) for branches.
Read next: glotok_ray/nn/next_scale.py (inputs), glotok_ray/sampling/scales.py (sampling)
"""

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from glotok_ray.config.var import VARConfig
from glotok_ray.nn.blocks import empty_keys_and_values
from glotok_ray.nn.var_blocks import ScaleMemory, VARBlock, modulated


class ScaleCache:
    """Keys and values of every block for a batch whose scales are sampled one after another, and its classes' part."""

    def __init__(
        self,
        keys: Float[Tensor, "depth b heads n width"],
        values: Float[Tensor, "depth b heads n width"],
        classes: Float[Tensor, "b d"],
        modulations: list[Float[Tensor, "b 6 d"]],
        final: Float[Tensor, "b 2 d"],
    ) -> None:
        self.keys, self.values = keys, values
        self.classes, self.modulations, self.final = classes, modulations, final

    def memory(self, block: int, start: int) -> ScaleMemory:
        """What one block reads and writes for the scale whose first token is number `start`."""
        return ScaleMemory(self.keys[block], self.values[block], start)


class VAR(nn.Module):
    """Logits of the code at every position of every scale, given the class and the codes of earlier scales.

    Those of several branches lie one after the other; `logits_by_branch` parts them.
    """

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.config = config
        width, scales = config.width, len(config.scale_sides)
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.start = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(config.num_tokens, width))
        self.level_embedding = nn.Embedding(scales, width)
        self.input_projection = nn.Linear(config.code_width, width)
        if config.input_masking > 0:
            self.masked_input = nn.Parameter(torch.empty(width))
        if config.modulation == "shared":
            self.shared_modulation = nn.Linear(width, 6 * width)
        last = max(1, config.depth - 1)
        self.blocks = nn.ModuleList(
            VARBlock(config, config.stochastic_depth * index / last)
            for index in range(config.depth)
        )
        self.final_modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, config.num_branches * config.num_codes)
        self._initialize()

    @property
    def null_label(self) -> int:
        """The label that stands for no class; the last row of the embedding."""
        return self.config.num_classes

    def forward(
        self,
        inputs: Float[Tensor, "b m c"],
        labels: Int64[Tensor, " b"],
        masked: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n size"]:
        """Teacher-forced logits in fp32 or better, given the `next_scale_inputs` of whole scales from the second on.

        n = m + 1: the class is the first scale's input. One learned vector replaces the inputs that are `masked`, of a
        model with `input_masking`; they keep their places. Raises ValueError for tokens that are no whole scales.
        """
        length = inputs.shape[1] + 1
        if length not in itertools.accumulate(self.config.scale_lengths):
            raise ValueError(
                f"inputs: {length - 1} tokens; must be those of whole scales after the first, of sides "
                f"{', '.join(map(str, self.config.scale_sides))}"
            )
        classes = self.class_embedding(labels)
        following = self.input_projection(inputs)
        if masked is not None:
            vector = self.masked_input.to(following.dtype)
            following = torch.where(masked.unsqueeze(-1), vector, following)
        tokens = torch.cat([self._start(classes), following], dim=1)
        tokens = tokens.to(self.positions.dtype) + self._places(slice(0, length))
        levels = self._levels(tokens.device)[:length]
        seen = levels[:, None] >= levels[None, :]
        for block, modulation in zip(self.blocks, self._modulations(classes), strict=True):
            tokens = block(tokens, modulation, seen)
        return self.logits_of(modulated(tokens, *self._final(classes).unsqueeze(2).unbind(1)))

    @torch.no_grad()
    def new_cache(self, labels: Int64[Tensor, " b"]) -> ScaleCache:
        """An empty cache for sampling images of these labels, on the model's device, in its attention's dtype."""
        config, weight = self.config, self.output.weight
        head_width = config.width // config.num_heads
        shape = (config.depth, len(labels), config.num_heads, config.num_tokens, head_width)
        classes = self.class_embedding(labels)
        keys, values = empty_keys_and_values(shape, weight)
        modulations = self._modulations(classes)
        return ScaleCache(keys, values, classes, modulations, self._final(classes))

    @torch.no_grad()
    def scale_logits(
        self, inputs: Float[Tensor, "b m c"] | None, scale: int, cache: ScaleCache
    ) -> Float[Tensor, "b tokens size"]:
        """Logits of one scale, given its inputs, None for scale 0, without gradients.

        `cache` must hold all scales before; this one is written to it.
        """
        return self.logits_of(self.scale_hidden(inputs, scale, cache))

    @torch.no_grad()
    def scale_hidden(
        self, inputs: Float[Tensor, "b m c"] | None, scale: int, cache: ScaleCache
    ) -> Float[Tensor, "b tokens d"]:
        """What `logits_of` takes, for `scale_logits`: logits are linear in it."""
        start = sum(self.config.scale_lengths[:scale])
        tokens = self._start(cache.classes) if inputs is None else self.input_projection(inputs)
        tokens = tokens.to(self.positions.dtype) + self._places(
            slice(start, start + tokens.shape[1])
        )
        parts = zip(self.blocks, cache.modulations, strict=True)
        for index, (block, modulation) in enumerate(parts):
            tokens = block(tokens, modulation, None, cache.memory(index, start))
        return modulated(tokens, *cache.final.unsqueeze(2).unbind(1))

    def logits_of(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b n size"]:
        """The output layer, in fp32 or better."""
        logits = self.output(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def logits_by_branch(
        self, logits: Float[Tensor, "b n size"]
    ) -> tuple[Float[Tensor, "b n codes"], ...]:
        """Those of the first branch's codes, and so on."""
        return logits.chunk(self.config.num_branches, dim=-1)

    def _start(self, classes: Tensor) -> Tensor:
        return (classes + self.start).unsqueeze(1)

    def _places(self, chosen: slice) -> Tensor:
        levels = self._levels(self.positions.device)[chosen]
        return self.positions[chosen] + self.level_embedding(levels)

    def _levels(self, device: torch.device) -> Int64[Tensor, " n"]:
        """The scale of every token."""
        lengths = torch.tensor(self.config.scale_lengths, device=device)
        scales = torch.arange(len(lengths), device=device)
        return scales.repeat_interleave(lengths, output_size=self.config.num_tokens)

    def _modulations(self, classes: Tensor) -> list[Tensor]:
        active = F.silu(classes)
        if self.config.modulation == "shared":
            shared = self.shared_modulation(active).unflatten(-1, (6, -1))
            return [shared + block.get_parameter("modulation_offset") for block in self.blocks]
        blocks = (block.get_submodule("modulation") for block in self.blocks)
        return [linear(active).unflatten(-1, (6, -1)) for linear in blocks]

    def _final(self, classes: Tensor) -> Tensor:
        """Scale and shift before the output layer."""
        return self.final_modulation(F.silu(classes)).unflatten(-1, (2, -1))

    @torch.no_grad()
    def _initialize(self) -> None:
        """As published: everything normal of variance 1 / (3 d), biases zero, and gates nearly closed.

        Published with torch's truncation at -2 and 2, which are tens of deviations away.
        """
        deviation = math.sqrt(1 / (3 * self.config.width))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=deviation)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        tables = [self.start, self.positions]
        if self.config.input_masking > 0:
            tables.append(self.masked_input)
        for table in tables:
            nn.init.normal_(table, std=deviation)
        self.output.weight.mul_(0.02)
        self.final_modulation.weight.mul_(0.5)
        for block in self.blocks:
            assert isinstance(block, VARBlock)
            for last in (block.attention.projection, block.mlp_second):
                last.weight.div_(math.sqrt(2 * self.config.depth))
            if self.config.modulation == "shared":
                nn.init.normal_(block.modulation_offset, std=deviation)
                _scale_gates(block.modulation_offset, 2, self.config.gate_scale)
            else:
                gates = 2 * self.config.width
                _scale_gates(block.modulation.weight, gates, self.config.gate_scale)


def _scale_gates(weight: Tensor, gates: int, gate_scale: float) -> None:
    """The first rows make gates, the others scales and shifts."""
    weight[:gates].mul_(gate_scale)
    weight[gates:].mul_(0.5)
