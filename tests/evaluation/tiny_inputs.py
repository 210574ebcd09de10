"""What the tests of evaluations measure: an untrained tokenizer, and images, samples and codes for it."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from glotok_ray.config import (
    CodebookConfig,
    EvaluateRun,
    FARConfig,
    FlowConfig,
    VocabularyConfig,
    XARConfig,
    to_dict,
)
from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.nn.far import FAR
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.generator import copy_tokenizer, save_generator
from glotok_ray.storage import artefact
from tests.small_data import small_pool
from tests.small_models import VISUAL, tiny_tokenizer

TOKENIZER = tiny_tokenizer(VISUAL, CodebookConfig(name="semantic", size=32, width=4))
POSITIONS = 16
TINY_XAR = XARConfig(
    grid_size=4, cell_size=2, channels=8, width=16, depth=2, num_heads=1, num_classes=2
)
TINY_FAR = FARConfig(
    grid_size=4,
    # In another order than the tokenizer's.
    codebooks=(
        VocabularyConfig(name="semantic", size=32),
        VocabularyConfig(name="visual", size=32),
    ),
    width=16,
    depth=1,
    head_depth=1,
    num_heads=1,
    mlp_multiple=8,
    num_classes=2,
)


def write_codes(folder: Path, tokenizer: Path) -> None:
    """Eight images whose semantic codes are all 3 and whose visual codes are their position."""
    folder.mkdir()
    flat = {
        "semantic": np.full(8 * POSITIONS, 3, np.uint16),
        "visual": np.tile(np.arange(POSITIONS, dtype=np.uint16), 8),
    }
    columns = {
        name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values), POSITIONS)
        for name, values in flat.items()
    }
    columns["label"] = pyarrow.array(np.arange(8, dtype=np.int32) % 2)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "part-00000.parquet")
    facts = {
        "kind": "codes",
        "classes": ["a", "b"],
        "num_images": 8,
        "num_views": 1,
        "image_size": 16,
        "codebooks": {"visual": 32, "semantic": 32},
        "grid_size": 4,
        "tokenizer_sha256": artefact.sha256_of(tokenizer / "tokenizer.safetensors"),
        "shards": [{"file": "part-00000.parquet", "rows": 8, "sha256": "unchecked"}],
    }
    artefact.write_json(folder / "dataset.json", facts)
    artefact.write_manifest(folder, "codes")


def write_inputs(folder: Path) -> Path:
    """Folders validation (7 + 4 images), training (8 + 3 images), tokenizer, other_tokenizer, samples (6 images),
    codes, xar and far (generators, untrained). The first training image is the first sample.
    """
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, size=(17, 16, 16, 3), dtype=np.uint8)
    write_images(folder / "validation", images[:7], images[7:11])
    trained = np.random.default_rng(1).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    write_images(folder / "training", np.concatenate([images[11:12], trained[:7]]), trained[7:])
    torch.manual_seed(0)
    for name in ("tokenizer", "other_tokenizer"):
        (folder / name).mkdir()
        GloTokTokenizer(TOKENIZER).save_pretrained(folder / name)
        artefact.write_manifest(folder / name, "tokenizer")
    (folder / "samples").mkdir()
    np.savez(folder / "samples" / "samples.npz", arr_0=images[11:])
    digest = artefact.sha256_of(folder / "tokenizer" / "tokenizer.safetensors")
    describe_samples(folder / "samples", images[11:], ["a", "b"], digest)
    write_codes(folder / "codes", folder / "tokenizer")
    for architecture in ("xar", "far"):
        write_generator(folder / architecture, architecture, folder / "tokenizer")
    return folder


def write_generator(folder: Path, architecture: str, tokenizer: Path) -> None:
    """An untrained generator whose average differs from its weights."""
    model, average = (random_generator(architecture, seed=seed) for seed in (1, 2))
    flow = {"flow": to_dict(FlowConfig())} if architecture == "xar" else {}
    facts = {
        "architecture": architecture,
        "model": to_dict(model.config),
        "tokenizer_sha256": artefact.sha256_of(tokenizer / "tokenizer.safetensors"),
        "classes": ["a", "b"],
        **flow,
    }
    save_generator(folder, model.state_dict(), average.state_dict(), facts)
    copy_tokenizer(tokenizer, folder)
    artefact.write_manifest(folder, "generator")


def random_generator(architecture: str, *, seed: int) -> XAR | FAR:
    """A generator whose every weight is random: outputs that start at zero would not look at the labels."""
    torch.manual_seed(seed)
    model = XAR(TINY_XAR) if architecture == "xar" else FAR(TINY_FAR)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


def write_images(folder: Path, *parts: np.ndarray) -> None:
    """Shards of images whose classes a and b take turns."""
    folder.mkdir()
    images, start, shards = np.concatenate(parts), 0, []
    rows = [Row(f"{index}", encode_png(image), index % 2) for index, image in enumerate(images)]
    for number, part in enumerate(parts):
        path = folder / f"part-{number:05d}.parquet"
        shards.append(write_shard(path, rows[start : start + len(part)]))
        start += len(part)
    write_dataset(folder, classes=["a", "b"], form="crop", image_size=16, shards=shards, details={})
    artefact.write_manifest(folder, "shards")


@contextmanager
def recorded_precisions() -> Iterator[set[str]]:
    """The precisions that cuDNN's convolutions of fp32 numbers have while modules convolve within."""
    found: set[str] = set()

    def record(layer: nn.Module, _: object) -> None:
        if isinstance(layer, nn.Conv2d):
            found.add(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]

    hook = register_module_forward_pre_hook(record)
    try:
        yield found
    finally:
        hook.remove()


def copy_shards(folder: Path, to: Path, **facts: object) -> None:
    """The same shards with other facts of their own."""
    shutil.copytree(folder, to)
    (to / artefact.MANIFEST).unlink()
    artefact.write_json(to / "dataset.json", {**artefact.read_json(to / "dataset.json"), **facts})
    artefact.write_manifest(to, "shards")


def describe_samples(
    folder: Path, images: np.ndarray, classes: list[str], tokenizer_sha256: str
) -> None:
    """What the job that samples says of its images."""
    shard = write_shard(
        folder / "samples.parquet",
        [Row(str(index), encode_png(image), 0) for index, image in enumerate(images)],
    )
    write_dataset(folder, classes=classes, form="crop", image_size=16, shards=[shard], details={})
    artefact.write_manifest(
        folder, "samples", num_images=len(images), tokenizer_sha256=tokenizer_sha256
    )


def settings(inputs: Path, output: Path, **changes: object) -> EvaluateRun:
    config = EvaluateRun(
        tokenizer_path=str(inputs / "tokenizer"),
        data_path=str(inputs / "validation"),
        samples_path=str(inputs / "samples"),
        codes_path=str(inputs / "codes"),
        training_path=str(inputs / "training"),
        generator_path=str(inputs / "xar"),
        output_path=str(output),
        feature_size=32,
        uniformity_repeats=1,
        pool=small_pool(batch_size=5),
    )
    return dataclasses.replace(config, **changes)
