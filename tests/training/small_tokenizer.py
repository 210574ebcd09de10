"""The smallest tokenizer that has every part, for the tests of training."""

from pathlib import Path

from glotok_ray.config import (
    AdapterConfig,
    AutoencoderConfig,
    CodebookConfig,
    ResidualConfig,
    TokenizerConfig,
)
from glotok_ray.training.snapshot import Snapshot

SEMANTIC = CodebookConfig(name="semantic", size=32)
MODEL = TokenizerConfig(
    autoencoder=AutoencoderConfig(
        image_size=32,
        base_channels=8,
        channel_multipliers=(1, 2, 2),
        num_res_blocks=1,
        latent_channels=16,
        norm_groups=4,
    ),
    adapter=AdapterConfig(depth=1, num_heads=2),
    codebooks=(CodebookConfig(name="visual", size=48), SEMANTIC),
    residual=ResidualConfig(width=16, num_heads=2),
)


def write_snapshot(holder, folder: Path) -> None:
    """Write what a step adds to a checkpoint under `folder`, at once."""
    copies = Snapshot()
    holder.snapshot(copies)
    copies.write(folder)
