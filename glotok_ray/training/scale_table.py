"""The plan of runs as Markdown: a table per recipe, and every assumption with its source.

Read next: glotok_ray/training/scale.py
"""

from collections.abc import Iterator, Sequence

from glotok_ray.config.runs import TokenizerRun
from glotok_ray.training import gpu_kinds
from glotok_ray.training.gpu_kinds import GPU
from glotok_ray.training.scale import STAGES, Needs, Row, fits

_BOUNDS = {
    "gpu": "GPU",
    "host": "host: it launches too slowly",
    "network": "network",
    "ingest": "ingest",
}


def table(needs: Needs, rows: Sequence[Row], gpu: GPU, price: float) -> str:
    """A heading, a line of what does not change with the GPUs, and a row per number of GPUs.

    `price` is per GPU and hour, in any currency; 0 leaves the cost out.
    """
    columns = [
        "GPUs",
        "micro batch x passes",
        *(f"stage {stage}, GiB" for stage in STAGES),
        "step, s",
        "images/s",
        "days",
        "GPU hours",
        *(["cost"] if price else []),
        "sent per step, GB",
        "ingest: capacity / need",
        "bound",
    ]
    lines = [_line(columns), _line(["---"] * len(columns))]
    lines += [_line(_cells(needs, row, gpu, price)) for row in rows]
    return "\n".join([f"### {needs.run.name}", "", _facts(needs, rows[0]), "", *lines])


def _facts(needs: Needs, row: Row) -> str:
    schedule, scaling = needs.run.schedule, needs.run.scaling
    # Not schedule.epochs, before which schedule.num_steps may end the run.
    epochs = row.steps / schedule.steps_per_epoch(needs.run.data.num_train_images)
    sizes = " + ".join(f"{size:,}" for size in needs.counts.sizes)
    return (
        f"{sizes} parameters, {needs.operations / 1e9:,.0f} GFLOP per image;"
        f" {epochs:.4g} epochs of {needs.run.data.num_train_images:,} images in batches of"
        f" {schedule.global_batch_size:,}: {row.steps:,} steps;"
        f" ZeRO stage {scaling.zero_stage}, {scaling.precision}; a checkpoint has {row.checkpoint_gib:.1f} GiB."
    )


def _cells(needs: Needs, row: Row, gpu: GPU, price: float) -> Iterator[str]:
    yield str(row.gpus) if row.gpus == row.asked else f"{row.gpus} of {row.asked}"
    yield f"{row.micro_batch} x {row.accumulation}"
    for stage in STAGES:
        found = row.memory_gib[stage]
        text = "-" if found is None else f"{found:.1f}{'' if fits(found, gpu) else ' (too much)'}"
        yield f"**{text}**" if stage == needs.run.scaling.zero_stage else text
    yield f"{row.days * 86_400 / row.steps:.3g}"
    yield f"{row.images_per_s:,.0f}"
    yield f"{row.days:.1f}"
    yield f"{row.gpu_hours:,.0f}"
    if price:
        yield f"{row.gpu_hours * price:,.0f}"
    yield f"{row.network_gb:.2f}"
    yield _ingest(row)
    yield _BOUNDS.get(row.bound, row.bound)


def _ingest(row: Row) -> str:
    if row.ingest_capacity is None:
        return "codes"
    need = row.images_per_s
    return f"{row.ingest_capacity:,.0f} / {need:,.0f} images/s"


def _line(cells: Sequence[str] | Iterator[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def assumptions(all_needs: Sequence[Needs], gpu: GPU, price: float) -> str:
    """Every number that the tables rest on, as a list."""
    speeds = {needs.measured.recipe: needs.measured for needs in all_needs}
    lines = [
        f"GPU: {gpu.name}, {gpu.memory_gib:g} GiB, {gpu.rate / 1e12:g} TFLOP/s dense bf16"
        f" (training/device_rates.py); {gpu_kinds.GPUS_PER_NODE} per node; {gpu.within_gb_s:g} GB/s to GPUs of its"
        f" node, {gpu.between_gb_s:g} GB/s to others, {gpu.cpus:g} CPUs each ({gpu.source}).",
        *(
            f"Speed like {found.recipe} on one H200 (docs/gpu_figures.md): {found.images_per_s:g} images/s at"
            f" {found.images} a step, MFU {found.mfu:g}, the GPU at work {found.busy:.0%} of the time; so"
            f" {found.busy_mfu:.3f} of the peak rate while it works, which is taken for {_users(all_needs, found)}."
            for found in speeds.values()
        ),
        "An H200 has 4.8 TB/s of memory bandwidth; a GPU with less (an H100: 3.35) is slower than these numbers where"
        " it is the GPU that binds.",
        "The host launches a pass in the time of a measured step where the GPU waited:"
        f" {gpu_kinds.TOKENIZER.host_s:.3f} s for a tokenizer,"
        f" {gpu_kinds.XAR_B.host_s / gpu_kinds.XAR_B.depth:.4f} s for each block of a generator (xar_b's).",
        "Memory is what `--dry-run` expects (training/memory.py); it fits when"
        f" {gpu_kinds.MEMORY_OVER_EXPECTED:.2f} times as much does, the largest excess measured (docs/gpu_figures.md).",
        f"Collectives reach {gpu_kinds.NETWORK_EFFICIENCY:.0%} of a link's rate (a guess), and no step overlaps them"
        " with work, which makes days an upper bound in this respect. Nothing was run on several GPUs.",
        f"A CPU decodes {gpu_kinds.DECODED_PER_CPU_S:g} ImageNet originals of {gpu_kinds.ORIGINAL_KB:g} KB a second"
        f" (docs/full_size_runs.md, lower end); workers keep {_cpus(all_needs)} CPUs each for themselves.",
        "Evaluations, checkpoints, restarts and start-up are not counted.",
        *_codes(all_needs),
    ]
    if price:
        lines.append(
            f"Cost: {price:g} per GPU and hour, as given by --price; head and storage are extra."
        )
    return "\n".join(f"- {line}" for line in lines)


def _users(all_needs: Sequence[Needs], measured: object) -> str:
    return ", ".join(needs.run.name for needs in all_needs if needs.measured == measured)


def _cpus(all_needs: Sequence[Needs]) -> str:
    counts = {f"{needs.run.scaling.cpus_per_worker:g}" for needs in all_needs}
    return " or ".join(sorted(counts))


def _codes(all_needs: Sequence[Needs]) -> Iterator[str]:
    names = [needs.run.name for needs in all_needs if not isinstance(needs.run, TokenizerRun)]
    if names:
        yield (
            f"Generators ({', '.join(names)}) read codes, two bytes per position and codebook, which need no decoding;"
            " how fast they are read was not measured at this scale."
        )
