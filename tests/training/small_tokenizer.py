"""The smallest tokenizer that has every part, for the tests of training."""

from pathlib import Path

from glotok_ray.config import CodebookConfig
from glotok_ray.training.snapshot import Snapshot
from tests.small_models import tiny_tokenizer

SEMANTIC = CodebookConfig(name="semantic", size=32)
MODEL = tiny_tokenizer(
    CodebookConfig(name="visual", size=48),
    SEMANTIC,
    image_size=32,
    channel_multipliers=(1, 2, 2),
    latent_channels=16,
)


def write_snapshot(holder, folder: Path) -> None:
    """Write what a step adds to a checkpoint under `folder`, at once."""
    copies = Snapshot()
    holder.snapshot(copies)
    copies.write(folder)
