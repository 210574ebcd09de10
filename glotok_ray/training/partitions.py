"""Which numbers of which parameters a DeepSpeed engine gives this worker to update, and the moments beside them.

It reads what ZeRO has laid out and imports nothing of DeepSpeed. Read next: glotok_ray/training/engine.py
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from glotok_ray.training.pieces import STEP, Columns, Stretch
from glotok_ray.training.torch_engine import ADAM_MOMENTS


class Part(NamedTuple):
    """A stretch of a parameter that this worker updates."""

    stretch: Stretch
    values: Tensor
    """fp32 master values: a flat view of what the optimizer changes."""
    owner: Tensor
    """What the torch optimizer keeps its state for: the worker's part of many parameters, or the parameter."""
    offset: int
    """Where the values begin in the flattened owner."""


def parts_of(module: nn.Module, zero: Any, rank: int) -> list[Part]:
    """The parts of one worker, in the order of the module's parameters; `zero` is the engine's optimizer. Under ZeRO
    those of all workers are the whole, and at stage 0 every worker has the whole.
    """
    parts = []
    parameters: Iterable[tuple[str, Any]] = module.named_parameters()
    for name, parameter in parameters:
        if hasattr(parameter, "ds_id"):  # ZeRO 3
            part = _of_stage_3(name, parameter, zero, rank)
        elif hasattr(parameter, "_hp_mapping"):  # ZeRO 1 and 2
            part = _of_stages_1_and_2(name, parameter, zero)
        else:
            whole = parameter.data
            stretch = Stretch(name, 0, whole.numel())
            part = Part(stretch, whole.view(-1), parameter, 0)
        if part is not None:
            parts.append(part)
    return parts


def _of_stages_1_and_2(name: str, parameter: Any, zero: Any) -> Part | None:
    mapping = parameter._hp_mapping
    if mapping is None:  # another worker's
        return None
    low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
    owner = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    return Part(Stretch(name, low.start, low.numel), mapping.get_hp_fragment(), owner, high.start)


def _of_stage_3(name: str, parameter: Any, zero: Any, rank: int) -> Part | None:
    group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
    start = rank * length
    # The last worker's part is padded.
    used = min(length, parameter.ds_numel - start)
    if used <= 0:
        return None
    owner = zero.fp32_partitioned_groups_flat[group]
    return Part(Stretch(name, start, used), owner.data.narrow(0, offset, used), owner, offset)


def columns_of(parts: list[Part], optimizer: torch.optim.Optimizer) -> Columns:
    """Masters, moments and steps of the parts, moments and steps as views of the optimizer's state, which is made
    where there is none yet.
    """
    columns: dict[str, list[Tensor]] = {"master": [part.values for part in parts]}
    for moment in ADAM_MOMENTS:
        columns[moment] = [
            _state(optimizer, part.owner)[moment]
            .view(-1)
            .narrow(0, part.offset, part.stretch.length)
            for part in parts
        ]
    columns[STEP] = [_state(optimizer, part.owner)[STEP].view(-1) for part in parts]
    return columns


def _state(optimizer: torch.optim.Optimizer, owner: Tensor) -> dict[str, Tensor]:
    """The state of torch's Adam for a tensor, as its first step would make it."""
    state = optimizer.state[owner]
    if not state:
        on_device = any(group.get("fused") for group in optimizer.param_groups)
        device = owner.device if on_device else torch.device("cpu")
        state[STEP] = torch.zeros((), dtype=torch.float32, device=device)
        state |= {moment: torch.zeros_like(owner.data) for moment in ADAM_MOMENTS}
        optimizer.state[owner] = state
    return state


def working_weights_from_masters(zero: Any) -> None:
    """Make what the forward pass computes with out of the masters, on all workers; every one of them calls it."""
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # ZeRO 3, as at the end of its step
        zero._partition_all_parameters()
        for group in range(len(zero.fp32_partitioned_groups_flat)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
    elif hasattr(zero, "update_lp_params"):
        zero.update_lp_params()
