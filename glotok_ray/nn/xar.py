"""xAR over cells: a transformer that denoises each cell of a latent grid given the cells before it.

Source: xAR (Ren et al. 2025), sections 3.2-3.3; the paper trains it on its latents (Table 2).
Read next: glotok_ray/losses/flow_matching.py (training), glotok_ray/sampling/flow.py (sampling)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glotok_ray.config import XARConfig
from glotok_ray.nn import cells
from glotok_ray.nn.rotary import Rotation, grid_rotation
from glotok_ray.nn.xar_blocks import BlockMemory, CellBlock, TimeEmbedding, learned_norm


class CellCache:
    """Keys and values of every block for a batch whose cells are sampled one after another."""

    def __init__(
        self,
        keys: Float[Tensor, "depth b tokens heads width"],
        values: Float[Tensor, "depth b tokens heads width"],
    ) -> None:
        self.keys = keys
        self.values = values

    def rows(self, count: int) -> "CellCache":
        """A view of the first `count` images; writing to it writes here."""
        return CellCache(self.keys[:, :count], self.values[:, :count])

    def memory(self, block: int, start: int) -> BlockMemory:
        """What one block reads and writes when the next cell begins at token `start`."""
        return BlockMemory(self.keys[block], self.values[block], start)


class XAR(nn.Module):
    """Velocity of every cell of a noisy latent grid; t = 1 is noise and t = 0 is data.

    The state dict carries `latent_scale` (c,), by which latents are multiplied before the network
    sees them; training sets it once (glotok_ray/sampling/latents.py), then weights carry it along.
    """

    latent_scale: Tensor

    def __init__(self, config: XARConfig) -> None:
        super().__init__()
        self.config = config
        width, shape = config.width, (config.num_cells, config.tokens_per_cell, config.width)
        self.register_buffer("latent_scale", torch.ones(config.channels))
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.time_embedding = TimeEmbedding(width)
        self.input_projection = nn.Linear(config.channels, width)
        self.first_position = nn.Parameter(torch.empty(shape))
        self.first_norm = learned_norm(width)
        self.blocks = nn.ModuleList(CellBlock(config) for _ in range(config.depth))
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
            if self.config.zero_init_gates and isinstance(module, CellBlock):
                nn.init.zeros_(module.modulation.weight)
        for table in (self.class_embedding.weight, self.first_position, self.second_position):
            nn.init.normal_(table, std=0.02)

    @property
    def null_label(self) -> int:
        """The label that stands for no class; the last row of the embedding."""
        return self.config.num_classes

    def to_cells(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cells tokens c"]:
        """Cut latents into cells, raster over cells and inside them."""
        return cells.to_cells(latents, self.config.cell_size)

    def from_cells(self, tokens: Float[Tensor, "b cells tokens c"]) -> Float[Tensor, "b c h w"]:
        """The inverse of `to_cells`."""
        return cells.from_cells(tokens, self.config.grid_size, self.config.cell_size)

    def normalize(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Multiply each channel by `latent_scale`, which brings data near unit variance."""
        return latents * self.latent_scale[:, None, None]

    def denormalize(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The inverse of `normalize`."""
        return latents / self.latent_scale[:, None, None]

    def forward(
        self,
        noisy: Float[Tensor, "b cells tokens c"],
        times: Float[Tensor, "b cells"],
        labels: Int64[Tensor, " b"],
    ) -> Float[Tensor, "b cells tokens c"]:
        """Velocity noise - data of every cell, given itself and the cells before it.

        `times` are in [0, 1], one per cell; `labels` in [0, num_classes], the last being the null
        label. Fewer than all cells may be given: the first ones. The network's dtype comes back.
        """
        return self._velocity(noisy, times, labels)

    @torch.no_grad()
    def forward_cell(
        self,
        noisy: Float[Tensor, "b tokens c"],
        times: Float[Tensor, " b"],
        labels: Int64[Tensor, " b"],
        *,
        cell: int,
        cache: CellCache,
    ) -> Float[Tensor, "b tokens c"]:
        """Velocity of one cell, given what `cache` holds of the cells before it, without gradients.

        The cell's own keys and values overwrite its place in the cache. So before cell s + 1, call
        this once more with the finished cell s at time 0: later cells then see it clean, and find
        what `forward` finds.
        """
        velocity = self._velocity(
            noisy.unsqueeze(1), times.unsqueeze(1), labels, first_cell=cell, cache=cache
        )
        return velocity.squeeze(1)

    def new_cache(self, batch_size: int) -> CellCache:
        """An empty cache for `forward_cell`, on the model's device, in its attention's dtype."""
        config, weight = self.config, self.input_projection.weight
        device = weight.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        tokens = config.num_cells * config.tokens_per_cell
        head_width = config.width // config.num_heads
        shape = (config.depth, batch_size, tokens, config.num_heads, head_width)
        return CellCache(weight.new_empty(shape, dtype=dtype), weight.new_empty(shape, dtype=dtype))

    def _velocity(
        self,
        noisy: Tensor,
        times: Tensor,
        labels: Tensor,
        *,
        first_cell: int = 0,
        cache: CellCache | None = None,
    ) -> Tensor:
        config = self.config
        chosen = slice(first_cell, first_cell + noisy.shape[1])
        head_width = config.width // config.num_heads
        table = grid_rotation(config.grid_size, config.cell_size, head_width, noisy.device)
        rotation = Rotation(table.cosine[chosen], table.sine[chosen])
        condition = self.class_embedding(labels).unsqueeze(1) + self.time_embedding(times)
        condition = F.silu(condition)
        tokens = self.input_projection(noisy.to(self.input_projection.weight.dtype))
        tokens = self.first_norm(tokens + self.first_position[chosen])
        for index, block in enumerate(self.blocks):
            if index == config.depth // 2:
                tokens = self.middle_projection(self.middle_norm(tokens))
                tokens = tokens + self.second_position[chosen]
            memory = cache.memory(index, first_cell * config.tokens_per_cell) if cache else None
            tokens = block(tokens, condition, rotation, memory)
        return self.output_projection(self.final_norm(tokens))
