"""How gradients become parameter updates: a plain torch optimizer, or DeepSpeed with ZeRO.

Both engines answer the same calls, so the same step runs in one plain process and on a cluster; a test compares losses.
This is the only module that names deepspeed. Read next: glotok_ray/training/tokenizer_step.py
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glotok_ray.config.training import OptimizerConfig, ScalingConfig
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.weights import DROP_CHECKPOINT, check_finite
from glotok_ray.training.snapshot import Snapshot

_STATE_FILE = "engine.pt"


class Engine(Protocol):
    """A module with its optimizer."""

    module: nn.Module

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
        """After the last accumulation step: clip, update, clear. Before it: nothing."""
        ...

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of every parameter group."""
        ...

    def full_precision_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Names and fp32 values of the whole parameters, on every worker."""
        ...

    def shards(self) -> list[Tensor]:
        """The fp32 values that this worker updates, in memory that changes with every step."""
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


_ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16_autocast")


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
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

    def __call__(self, *inputs: Any) -> Any:
        """The module's forward pass."""
        with _autocast(inputs[0].device, self._precision):
            return self.module(*inputs)

    def frozen(self, images: Tensor) -> Tensor:
        """The same pass with parameters that take no gradient."""
        with _without_gradients(self.module):
            return self(images)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, divided by the accumulation steps."""
        (loss / self._accumulation_steps).backward()

    def step(self) -> None:
        """After the last accumulation step: clip, update, clear."""
        self._micro_steps += 1
        if self._micro_steps % self._accumulation_steps:
            return
        if self._clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

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

    @torch.no_grad()
    def replace_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Overwrite rows of a parameter and forget their moments."""
        parameter = self.module.get_parameter(name)
        parameter[rows] = values.to(parameter)
        for moment in _ADAM_MOMENTS:
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
        state = torch.load(path, weights_only=True, map_location="cpu")
        check_finite(state["module"], path, DROP_CHECKPOINT)
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine:
    """One rank of a DeepSpeed engine; torch's process group must be initialised before."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: OptimizerConfig,
        scaling: ScalingConfig,
        micro_batch_size: int,
        accumulation_steps: int,
    ) -> None:
        import deepspeed
        import deepspeed.ops

        if not scaling.use_gpu:
            # DeepSpeed would compile a shared-memory all-reduce at first use: minutes, and a
            # compiler that a laptop may lack.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._precision = scaling.precision
        # DeepSpeed's annotations are narrower than what it takes and returns.
        initialize: Any = deepspeed.initialize
        self._engine, *_ = initialize(
            model=module,
            model_parameters=parameter_groups(module, optimizer.weight_decay),
            config=deepspeed_config(
                optimizer,
                scaling,
                micro_batch_size,
                accumulation_steps,
                sum(parameter.numel() for parameter in module.parameters()),
            ),
            dist_init_required=False,
        )
        self.module: nn.Module = self._engine.module
        _check_gradients_by_their_norm(self._engine.optimizer)
        self._states = _make_states()
        self._engine.checkpoint_engine = self._states

    def __call__(self, *inputs: Any) -> Any:
        """The module's forward pass through DeepSpeed's hooks."""
        return self._engine(*inputs)

    def frozen(self, images: Tensor) -> Tensor:
        """The same pass beside DeepSpeed's own, which would prepare a reduction of gradients."""
        with _without_gradients(self.module), _autocast(images.device, self._precision):
            return self.module(images)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`; DeepSpeed divides by the accumulation steps."""
        self._engine.backward(loss)

    def step(self) -> None:
        """DeepSpeed counts the accumulation steps itself."""
        self._engine.step()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of every parameter group."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate

    def full_precision_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The fp32 master values, gathered where a worker holds only its part."""
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in self.module.named_parameters():
            # None where there is no master: stage 0 in fp32.
            whole = safe_get_full_fp32_param(parameter)
            yield name, parameter if whole is None else whole

    def shards(self) -> list[Tensor]:
        """This worker's parts of the fp32 master values; the parameters themselves where there are none."""
        from deepspeed.utils import safe_get_local_fp32_param

        shards = []
        parameters: list[Any] = list(self.module.parameters())
        for parameter in parameters:
            if hasattr(parameter, "ds_id"):  # ZeRO 3
                shards.append(safe_get_local_fp32_param(parameter))
            elif not hasattr(parameter, "_hp_mapping"):  # stage 0 in fp32
                shards.append(parameter.data)
            elif parameter._hp_mapping is not None:  # ZeRO 1 and 2; None: another worker's
                shards.append(parameter._hp_mapping.get_hp_fragment())
        return shards

    @torch.no_grad()
    def replace_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Overwrite rows of the masters, of their moments (with zeros) and of the working weights."""
        import deepspeed
        from deepspeed.utils import (
            safe_get_full_fp32_param,
            safe_get_full_optimizer_state,
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
        )

        parameter = self.module.get_parameter(name)
        whole = safe_get_full_fp32_param(parameter)
        if whole is not None:
            whole[rows] = values.to(whole)
            safe_set_full_fp32_param(parameter, whole)
            for moment in _ADAM_MOMENTS:
                state: Any = safe_get_full_optimizer_state(parameter, moment)
                state[rows] = 0
                safe_set_full_optimizer_state(parameter, state, moment)
        else:
            for moment in _ADAM_MOMENTS:
                self._engine.optimizer.state[parameter][moment][rows] = 0
        gathered = deepspeed.zero.GatheredParameters(
            [parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")
        )
        with gathered:
            parameter.data[rows] = values.to(parameter.data)

    def snapshot(self, into: Snapshot) -> None:
        """Add DeepSpeed's own checkpoint; each worker its part of the optimizer state."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)

            def take(state: Any, path: str) -> None:
                name = Path(path).relative_to(folder).as_posix()
                into.add_state(name, state, weights=_module_state)

            with self._states.taken_by(take):
                self._engine.save_checkpoint(str(folder), tag="state", save_latest=False)
            # The scripts that join the parts of ZeRO, which DeepSpeed copies by itself.
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    into.add_bytes(path.relative_to(folder).as_posix(), path.read_bytes())

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added; DeepSpeed answers a missing checkpoint with None, which is an error here."""
        path, _ = self._engine.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise ArtefactError(
                f"{folder}: DeepSpeed finds no checkpoint there; it was saved by another engine or worker count"
            )
        parts = {f"part {number}": part for number, part in enumerate(self.shards())}
        check_finite(parts, folder, DROP_CHECKPOINT)


def _module_state(state: Any) -> Mapping[str, Tensor]:
    """The weights in a state file of either engine; none where ZeRO 3 keeps them among the optimizer's."""
    module = state.get("module")
    if not isinstance(module, Mapping):
        return {}
    return {name: value for name, value in module.items() if isinstance(value, Tensor)}


def _check_gradients_by_their_norm(optimizer: Any) -> None:
    """Of a bf16 model at ZeRO 1 and 2 DeepSpeed asks each gradient whether it is finite, by a dozen kernels, and the
    host waits. Then it takes the norm of all, which is not finite just then, and skips the step for it as well.
    """
    # Stage 3 asks as gradients arrive and has no such switches; of fp32 models nothing is asked.
    if all(
        getattr(optimizer, name, False) for name in ("check_grad_overflow", "compute_grad_norm")
    ):
        # Only what comes before the norm: the norm is measured as long as `check_grad_overflow` is set.
        optimizer.check_overflow = lambda partition_gradients=True: None


def _make_states() -> Any:
    """DeepSpeed's reader and writer of state files, whose writes are handed to whoever takes them."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    class TakenStates(TorchCheckpointEngine):
        _take: Callable[[Any, str], None] | None = None

        @contextmanager
        def taken_by(self, take: Callable[[Any, str], None]) -> Iterator[None]:
            self._take = take
            try:
                yield
            finally:
                self._take = None

        def save(self, state_dict: Any, path: str) -> None:
            assert self._take is not None  # DeepSpeed saves when we tell it to, and never else
            self._take(state_dict, path)

    return TakenStates()


def deepspeed_config(
    optimizer: OptimizerConfig,
    scaling: ScalingConfig,
    micro_batch_size: int,
    accumulation_steps: int,
    num_parameters: int,
) -> dict[str, Any]:
    """The whole DeepSpeed config of one engine; the learning rate follows the trainer's schedule."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": optimizer.gradient_clip,
        # Not "elastic_checkpoint": DeepSpeed 0.19.8 cannot load one back with torch's Adam.
        "zero_optimization": {
            "stage": scaling.zero_stage,
            **_buckets(scaling, num_parameters),
        },
        "bf16": {"enabled": scaling.precision == "bf16"},
        # Gradients travel in fp32, so no module is named as safe in lower precision.
        "torch_autocast": {
            "enabled": scaling.precision == "bf16_autocast",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "optimizer": {
            "type": "AdamW" if optimizer.name == "adamw" else "Adam",
            "params": {
                "lr": optimizer.learning_rate,
                "betas": list(optimizer.betas),
                "weight_decay": optimizer.weight_decay,
                # DeepSpeed's own would be compiled at first use, by an nvcc of torch's CUDA version. What torch brings
                # ready is one kernel as well.
                "torch_adam": True,
                "adam_w_mode": optimizer.name == "adamw",
                **({"fused": True} if scaling.use_gpu else {}),
            },
        },
    }


def _buckets(scaling: ScalingConfig, num_parameters: int) -> dict[str, int]:
    """Sizes, in numbers, of what DeepSpeed moves at once; its own are ten times ours, whatever the model."""
    # DeepSpeed refuses odd ones.
    bucket = max(2, min(scaling.bucket_elements, num_parameters) // 2 * 2)
    found = {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if scaling.zero_stage == 3:
        # Weights that were gathered stay until so many others have come: at DeepSpeed's own distance of a billion
        # a model up to that size would never be in parts.
        names = ("prefetch_bucket_size", "max_live_parameters", "max_reuse_distance")
        found |= {f"stage3_{name}": bucket for name in names} | {"sub_group_size": bucket}
    return found


def make_engine(
    module: nn.Module,
    optimizer: OptimizerConfig,
    scaling: ScalingConfig,
    micro_batch_size: int,
    accumulation_steps: int,
) -> Engine:
    """The engine that `scaling.engine` names, around a module that is already on its device."""
    if scaling.engine == "torch":
        return TorchEngine(module, optimizer, accumulation_steps, scaling.precision)
    if not scaling.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    return DeepSpeedEngine(module, optimizer, scaling, micro_batch_size, accumulation_steps)
