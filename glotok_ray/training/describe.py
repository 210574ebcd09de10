"""What a training run would be, without starting it: parameters, steps, batches and memory.

Read next: glotok_ray/training/counted.py
"""

from typing import Any

from glotok_ray.config.overrides import override
from glotok_ray.config.runs import AnyGeneratorRun, GeneratorRun, TokenizerRun
from glotok_ray.config.scaling import ScalingConfig
from glotok_ray.data.recorded import crops_text
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage.artefact import MANIFEST, ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.training.counted import Counted, count_generator, count_tokenizer
from glotok_ray.training.inputs import check_present_inputs
from glotok_ray.training.memory import GIB, ExpectedMemory, count_parameters, expected_memory


def describe_tokenizer(run: TokenizerRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a tokenizer run; inputs that are there must fit it."""
    check_present_inputs(run)
    dataset = _present_dataset(run)
    counted = count_tokenizer(run)
    model, discriminator = counted.models
    assert isinstance(model, GloTokTokenizer)
    return {
        "parameters": count_parameters(model),
        "modules": model.module_parameters(),
        "discriminator_parameters": count_parameters(discriminator),
        "crops": crops_text(dataset) if dataset is not None else None,
        **_arithmetic(run, dataset),
        **_memory(counted, run),
    }


def describe_generator(run: AnyGeneratorRun) -> dict[str, Any]:
    """Parameters per module, batch arithmetic and memory of a generator run; inputs that are there must fit it."""
    check_present_inputs(run)
    counted = count_generator(run)
    (model,) = counted.models
    modules = {name: count_parameters(child) for name, child in model.named_children()}
    direct = {name: parameter.numel() for name, parameter in model.named_parameters(recurse=False)}
    return {
        "parameters": count_parameters(model),
        "modules": modules | direct,
        **_arithmetic(run, _present_dataset(run)),
        **_memory(counted, run),
        # The first worker gathers both sets of weights in fp32 before it writes them.
        "export_gib": round((8 if run.ema_decay else 4) * count_parameters(model) / GIB, 3),
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
        "total_steps": steps * schedule.epochs,
        "samples_seen": steps * schedule.epochs * schedule.global_batch_size,
        "global_batch_size": schedule.global_batch_size,
        "micro_batch_size": schedule.micro_batch(workers),
        "num_workers": workers,
        "accumulation_steps": schedule.accumulation_steps(workers),
    }


def _memory(counted: Counted, run: TokenizerRun | GeneratorRun) -> dict[str, Any]:
    """GiB per worker, of an elastic run also with the fewest and with the most workers."""
    scaling = run.scaling
    expected = _expected(counted, run, scaling)
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
            str(workers): _with_workers(counted, run, workers) for workers in scaling.worker_range
        }
    return {**found, "memory_note": note}


def _expected(
    counted: Counted, run: TokenizerRun | GeneratorRun, scaling: ScalingConfig
) -> ExpectedMemory:
    workers, schedule, averaged = scaling.num_workers, run.schedule, counted.averaged
    return expected_memory(
        counted.sizes,
        scaling,
        activations=counted.activations(schedule.micro_batch(workers)),
        averaged=count_parameters(averaged) if averaged is not None else 0,
        accumulation_steps=schedule.accumulation_steps(workers),
        exported=sum(count_parameters(model) for model in counted.exported),
    )


def _gib(expected: ExpectedMemory) -> dict[str, Any]:
    return {
        "memory_per_worker_gib": round(expected.total / GIB, 3),
        "memory_parts_gib": {
            name: round(value / GIB, 3) for name, value in expected.parts().items()
        },
        "checkpoint_host_gib": round(expected.checkpoint / GIB, 3),
    }


def _with_workers(
    counted: Counted, run: TokenizerRun | GeneratorRun, workers: int
) -> dict[str, Any]:
    """What a worker needs when there are so many of them: ZeRO's parts grow as they get fewer, and passes per step."""
    scaling = override(run.scaling, {"num_workers": workers, "min_workers": 0, "max_workers": 0})
    return {
        "micro_batch_size": run.schedule.micro_batch(workers),
        "accumulation_steps": run.schedule.accumulation_steps(workers),
        **_gib(_expected(counted, run, scaling)),
    }
