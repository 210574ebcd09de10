"""A run at other numbers of GPUs, on paper: memory, steps, days, network, ingest, and which of them binds.

Read next: glotok_ray/training/scale_table.py
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from glotok_ray.config.overrides import override
from glotok_ray.config.rules import require
from glotok_ray.config.runs import AnyGeneratorRun, GeneratorRun, TokenizerRun
from glotok_ray.config.training import ScalingConfig
from glotok_ray.training import gpu_kinds
from glotok_ray.training.counted import count_run, operations_per_image
from glotok_ray.training.counts import (
    Counts,
    averaged_parameters,
    exported_parameters,
    memory_of,
)
from glotok_ray.training.gpu_kinds import GPU, GPUS_PER_NODE, Measured
from glotok_ray.training.memory import GIB, ExpectedMemory

Run = TokenizerRun | GeneratorRun
STAGES = (0, 1, 2, 3)


class Needs(NamedTuple):
    """What a run needs wherever it runs."""

    run: Run
    counts: Counts
    operations: float
    """Of one image."""
    measured: Measured
    """The step on a GPU from which its speed is taken."""

    @property
    def host_s(self) -> float:
        """Seconds to launch one forward and backward pass."""
        if isinstance(self.run, TokenizerRun):
            return self.measured.host_s
        assert isinstance(self.run, AnyGeneratorRun)
        per_block = gpu_kinds.XAR_B.host_s / gpu_kinds.XAR_B.depth
        return per_block * self.run.model.depth


class Row(NamedTuple):
    """A run on so many GPUs."""

    asked: int
    gpus: int
    """The largest number up to `asked` that divides the batch."""
    micro_batch: int
    accumulation: int
    memory_gib: Mapping[int, float | None]
    """By ZeRO stage; None where the precision does not allow the stage."""
    checkpoint_gib: float
    """All files of one checkpoint."""
    steps: int
    seconds: Mapping[str, float]
    """Of a step, by what it waits for: gpu, host, network, ingest."""
    images_per_s: float
    days: float
    gpu_hours: float
    network_gb: float
    """Sent by each GPU in a step, 10^9 bytes."""
    ingest_capacity: float | None
    """Images per second that the CPUs beside the workers decode; None for codes, which need no decoding."""
    bound: str


def needs_of(run: Run) -> Needs:
    """Count a run; takes seconds."""
    # Memory and products are those of a GPU, whatever the recipe is made for.
    run = override(run, {"scaling.use_gpu": True})
    counted = count_run(run)
    measured = gpu_kinds.TOKENIZER
    if not isinstance(run, TokenizerRun):
        small = counted.counts.sizes[0] <= 2e8
        measured = gpu_kinds.XAR_B if small else gpu_kinds.XAR_H
    return Needs(run, counted.counts, operations_per_image(run, counted), measured)


def row_of(needs: Needs, asked: int, gpu: GPU) -> Row:
    """The run on at most `asked` GPUs; raises ValueError for a number below 1 or a run of unknown length."""
    require(asked >= 1, "--gpus", asked, "must be at least 1")
    run = needs.run
    images = run.data.num_train_images
    require(images > 0, "data.num_train_images", images, "must be given for a plan")
    batch = run.schedule.global_batch_size
    gpus = max(n for n in range(1, min(asked, batch) + 1) if batch % n == 0)
    accumulation = run.schedule.accumulation_steps(gpus)
    memory = {stage: _memory(needs, gpus, stage) for stage in STAGES}
    sent = _sent_bytes(needs, gpus, accumulation)
    capacity = _ingest_capacity(run, gpus, gpu)
    seconds = {
        "gpu": batch / gpus * needs.operations / (gpu.rate * needs.measured.busy_mfu),
        "host": accumulation * needs.host_s,
        "network": sent / (_bandwidth(gpus, gpu) * gpu_kinds.NETWORK_EFFICIENCY),
        "ingest": batch / capacity if capacity else 0.0,
    }
    step_s = max(max(seconds["gpu"], seconds["host"]) + seconds["network"], seconds["ingest"])
    steps = run.schedule.total_steps(run.schedule.steps_per_epoch(images))
    return Row(
        asked=asked,
        gpus=gpus,
        micro_batch=run.schedule.micro_batch(gpus),
        accumulation=accumulation,
        memory_gib={stage: found and found.total / GIB for stage, found in memory.items()},
        checkpoint_gib=_checkpoint_bytes(needs) / GIB,
        steps=steps,
        seconds=seconds,
        images_per_s=batch / step_s,
        days=steps * step_s / 86_400,
        gpu_hours=steps * step_s * gpus / 3600,
        network_gb=sent / 1e9,
        ingest_capacity=capacity,
        bound=_bound(memory, run.scaling, gpu, seconds),
    )


def _memory(needs: Needs, gpus: int, stage: int) -> ExpectedMemory | None:
    run = needs.run
    try:
        scaling = replace(run.scaling, num_workers=gpus, zero_stage=stage, engine="deepspeed")  # type: ignore[arg-type]
    except ValueError:  # bf16 weights without masters
        return None
    return memory_of(run, needs.counts, scaling)


def fits(memory_gib: float, gpu: GPU) -> bool:
    """Whether what is expected, and what measured peaks exceeded it by, fits onto the GPU."""
    return memory_gib * gpu_kinds.MEMORY_OVER_EXPECTED <= gpu.memory_gib


def _checkpoint_bytes(needs: Needs) -> float:
    """Masters and moments, average and what is exported: of all workers together, alike at every ZeRO stage."""
    run, counts = needs.run, needs.counts
    written = averaged_parameters(run, counts) + exported_parameters(run, counts)
    return 12 * sum(counts.sizes) + 4 * written


def _sent_bytes(needs: Needs, gpus: int, accumulation: int) -> float:
    """What each GPU sends in a step, by the rings of collectives: a reduction or a gathering of all parameters sends
    (n - 1) / n of their bytes once.
    """
    scaling = needs.run.scaling
    width = 2 if scaling.precision == "bf16" else 4
    whole = width * sum(needs.counts.sizes) * (gpus - 1) / gpus
    # Stage 2 reduces gradients in every pass, stage 3 also gathers the weights for the forward and the backward pass.
    times = {0: 2, 1: 2, 2: accumulation + 1, 3: 3 * accumulation}[scaling.zero_stage]
    return times * whole


def _bandwidth(gpus: int, gpu: GPU) -> float:
    return 1e9 * (gpu.within_gb_s if gpus <= GPUS_PER_NODE else gpu.between_gb_s)


def _ingest_capacity(run: Run, gpus: int, gpu: GPU) -> float | None:
    if not isinstance(run, TokenizerRun):
        return None
    spare = max(0.0, gpu.cpus - run.scaling.cpus_per_worker)
    return gpus * spare * gpu_kinds.DECODED_PER_CPU_S


def _bound(
    memory: Mapping[int, ExpectedMemory | None],
    scaling: ScalingConfig,
    gpu: GPU,
    seconds: Mapping[str, float],
) -> str:
    own = memory[scaling.zero_stage]
    assert own is not None
    if not fits(own.total / GIB, gpu):
        others = [
            str(stage)
            for stage, found in memory.items()
            if found is not None and fits(found.total / GIB, gpu)
        ]
        return f"memory (stage {' or '.join(others)} fits)" if others else "memory"
    return max(seconds, key=lambda name: seconds[name])
