"""Images of a generator: blocks of image ids through an actor pool, merged into samples.npz.

Image i has class i mod num_classes and noise keyed by (seed, i); the pool's size changes no pixel.
Read next: glotok_ray/sampling/flow.py
"""

import logging
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from jaxtyping import UInt8
from PIL import Image

from glotok_ray import artefact
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import SampleRun, with_absolute_paths
from glotok_ray.data.transforms import to_uint8
from glotok_ray.on_ray.actor_pool import actor_device, map_shards, open_output
from glotok_ray.sampling.flow import sample_latents
from glotok_ray.training.checkpoint import load_generator, load_tokenizer

logger = logging.getLogger(__name__)

GRID_ROWS, GRID_COLUMNS = 10, 8
Block = UInt8[np.ndarray, "b height width 3"]


class SampleActor:
    """Samples and decodes blocks of consecutive image ids."""

    def __init__(self, config: SampleRun, num_classes: int, latent_space: str) -> None:
        self._config, self._num_classes = config, num_classes
        self._device = actor_device(config.pool)
        self._generator = load_generator(
            Path(config.generator_path), use_ema=config.sampler.use_ema
        ).to(self._device)
        self._tokenizer = load_tokenizer(Path(config.tokenizer_path)).to(self._device)
        # Refined vectors already hold the residual, plain code vectors get it at decoding.
        self._refine = latent_space == "codes"

    @torch.inference_mode()
    def __call__(self, ids: range) -> Block:
        """The uint8 images of `ids`, in their order."""
        config = self._config
        labels = torch.tensor([image % self._num_classes for image in ids], device=self._device)
        latents = sample_latents(
            self._generator, labels, config.sampler, image_ids=ids, seed=config.seed
        )
        if config.sampler.snap == "on":
            latents = self._tokenizer.snap(latents)
        return to_uint8(self._tokenizer.decode_latents(latents, refine=self._refine))


def check_pair(generator: Path, tokenizer: Path) -> dict[str, Any]:
    """The generator's facts; raises ArtefactError when another tokenizer made its codes."""
    facts = artefact.read_json(generator / "generator.json")
    weights = tokenizer / "tokenizer.safetensors"
    if not weights.is_file():
        raise ArtefactError(
            f"{weights}: no such file; train a tokenizer first, or correct tokenizer_path"
        )
    found = artefact.sha256_of(weights)
    if facts["tokenizer_sha256"] != found:
        raise ArtefactError(
            f"{generator}: was trained on codes of the tokenizer with sha256 "
            f"{facts['tokenizer_sha256']}, but {tokenizer} has "
            f"sha256 {found}; pass the tokenizer_path of the run that made the generator's codes"
        )
    return facts


def run(config: SampleRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the folder of samples and return its manifest."""
    if config.num_images < 1:
        raise ValueError(f"num_images = {config.num_images}: must be at least 1")
    # Actors run in working directories of their own.
    located = with_absolute_paths(config)
    facts = check_pair(Path(located.generator_path), Path(located.tokenizer_path))
    output = open_output(
        "samples", config, [config.generator_path, config.tokenizer_path], fresh=fresh
    )
    if output.finished is not None:
        return output.finished
    num_classes = facts["model"]["num_classes"]
    arguments = {
        "config": located,
        "num_classes": num_classes,
        "latent_space": facts["flow"]["latent_space"],
    }
    size = config.pool.batch_size
    units = [
        range(start, min(start + size, config.num_images))
        for start in range(0, config.num_images, size)
    ]
    blocks = map_shards(
        units,
        SampleActor,
        arguments,
        config.pool,
        stage="sample",
        sizes=[len(unit) for unit in units],
    )
    grid = _write_images(output.folder / "samples.npz", blocks, config.num_images, num_classes)
    Image.fromarray(grid).save(output.folder / "grid.png")
    labels = np.arange(config.num_images) % num_classes
    columns = {
        "key": [f"{image:06d}" for image in range(config.num_images)],
        "label": labels.astype(np.int32),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), output.folder / "samples.parquet")
    return artefact.write_manifest(
        output.folder,
        "samples",
        output.fingerprint,
        num_images=config.num_images,
        classes=facts["classes"],
        tokenizer_sha256=facts["tokenizer_sha256"],
    )


def _write_images(path: Path, blocks: Iterable[Block], num_images: int, num_classes: int) -> Block:
    """Write samples.npz block by block, since 50,000 images are 10 GB; returns the grid."""
    grid = SampleGrid(num_classes)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as stream,
    ):
        for start, block in _with_starts(blocks):
            if start == 0:
                header = {
                    "descr": "|u1",
                    "fortran_order": False,
                    "shape": (num_images, *block.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(block.tobytes())
            grid.add(start, block)
    return grid.image()


def _with_starts(blocks: Iterable[Block]) -> Iterator[tuple[int, Block]]:
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)


class SampleGrid:
    """A picture with a row per class (at most 10) and its first images (at most 8) in it."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._tiles: dict[tuple[int, int], np.ndarray] = {}

    def add(self, start: int, block: Block) -> None:
        """Keep what belongs into the grid of images `start`, `start` + 1, ..."""
        for image, pixels in enumerate(block, start):
            column, row = divmod(image, self._num_classes)
            if row < GRID_ROWS and column < GRID_COLUMNS:
                self._tiles[row, column] = pixels

    def image(self) -> UInt8[np.ndarray, "height width 3"]:
        """The picture; places without an image are white."""
        rows, columns = (max(place[axis] for place in self._tiles) + 1 for axis in (0, 1))
        height, width, _ = self._tiles[0, 0].shape
        picture = np.full((rows * height, columns * width, 3), 255, np.uint8)
        for (row, column), pixels in self._tiles.items():
            picture[row * height : (row + 1) * height, column * width : (column + 1) * width] = (
                pixels
            )
        return picture
