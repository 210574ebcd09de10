"""Activation checkpointing: keep only what enters a block, and compute its inside again when gradients come.

Read next: glotok_ray/training/runs.py
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glotok_ray.nn.blocks import ResidualBlock, SpatialAttention, TransformerBlock
from glotok_ray.nn.far_blocks import FARBlock
from glotok_ray.nn.var_blocks import VARBlock
from glotok_ray.nn.xar_blocks import EntityBlock

_BLOCKS = (ResidualBlock, SpatialAttention, TransformerBlock, EntityBlock, FARBlock, VARBlock)


def recompute_activations(module: nn.Module) -> None:
    """Wrap the forward pass of every block in place; names and values stay as they are."""
    for part in module.modules():
        if isinstance(part, _BLOCKS):
            part.forward = functools.partial(checkpoint, part.forward, use_reentrant=False)


def keep_nothing_inside(module: nn.Module) -> None:
    """As `recompute_activations` for a pass whose bytes are counted: of a block's inside nothing is kept. The real one
    imports torch's compiler, which takes over a second.
    """
    for part in module.modules():
        if isinstance(part, _BLOCKS):
            block: Any = part
            block.forward = functools.partial(_forgetting, block.forward)


def _forgetting(forward: Callable[..., Any], *arguments: Any) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(lambda _: None, _never):
        return forward(*arguments)


def _never(_: Any) -> Tensor:
    raise AssertionError("what is not kept has no backward pass")


def recomputing_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks inside `module` that `recompute_activations` has wrapped."""
    return [part for part in module.modules() if isinstance(part.forward, functools.partial)]
