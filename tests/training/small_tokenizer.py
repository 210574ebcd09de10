"""The smallest tokenizer that has every part, for the tests of training."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from glotok_ray.config import CodebookConfig, TokenizerRun
from glotok_ray.training.engine import Engine
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.tokenizer_state import TokenizerState
from glotok_ray.training.tokenizer_step import FrozenNetworks, TokenizerStep
from glotok_ray.training.validation import TokenizerValidation
from glotok_ray.training.worker import Worker
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


class Training(NamedTuple):
    """What learns, what changes, what measures."""

    step: TokenizerStep
    state: TokenizerState
    validation: TokenizerValidation


def training_of(
    config: TokenizerRun,
    engines: tuple[Engine, Engine],
    frozen: FrozenNetworks,
    worker: Worker,
    validation: Tensor,
) -> Training:
    """The parts of a training of a tokenizer and its discriminator; `validation` are uint8 images (n, 3, h, w)."""
    state = TokenizerState(config, *engines, worker)
    measured = TokenizerValidation(state, frozen.teacher, validation, worker)
    return Training(TokenizerStep(state, frozen, worker), state, measured)
