"""What is counted of a run's models, without numbers: parameters, and the bytes that a pass over an image keeps.

Counting builds the models on torch's meta device, and torch alone takes seconds to import. The counts of the recipes'
models are therefore recorded (recorded_counts.json, by `python -m tests.training.recorded_counts`). A run of another
model, or of other sources than those counted, is counted here and now. Read next: glotok_ray/training/counted.py
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.config.overrides import to_dict
from glotok_ray.config.runs import AnyGeneratorRun, GeneratorRun, TokenizerRun, XARRun
from glotok_ray.config.scaling import ScalingConfig
from glotok_ray.training.memory import ExpectedMemory, expected_memory

RECORDED = Path(__file__).with_name("recorded_counts.json")
# All of the package that a count depends on, beside what the key of a run holds.
_SOURCES = (
    "config/causal.py",
    "config/generator.py",
    "config/rq.py",
    "config/tokenizer.py",
    "config/var.py",
    "devices.py",
    "nn/*.py",
    "pretrained/feature_networks.py",
    "pretrained/generator.py",
    "pretrained/perceptual.py",
    "training/activations.py",
    "training/as_on_gpu.py",
    "training/counted.py",
    "training/counts.py",
    "training/example_inputs.py",
    "training/without_numbers.py",
)
_LIBRARIES = ("efficientnet-lite-pytorch", "lpips", "torch")


class Kept(NamedTuple):
    """Bytes that stay between the passes, parameters apart."""

    per_image: float
    once: float = 0.0
    """However large the batch is: weights that autocast has cast, and tables."""

    def of_batch(self, images: int) -> float:
        """Of one micro batch."""
        return self.once + images * self.per_image


class Counts(NamedTuple):
    """The models of a run."""

    sizes: tuple[int, ...]
    """Parameters of each: the first is the one that is trained for; a discriminator may follow."""
    modules: Mapping[str, int]
    """Parameters of the first, by part."""
    kept: Kept
    """By the forward passes of all networks, for their backward passes."""


def counts_of(run: TokenizerRun | GeneratorRun) -> Counts:
    """The recorded counts of the run's models, or those of a count that is made now, which takes seconds."""
    found = _recorded().get(key_of(run))
    if found is not None:
        return found
    from glotok_ray.training.counted import count_run

    return count_run(run).counts


def averaged_parameters(run: TokenizerRun | GeneratorRun, counts: Counts) -> int:
    """Parameters that have a moving average."""
    return counts.sizes[0] if run.ema_decay else 0


def exported_parameters(run: TokenizerRun | GeneratorRun, counts: Counts) -> int:
    """Parameters that each checkpoint also holds whole."""
    if isinstance(run, TokenizerRun):
        return sum(counts.sizes)
    # Checkpoints that are evaluated hold the weights for sampling.
    assert isinstance(run, AnyGeneratorRun)
    return counts.sizes[0] if run.checkpoint_evaluation.every_steps else 0


def memory_of(
    run: TokenizerRun | GeneratorRun, counts: Counts, scaling: ScalingConfig
) -> ExpectedMemory:
    """The memory of one of the run's workers under `scaling`."""
    workers = scaling.num_workers
    return expected_memory(
        list(counts.sizes),
        scaling,
        activations=counts.kept.of_batch(run.schedule.micro_batch(workers)),
        averaged=averaged_parameters(run, counts),
        accumulation_steps=run.schedule.accumulation_steps(workers),
        exported=exported_parameters(run, counts),
    )


# ---------------------------------------------------------------------------------------- recorded counts


def key_of(run: TokenizerRun | GeneratorRun) -> str:
    """The digest of all settings that the counts depend on."""
    assert isinstance(run, TokenizerRun | AnyGeneratorRun)
    scaling = run.scaling
    settings: dict[str, Any] = {
        "kind": type(run).__name__,
        "model": to_dict(run.model),
        "use_gpu": scaling.use_gpu,
        "precision": scaling.precision,
        "activation_checkpointing": scaling.activation_checkpointing,
    }
    if isinstance(run, TokenizerRun):
        settings["discriminator"] = to_dict(run.discriminator)
        network = run.loss.perceptual_network if run.loss.perceptual_weight else None
        settings["perceptual_network"] = network
    elif isinstance(run, XARRun):
        settings["context"] = run.flow.context
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def sources_digest() -> str:
    """The digest of what else the counts depend on: this package's sources and the versions of libraries."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for library in _LIBRARIES:
        # 2.14.0 and 2.14.0+cpu are built from the same sources.
        digest.update(f"{library} {version(library).partition('+')[0]}\0".encode())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    root = Path(__file__).parents[1]
    for pattern in _SOURCES:
        yield from sorted(root.glob(pattern))


@functools.cache
def _recorded() -> Mapping[str, Counts]:
    """By key; none where they were counted of other sources."""
    try:
        recorded = json.loads(RECORDED.read_text())
        if recorded["sources"] != sources_digest():
            return {}
    except (OSError, PackageNotFoundError):
        return {}
    return {
        key: Counts(tuple(item["sizes"]), item["modules"], Kept(*item["kept"]))
        for key, item in recorded["counts"].items()
    }
