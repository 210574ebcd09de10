"""What a training run would be, without starting it: parameters, steps, batches and memory.

No torch is imported where the counts are recorded. Read next: glotok_ray/training/counts.py
"""

from typing import Any

from glotok_ray.config.overrides import override
from glotok_ray.config.runs import AnyGeneratorRun, GeneratorRun, TokenizerRun
from glotok_ray.data.recorded import crops_text
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.storage.artefact import MANIFEST, ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.training.counts import Counts, counts_of, memory_of
from glotok_ray.training.memory import GIB, ExpectedMemory
from glotok_ray.training.present_inputs import check_present_inputs


def describe_tokenizer(run: TokenizerRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a tokenizer run; inputs that are there must fit it."""
    check_present_inputs(run)
    dataset = _present_dataset(run)
    counts = counts_of(run)
    parameters, discriminator_parameters = counts.sizes
    return {
        "parameters": parameters,
        "modules": counts.modules,
        "discriminator_parameters": discriminator_parameters,
        "crops": crops_text(dataset) if dataset is not None else None,
        **_arithmetic(run, dataset),
        **_memory(counts, run),
    }


def describe_generator(run: AnyGeneratorRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a generator run; inputs that are there must fit it."""
    check_present_inputs(run)
    counts = counts_of(run)
    (parameters,) = counts.sizes
    return {
        "parameters": parameters,
        "modules": counts.modules,
        **_arithmetic(run, _present_dataset(run)),
        **_memory(counts, run),
        # The first worker gathers both sets of weights in fp32 before it writes them.
        "export_gib": round((8 if run.ema_decay else 4) * parameters / GIB, 3),
    }


def _present_dataset(run: TokenizerRun | GeneratorRun) -> DatasetInfo | None:
    """The facts of the data to train on; None as long as there are none."""
    folder = to_path(run.data.train_path)
    return read_dataset(folder) if (folder / MANIFEST).is_file() else None


def _images(run: TokenizerRun | GeneratorRun, dataset: DatasetInfo | None) -> int:
    if run.data.num_train_images:
        return run.data.num_train_images
    if dataset is None:
        raise ArtefactError(
            f"data.num_train_images = 0 and {run.data.train_path} holds no data yet; give the number, or build "
            "the data first"
        )
    return dataset.num_images


def _arithmetic(run: TokenizerRun | GeneratorRun, dataset: DatasetInfo | None) -> dict[str, Any]:
    schedule, workers = run.schedule, run.scaling.num_workers
    images = _images(run, dataset)
    steps = schedule.steps_per_epoch(images)
    return {
        "num_images": images,
        "steps_per_epoch": steps,
        "total_steps": schedule.total_steps(steps),
        "samples_seen": schedule.total_steps(steps) * schedule.global_batch_size,
        "global_batch_size": schedule.global_batch_size,
        "micro_batch_size": schedule.micro_batch(workers),
        "num_workers": workers,
        "accumulation_steps": schedule.accumulation_steps(workers),
    }


def _memory(counts: Counts, run: TokenizerRun | GeneratorRun) -> dict[str, Any]:
    """GiB per worker, of an elastic run also with the fewest and with the most workers."""
    scaling = run.scaling
    expected = memory_of(run, counts, scaling)
    note = (
        f"ZeRO stage {scaling.zero_stage} over {scaling.num_workers} workers, {scaling.precision}. The parts are not "
        "there all at once: start comes before training, update after activations and buckets. Activations are what "
        "autograd keeps (of recomputing blocks their inputs), on a GPU of the perceptual network too. Without "
        "kernels' workspaces, weights of frozen networks and fragmentation. Checkpoints are written from copies in "
        "host memory: checkpoint_host_gib on the first worker. A run reports its own peak as memory/peak_gib"
    )
    found = _gib(expected)
    if scaling.is_elastic:
        note += (
            ". The number of workers may change: memory_by_workers has the least and the most, and every worker must "
            "have room for the larger"
        )
        found["memory_by_workers"] = {
            str(workers): _with_workers(counts, run, workers) for workers in scaling.worker_range
        }
    return {**found, "memory_note": note}


def _gib(expected: ExpectedMemory) -> dict[str, Any]:
    return {
        "memory_per_worker_gib": round(expected.total / GIB, 3),
        "memory_parts_gib": {
            name: round(value / GIB, 3) for name, value in expected.parts().items()
        },
        "checkpoint_host_gib": round(expected.checkpoint / GIB, 3),
    }


def _with_workers(counts: Counts, run: TokenizerRun | GeneratorRun, workers: int) -> dict[str, Any]:
    """What a worker needs when there are so many of them: ZeRO's parts grow as they get fewer, and passes per step."""
    scaling = override(run.scaling, {"num_workers": workers, "min_workers": 0, "max_workers": 0})
    return {
        "micro_batch_size": run.schedule.micro_batch(workers),
        "accumulation_steps": run.schedule.accumulation_steps(workers),
        **_gib(memory_of(run, counts, scaling)),
    }
