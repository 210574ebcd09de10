"""The memory that a worker of a training run can be expected to need.

It follows what DeepSpeed 0.19.8 and torch's Adam allocate; `benchmarks.full_size` compares it with the peaks that
workers report. Read next: glotok_ray/training/peak_memory.py
"""

from dataclasses import dataclass

from glotok_ray.config.training import ScalingConfig

GIB = 2.0**30
# Code that DeepSpeed imports as it makes an engine, compilers among it; measured.
_LIBRARIES = 0.22 * GIB
# Stage 0 reduces gradients in copies of this size, which no setting changes.
_UNSHARDED_BUCKET = 500_000_000


@dataclass(frozen=True, kw_only=True)
class ExpectedMemory:
    """Bytes on the worker that needs most, by what they are for; not all are held at once."""

    weights: float
    """What the forward pass computes with."""
    gradients: float
    """As the backward pass leaves them."""
    optimizer: float
    """Adam's moments and, where there are some, fp32 masters."""
    average: float
    """The exponential moving average."""
    activations: float
    """What autograd keeps of one micro batch."""
    buckets: float
    """Gradients on their way to other workers and, under ZeRO 3, weights on their way from them."""
    update: float
    """Temporaries of the optimizer's step and of the gathering of its result."""
    start: float
    """Whole weights in fp32 and their copy in the engine's layout, before the optimizer has any state."""
    libraries: float
    """Code that the engine loads; counted where resident memory is."""
    gradients_move: bool
    """Gradients take the place of activations as the backward pass goes on; else they are there before it."""
    stepped_gradients: float
    """What remains of the gradients when the optimizer steps."""
    checkpoint: float
    """Copies in host memory of what the worker with most to write, the first, writes at a checkpoint."""
    on_host: bool
    """Host memory is what is counted, copies for a checkpoint too; they stay from the first one on."""

    @property
    def total(self) -> float:
        """The largest of the start, of what a backward pass holds and of what the optimizer's step holds."""
        kept = self.weights + self.optimizer + self.average
        kept += self.checkpoint if self.on_host else 0.0
        passing = (max if self.gradients_move else _sum)(self.gradients, self.activations)
        busy = max(passing + self.buckets, self.stepped_gradients + self.update)
        return self.libraries + max(self.start, kept + busy)

    def parts(self) -> dict[str, float]:
        """Bytes by part."""
        names = ("weights", "gradients", "optimizer", "average", "activations", "buckets", "update")
        more = ("start", "libraries", *(("checkpoint",) if self.on_host else ()))
        return {name: getattr(self, name) for name in (*names, *more)}


def _sum(first: float, second: float) -> float:
    return first + second


def expected_memory(
    sizes: list[int],
    scaling: ScalingConfig,
    *,
    activations: float,
    averaged: int,
    accumulation_steps: int,
    exported: int = 0,
) -> ExpectedMemory:
    """The memory of one worker that trains models of `sizes` parameters, one engine each.

    `activations` are bytes of one micro batch, `averaged` the parameters that have an average, `exported` those that a
    checkpoint also holds whole, in fp32. Kernels' workspaces, frozen networks and fragmentation are not in it.
    """
    stage = scaling.zero_stage if scaling.engine == "deepspeed" else 0
    workers, on_cpu = scaling.num_workers, not scaling.use_gpu
    width = 2 if scaling.precision == "bf16" else 4
    parameters, largest = sum(sizes), max(sizes)
    part = parameters / workers
    # Under ZeRO there are masters, of fp32 weights as well.
    state = 12 if stage >= 1 else 8
    gradients = width * (part if stage >= 2 else parameters)
    optimizer = state * (part if stage >= 1 else parameters)
    average = 4 * averaged / (workers if stage >= 1 else 1)
    # Under ZeRO 3 the weights are written as the optimizer's masters alone.
    written = (0 if stage == 3 else width * parameters) + optimizer + average
    return ExpectedMemory(
        weights=width * (part if stage == 3 else parameters),
        gradients=gradients,
        optimizer=optimizer,
        average=average,
        activations=activations,
        buckets=_bucket_bytes(largest, scaling, stage, width),
        update=_update_bytes(largest, scaling, stage, width),
        start=4 * parameters + _layout_copy(largest, workers, stage, width),
        libraries=_LIBRARIES if on_cpu and scaling.engine == "deepspeed" else 0.0,
        gradients_move=stage < 3 and accumulation_steps == 1,
        stepped_gradients=min(gradients, width * part) if stage >= 1 else gradients,
        checkpoint=written + 4 * exported,
        on_host=on_cpu,
    )


def _bucket_bytes(parameters: int, scaling: ScalingConfig, stage: int, width: int) -> float:
    """Copies of at most one bucket of numbers that are alive together."""
    if scaling.engine == "torch":
        return 0.0
    if stage == 0:
        return width * min(parameters, _UNSHARDED_BUCKET)
    # Gradients as they come in, and the copy that is reduced; gloo works on one more when it scatters.
    copies = 2 if stage < 3 else 3 if scaling.use_gpu else 4
    return copies * width * min(parameters, scaling.bucket_elements)


def _update_bytes(parameters: int, scaling: ScalingConfig, stage: int, width: int) -> float:
    """Fp32 gradients of what is updated at once, and on a CPU two more such tensors inside torch's Adam.

    Under ZeRO 3 a bucket's worth is updated at once, in other stages with masters all that a worker has to update.
    """
    if stage == 0:
        # Parameter by parameter on a CPU, in one fused kernel on a GPU; the plain engine takes the roots of all at once
        # there.
        return 4.0 * parameters if scaling.engine == "torch" and scaling.use_gpu else 0.0
    group = parameters / scaling.num_workers
    if stage == 3:
        group = min(group, scaling.bucket_elements)
    step = (4 if scaling.use_gpu else 12) * group
    # Gloo gathers into a copy, NCCL in place.
    gather = width * parameters if stage < 3 and not scaling.use_gpu else 0
    return max(step, gather)


def _layout_copy(parameters: int, workers: int, stage: int, width: int) -> float:
    """The weights once more, as DeepSpeed casts or flattens the whole model before it lets go of it."""
    if width == 2:
        return 2.0 * parameters
    return {0: 0.0, 3: 4.0 * parameters / workers}.get(stage, 4.0 * parameters)
