"""How gradients become parameter updates: a plain torch optimizer, or DeepSpeed with ZeRO.

Both engines answer the same calls, so the same step runs in one plain process and on a cluster; a test compares losses.
This is the only module that names deepspeed. Read next: glotok_ray/training/tokenizer_step.py
"""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glotok_ray.config.training import OptimizerConfig, ScalingConfig
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.weights import DROP_CHECKPOINT, check_finite
from glotok_ray.training.deepspeed_config import deepspeed_config
from glotok_ray.training.partitions import (
    Part,
    columns_of,
    parts_of,
    working_weights_from_masters,
)
from glotok_ray.training.pieces import Columns, Stretch, add_pieces, read_buffers, read_pieces
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.torch_engine import (
    ADAM_MOMENTS,
    Engine,
    TorchEngine,
    autocast,
    gradient_norm,
    parameter_groups,
    persistent_buffers,
    without_gradients,
)

_PIECES = "engine"


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
        with _import_of_mlflow_refused():
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
        # At stage 0 the gradients are whole on every worker, and DeepSpeed keeps no norm of them.
        self._keeps_norm = hasattr(self._engine.optimizer, "_global_grad_norm")
        self.gradient_norm = torch.zeros((), device=self._engine.device)
        self._stage, self._clip = scaling.zero_stage, optimizer.gradient_clip
        assert self._keeps_norm == self.is_sharded, "else nobody would clip, or both"
        if self._engine.world_size == 1 and not self.is_sharded:
            # DeepSpeed would copy all gradients into one tensor and back, for nobody to add to them.
            self._engine.enable_backward_allreduce = False

    def __call__(self, *inputs: Any) -> Any:
        """The module's forward pass through DeepSpeed's hooks."""
        return self._engine(*inputs)

    def frozen(self, images: Tensor) -> Tensor:
        """The same pass beside DeepSpeed's own, which would prepare a reduction of gradients."""
        with without_gradients(self.module), autocast(images.device, self._precision):
            return self.module(images)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`; DeepSpeed divides by the accumulation steps."""
        self._engine.backward(loss)

    def step(self) -> None:
        """DeepSpeed counts the accumulation steps itself."""
        boundary = self._engine.is_gradient_accumulation_boundary()
        if boundary and not self._keeps_norm:
            self._measure_and_clip()
        self._engine.step()
        if boundary and self._keeps_norm:
            self.gradient_norm = self._norm_of_deepspeed()

    def _measure_and_clip(self) -> None:
        """DeepSpeed would take the norm once more, parameter by parameter, and average it over workers that all have
        the same. A gradient that is not finite is left out, as at other stages.
        """
        norm = gradient_norm(self.module.parameters())
        broken = ~norm.isfinite()
        self.gradient_norm = norm.masked_fill(broken, math.inf)
        # Where torch's own GradScaler tells it: fused Adam asks on the device, and the host waits for nothing.
        self._engine.optimizer.found_inf = broken.float()
        if self._clip:
            parameters = self.module.parameters()
            nn.utils.clip_grads_with_norm_(parameters, self._clip, self.gradient_norm)

    def _norm_of_deepspeed(self) -> Tensor:
        found = self._engine.get_global_grad_norm()
        if isinstance(found, Tensor):
            return found.detach().reshape(())
        # A number where it left the step out; filled on the device, so that the host waits for no copy.
        return torch.full((), float(found), device=self._engine.device)

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
        return [part.values for part in self._parts()]

    def stretches(self) -> list[Stretch]:
        """Where the shards lie in their parameters."""
        return [part.stretch for part in self._parts()]

    @property
    def is_sharded(self) -> bool:
        """Only at stage 0 every worker has everything."""
        return self._stage > 0

    @property
    def share(self) -> float:
        """Where this worker's parts begin, in the order of all."""
        return self._engine.global_rank / self._engine.world_size if self.is_sharded else 0.0

    def _parts(self) -> list[Part]:
        return parts_of(self.module, self._engine.optimizer, self._engine.global_rank)

    def _columns(self) -> Columns:
        optimizer = self._engine.optimizer
        return columns_of(self._parts(), getattr(optimizer, "optimizer", optimizer))

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
            for moment in ADAM_MOMENTS:
                state: Any = safe_get_full_optimizer_state(parameter, moment)
                state[rows] = 0
                safe_set_full_optimizer_state(parameter, state, moment)
        else:
            for moment in ADAM_MOMENTS:
                self._engine.optimizer.state[parameter][moment][rows] = 0
        gathered = deepspeed.zero.GatheredParameters(
            [parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")
        )
        with gathered:
            parameter.data[rows] = values.to(parameter.data)

    def snapshot(self, into: Snapshot) -> None:
        """Add this worker's part of masters and moments, in pieces that any number of workers can take up."""
        if self._engine.global_rank and not self.is_sharded:
            return
        buffers = persistent_buffers(self.module) if self._engine.global_rank == 0 else []
        add_pieces(
            into, _PIECES, self._engine.global_rank, self.stretches(), self._columns(), buffers
        )

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added, by whatever number of workers and at whatever stage."""
        if not (folder / f"{_PIECES}-0000.safetensors").is_file():
            raise ArtefactError(
                f"{folder}: holds no {_PIECES}-0000.safetensors: it was saved by another engine (scaling.engine) or by "
                "an older version of this package"
            )
        read_pieces(folder, _PIECES, self.stretches(), self._columns(), self.share)
        read_buffers(folder, _PIECES, persistent_buffers(self.module))
        check_finite(
            {part.stretch.name: part.values for part in self._parts()}, folder, DROP_CHECKPOINT
        )
        working_weights_from_masters(self._engine.optimizer)


@contextlib.contextmanager
def _import_of_mlflow_refused() -> Iterator[None]:
    """DeepSpeed's autotuner, of which nothing is used here, imports MLflow where it is installed, and does without it
    otherwise: two seconds of every worker's start.
    """
    if "mlflow" in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["mlflow"] = None  # Python's own sign for a module that must not be imported
    try:
        yield
    finally:
        del modules["mlflow"]


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
