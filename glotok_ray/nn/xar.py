"""xAR: a transformer that denoises each entity of a latent grid given the entities before it.

An entity is a token, a cell of the grid, a subsample, a scale or the whole grid (glotok_ray/nn/entities.py).
Source: xAR (Ren et al. 2025), sections 3.2-3.3; the paper trains it on its latents (Table 2).
Read next: glotok_ray/losses/flow_matching.py (training), glotok_ray/sampling/flow.py (sampling)
"""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glotok_ray.config.generator import XARConfig
from glotok_ray.nn import entities
from glotok_ray.nn.blocks import empty_keys_and_values
from glotok_ray.nn.rotary import Rotation, grid_rotation
from glotok_ray.nn.xar_blocks import (
    BlockMemory,
    EntityBlock,
    EntityLayout,
    TimeEmbedding,
    learned_norm,
)


class EntityCache:
    """Keys and values of every block for a batch whose entities are sampled one after another."""

    def __init__(
        self,
        keys: Float[Tensor, "depth b n heads width"],
        values: Float[Tensor, "depth b n heads width"],
        rotation: Rotation,
    ) -> None:
        self.keys = keys
        self.values = values
        self.rotation = rotation

    def rows(self, count: int) -> "EntityCache":
        """A view of the first `count` images; writing to it writes here."""
        return EntityCache(self.keys[:, :count], self.values[:, :count], self.rotation)

    def memory(self, block: int, start: int, modulations: Tensor | None = None) -> BlockMemory:
        """What one block reads and writes when the next entity begins at token `start`."""
        modulation = None if modulations is None else modulations[block].unsqueeze(1)
        return BlockMemory(self.keys[block], self.values[block], start, modulation)


class XAR(nn.Module):
    """Velocity of every entity of a noisy latent grid; t = 1 is noise and t = 0 is data.

    The state dict carries `latent_scale` (c,), by which latents are multiplied before the network
    sees them; training sets it once (glotok_ray/sampling/latents.py), then weights carry it along.
    """

    latent_scale: Tensor

    def __init__(self, config: XARConfig) -> None:
        super().__init__()
        self.config = config
        width, shape = config.width, (config.num_tokens, config.width)
        self.register_buffer("latent_scale", torch.ones(config.channels))
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.time_embedding = TimeEmbedding(width)
        self.input_projection = nn.Linear(config.channels, width)
        self.first_position = nn.Parameter(torch.empty(shape))
        self.first_norm = learned_norm(width)
        self.blocks = nn.ModuleList(EntityBlock(config) for _ in range(config.depth))
        self.middle_norm = learned_norm(width)
        self.middle_projection = nn.Linear(width, width)
        self.second_position = nn.Parameter(torch.empty(shape))
        self.final_norm = learned_norm(width)
        self.output_projection = nn.Linear(width, config.channels)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if self.config.zero_init_gates and isinstance(module, EntityBlock):
                nn.init.zeros_(module.modulation.weight)
        for table in (self.class_embedding.weight, self.first_position, self.second_position):
            nn.init.normal_(table, std=0.02)

    @property
    def null_label(self) -> int:
        """The label that stands for no class; the last row of the embedding."""
        return self.config.num_classes

    def to_entities(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
        """The tokens of all entities of a grid, in the order of prediction."""
        return entities.to_entities(latents, self.config)

    def from_entities(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b c h w"]:
        """The grid that the tokens of all entities describe; undoes `to_entities`."""
        return entities.from_entities(tokens, self.config)

    def denormalize(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Divide each channel by `latent_scale`, which brought the training data near unit variance."""
        return latents / self.latent_scale[:, None, None]

    def forward(
        self,
        noisy: Float[Tensor, "b n c"],
        times: Float[Tensor, "b entities"],
        labels: Int64[Tensor, " b"],
        context: Float[Tensor, "b n c"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Velocity noise - data of every token, given its entity and the entities before it.

        `times` are in [0, 1], one per entity; `labels` in [0, num_classes], the last being the null label. Fewer than
        all entities may be given: the first ones. With `context`, earlier entities are seen as clean as it holds them,
        at time 0, in place of the noisy ones. The network's dtype comes back.
        """
        if context is None:
            return self._velocity(noisy, times, labels)
        both = torch.cat([context.to(noisy.dtype), noisy])
        both_times = torch.cat([torch.zeros_like(times), times])
        return self._velocity(both, both_times, labels.repeat(2), has_context=True).chunk(2)[1]

    @torch.no_grad()
    def forward_entity(
        self,
        noisy: Float[Tensor, "b n c"],
        times: Float[Tensor, " b"],
        labels: Int64[Tensor, " b"],
        *,
        entity: int,
        cache: EntityCache,
        modulations: Float[Tensor, "depth b d"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Velocity of one entity, given what `cache` holds of the entities before it, without gradients.

        The entity's own keys and values overwrite its place in the cache. So before entity s + 1, call
        this once more with the finished entity s at time 0: later ones then see it clean, and find
        what `forward` finds. `modulations` are those of `times` and `labels`, where they are known.
        """
        return self._velocity(
            noisy,
            times.unsqueeze(1),
            labels,
            first_entity=entity,
            cache=cache,
            modulations=modulations,
        )

    @torch.no_grad()
    def modulations(
        self, times: Float[Tensor, " steps"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, "steps depth b d"]:
        """What all blocks make of several times, for `forward_entity`, without gradients.

        A third of the weights serves this, for few rows: one product for several steps reads them once.
        """
        condition = self._condition(times.expand(labels.shape[0], -1), labels)
        made = [block.get_submodule("modulation")(condition) for block in self.blocks]
        return torch.stack(made).permute(2, 0, 1, 3)

    def new_cache(self, batch_size: int) -> EntityCache:
        """An empty cache for `forward_entity`, on the model's device, in its attention's dtype."""
        config, weight = self.config, self.input_projection.weight
        head_width = config.width // config.num_heads
        shape = (config.depth, batch_size, config.num_tokens, config.num_heads, head_width)
        keys, values = empty_keys_and_values(shape, weight)
        return EntityCache(keys, values, self._rotation(weight.device))

    def _rotation(self, device: torch.device) -> Rotation:
        places = entities.token_places(self.config, device)
        return grid_rotation(places, self.config.width // self.config.num_heads)

    def _condition(self, times: Tensor, labels: Tensor) -> Tensor:
        return F.silu(self.class_embedding(labels).unsqueeze(1) + self.time_embedding(times))

    def _velocity(
        self,
        noisy: Tensor,
        times: Tensor,
        labels: Tensor,
        *,
        first_entity: int = 0,
        cache: EntityCache | None = None,
        modulations: Tensor | None = None,
        has_context: bool = False,
    ) -> Tensor:
        config = self.config
        ends = list(itertools.accumulate(config.entity_lengths, initial=0))
        last_entity = first_entity + times.shape[1]
        chosen = slice(ends[first_entity], ends[last_entity])
        rotation = cache.rotation if cache else self._rotation(noisy.device)
        lengths = config.entity_lengths[first_entity:last_entity]
        layout = EntityLayout(lengths, rotation.part(chosen), has_context)
        # With all modulations known, nothing reads a condition.
        condition = times if modulations is not None else self._condition(times, labels)
        tokens = self.input_projection(noisy.to(self.input_projection.weight.dtype))
        tokens = self.first_norm(tokens + self.first_position[chosen])
        tokens = tokens.unflatten(1, (-1, layout.group_size))
        second = self.second_position[chosen].unflatten(0, (-1, layout.group_size))
        for index, block in enumerate(self.blocks):
            if index == config.depth // 2:
                tokens = self.middle_projection(self.middle_norm(tokens)) + second
            memory = cache.memory(index, chosen.start, modulations) if cache else None
            tokens = block(tokens, condition, layout, memory)
        return self.output_projection(self.final_norm(tokens)).flatten(1, 2)
