"""What an engine is to the steps, and the plain one: a torch optimizer in one process.

Read next: glotok_ray/training/engine.py
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glotok_ray.config.training import OptimizerConfig
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.weights import DROP_CHECKPOINT, check_finite
from glotok_ray.training.pieces import Stretch
from glotok_ray.training.snapshot import Snapshot

_STATE_FILE = "engine.pt"


class Engine(Protocol):
    """A module with its optimizer."""

    module: nn.Module
    gradient_norm: Tensor
    """L2 norm of the whole gradient at the last optimizer step, before clipping: a scalar on the device, equal on all
    workers, and infinite where the step was left out because the gradient was not finite.
    """

    def __call__(self, *inputs: Any) -> Any:
        """The module's forward pass."""
        ...

    def frozen(self, images: Tensor) -> Tensor:
        """The same pass with parameters that take no gradient, while `images` may."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, divided by the accumulation steps."""
        ...

    def step(self) -> None:
        """After the last accumulation step: clip, update, clear. Before it: nothing. A gradient that is not finite is
        cleared, and nothing else moves.
        """
        ...

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of every parameter group."""
        ...

    def full_precision_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Names and fp32 values of the whole parameters, on every worker."""
        ...

    def shards(self) -> list[Tensor]:
        """The fp32 values that this worker updates, in memory that changes with every step; one per stretch."""
        ...

    def stretches(self) -> list[Stretch]:
        """Which numbers of which parameters the shards are."""
        ...

    @property
    def is_sharded(self) -> bool:
        """Whether the shards of all workers make the whole; else each has all of it."""
        ...

    @property
    def share(self) -> float:
        """Where in [0, 1) this worker's shards begin among those of all."""
        ...

    def replace_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Overwrite rows of a parameter and forget their moments; every worker calls it with equal arguments."""
        ...

    def snapshot(self, into: Snapshot) -> None:
        """Add parameters and optimizer state; every worker calls it, and each adds its part."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added; raises ArtefactError when it is not there."""
        ...


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weight decay for parameters of two or more dimensions, none for the rest (xAR's rule)."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What `scaling.precision` makes of a forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16_autocast")


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """Meanwhile the module's parameters take no gradient."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class TorchEngine:
    """One process, fp32 weights, a torch optimizer: the reference that DeepSpeed is compared with."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: OptimizerConfig,
        accumulation_steps: int,
        precision: str = "fp32",
    ) -> None:
        self.module = module
        self._clip = optimizer.gradient_clip
        self._precision = precision
        self._accumulation_steps = accumulation_steps
        self._micro_steps = 0
        kind = torch.optim.AdamW if optimizer.name == "adamw" else torch.optim.Adam
        groups = parameter_groups(module, optimizer.weight_decay)
        self._optimizer = kind(groups, lr=optimizer.learning_rate, betas=optimizer.betas)
        self.gradient_norm = torch.zeros(())
        self._norm_on_host = _OnHost()

    def __call__(self, *inputs: Any) -> Any:
        """The module's forward pass."""
        with autocast(inputs[0].device, self._precision):
            return self.module(*inputs)

    def frozen(self, images: Tensor) -> Tensor:
        """The same pass with parameters that take no gradient."""
        with without_gradients(self.module):
            return self(images)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, divided by the accumulation steps; after the last of them, measure the whole."""
        (loss / self._accumulation_steps).backward()
        if (self._micro_steps + 1) % self._accumulation_steps == 0:
            self.gradient_norm = gradient_norm(self.module.parameters())
            self._norm_on_host.send(self.gradient_norm)

    def step(self) -> None:
        """After the last accumulation step: clip, update, clear."""
        self._micro_steps += 1
        if self._micro_steps % self._accumulation_steps:
            return
        if math.isfinite(self._norm_on_host.value()):
            self._clip_gradients()
            self._optimizer.step()
        else:
            self.gradient_norm = torch.full_like(self.gradient_norm, math.inf)
        self._optimizer.zero_grad(set_to_none=True)

    def _clip_gradients(self) -> None:
        if self._clip:
            parameters = self.module.parameters()
            nn.utils.clip_grads_with_norm_(parameters, self._clip, self.gradient_norm)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of every parameter group."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def full_precision_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters themselves."""
        yield from self.module.named_parameters()

    def shards(self) -> list[Tensor]:
        """The parameters themselves."""
        return [parameter.data for parameter in self.module.parameters()]

    def stretches(self) -> list[Stretch]:
        """All of every parameter."""
        return [
            Stretch(name, 0, parameter.numel())
            for name, parameter in self.module.named_parameters()
        ]

    @property
    def is_sharded(self) -> bool:
        """There is one worker."""
        return False

    @property
    def share(self) -> float:
        """The first of one."""
        return 0.0

    @torch.no_grad()
    def replace_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Overwrite rows of a parameter and forget their moments."""
        parameter = self.module.get_parameter(name)
        parameter[rows] = values.to(parameter)
        for moment in ADAM_MOMENTS:
            if moment in self._optimizer.state[parameter]:
                self._optimizer.state[parameter][moment][rows] = 0

    def snapshot(self, into: Snapshot) -> None:
        """Add one file with parameters, buffers and optimizer state."""
        state = {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}
        into.add_state(_STATE_FILE, state, weights=_module_state)

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added."""
        path = folder / _STATE_FILE
        if not path.is_file():
            raise ArtefactError(
                f"{path}: no such file; it was saved by another engine (scaling.engine)"
            )
        state = torch.load(at_hand(path), weights_only=True, map_location="cpu")
        check_finite(state["module"], path, DROP_CHECKPOINT)
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])


class _OnHost:
    """A scalar that goes to the host while the device works on: the flags of the step, which the host waits for in any
    case, come behind it.
    """

    def __init__(self) -> None:
        self._sent, self._arrived = torch.zeros(()), None

    def send(self, scalar: Tensor) -> None:
        """Begin; on the CPU it is there."""
        if scalar.device.type != "cuda":
            self._sent = scalar
            return
        if self._arrived is None:
            self._sent = torch.empty((), dtype=scalar.dtype, pin_memory=True)
            self._arrived = torch.cuda.Event()
        self._sent.copy_(scalar, non_blocking=True)
        self._arrived.record(torch.cuda.current_stream(scalar.device))

    def value(self) -> float:
        """What was sent last."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._sent)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients that are there, on their device; the host does not wait for it."""
    return nn.utils.get_total_norm(
        [parameter.grad for parameter in parameters if parameter.grad is not None]
    )


def persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers that a state dict holds."""
    names = module.state_dict(keep_vars=True).keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name in names]


def _module_state(state: Any) -> Mapping[str, Tensor]:
    """The weights in a state file."""
    return state["module"]
