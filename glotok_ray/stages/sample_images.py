"""Images of a generator: blocks of image ids through an actor pool, merged into samples.npz and samples.parquet.

Image i has class i mod num_classes and randomness keyed by (seed, i); the pool's size changes no pixel. Finished blocks
lie in the output folder's `blocks/` until the end, so a killed job goes on where it was.
Read next: glotok_ray/sampling/images.py
"""

import logging
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import UInt8
from PIL import Image

from glotok_ray.config.generator import FARConfig
from glotok_ray.config.jobs import AnySampleRun
from glotok_ray.config.overrides import bound_settings, to_dict, with_absolute_paths
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.samplers import TokenSamplerConfig
from glotok_ray.data.forms import CROP
from glotok_ray.data.records import SCHEMA, ShardInfo, encode_png, write_dataset
from glotok_ray.devices import chosen_device
from glotok_ray.pretrained.generator import (
    check_fit,
    check_scale,
    find_tokenizer,
    model_config,
    read_facts,
)
from glotok_ray.pretrained.tokenizer import code_layout, what_is_decoded
from glotok_ray.sampling.images import SAMPLERS, ImageGenerator
from glotok_ray.sampling.tokens import check_guidance
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.output import Unfinished
from glotok_ray.storage.places import remove_tree, to_path, writing

logger = logging.getLogger(__name__)

BLOCKS_FOLDER = "blocks"
IMAGES_FILE, TABLE_FILE = "samples.npz", "samples.parquet"
GRID_ROWS, GRID_COLUMNS = 10, 8
# Columns of image shards, so that samples can be read like a data set, and what each image was drawn with.
TABLE_SCHEMA = pyarrow.schema(
    [
        *SCHEMA,
        pyarrow.field("seed", pyarrow.int64(), nullable=False),
        pyarrow.field("image_id", pyarrow.int64(), nullable=False),
    ]
)
Block = UInt8[np.ndarray, "b height width 3"]


class SampleActor:
    """Samples and decodes blocks of consecutive image ids, and writes them into `folder`."""

    def __init__(self, config: AnySampleRun, folder: str) -> None:
        self._config, self._folder = config, to_path(folder)
        self._images = ImageGenerator.from_pretrained(
            config.generator_path,
            tokenizer_path=config.tokenizer_path or None,
            use_ema=config.sampler.use_ema,
        ).to(chosen_device(use_gpu=config.pool.use_gpu))

    def __call__(self, ids: range) -> None:
        """Write the uint8 images of `ids`, in their order."""
        path = block_path(self._folder, ids)
        # A job that goes on takes whatever lies here for finished, so it must never see half a file.
        with artefact.replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, self.sample(ids))

    def sample(self, ids: range) -> Block:
        """The images of `ids`; image i has class i mod num_classes."""
        labels = [image % self._images.num_classes for image in ids]
        return self._images.generate(
            labels, seed=self._config.seed, image_ids=ids, sampler=self._config.sampler
        )


@ownership.holding()
def run(config: AnySampleRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the folder of samples and return its manifest."""
    # Actors run in working directories of their own.
    config = with_absolute_paths(config)
    facts = check_inputs(config)
    inputs = [path for path in (config.generator_path, config.tokenizer_path) if path]
    samples = output.begin(
        config.output_path,
        "samples",
        bound_settings(config),
        inputs,
        fresh=fresh,
        unfinished=Unfinished.KEEP,
    )
    blocks_folder = samples.folder / BLOCKS_FOLDER
    if samples.finished is not None:
        remove_tree(blocks_folder, ignore_errors=True)
        return samples.finished
    # Blocks of other settings in the same output folder must not be taken for these.
    blocks = _blocks(blocks_folder / samples.fingerprint[:16], config)
    side = _write_samples(samples.folder, blocks, config, facts)
    table = samples.folder / TABLE_FILE
    digest = artefact.sha256_of(table)
    write_dataset(
        samples.folder,
        classes=facts["classes"],
        form=CROP,
        image_size=side,
        shards=[ShardInfo(TABLE_FILE, config.num_images, digest)],
        details={"source": "samples", "tokenizer_sha256": facts["tokenizer_sha256"]},
    )
    manifest = samples.finish(
        exclude=(BLOCKS_FOLDER,),
        known={TABLE_FILE: (table.stat().st_size, digest)},
        num_images=config.num_images,
        architecture=facts["architecture"],
        classes=facts["classes"],
        tokenizer_sha256=facts["tokenizer_sha256"],
        config=to_dict(config),
    )
    remove_tree(blocks_folder, ignore_errors=True)
    return manifest


def check_inputs(config: AnySampleRun) -> dict[str, Any]:
    """The generator's facts; raises ArtefactError when it is unfinished, of another architecture than the recipe's
    sampler, or made on codes of another tokenizer, and ValueError for guidance of a generator without a null label.
    """
    generator = to_path(config.generator_path)
    artefact.read_manifest(generator, "generator")
    facts = read_facts(generator)
    architecture, sampler = facts["architecture"], type(config.sampler).__name__
    needed = SAMPLERS[architecture]
    if not isinstance(config.sampler, needed):
        raise ArtefactError(
            f"sampler is a {sampler}, but {generator} holds a generator of architecture {architecture!r}, which needs "
            f"a {needed.__name__}; take a recipe of that architecture, or correct generator_path"
        )
    if config.tokenizer_path:
        artefact.read_manifest(to_path(config.tokenizer_path), "tokenizer")
    tokenizer = find_tokenizer(generator, config.tokenizer_path)
    model = model_config(generator)
    check_fit(model, what_is_decoded(tokenizer))
    if isinstance(model, FARConfig | RQConfig) and isinstance(config.sampler, TokenSamplerConfig):
        check_guidance(model, config.sampler)
    check_scale(generator)
    return facts


def image_side(config: AnySampleRun) -> int:
    """Side of the images that the samples will be, pixels."""
    tokenizer = find_tokenizer(to_path(config.generator_path), config.tokenizer_path)
    return code_layout(tokenizer).image_size


# ---------------------------------------------------------------------------------------- blocks


def block_path(folder: Path, ids: range) -> Path:
    """Where the block that begins with the first of `ids` lies."""
    return folder / f"{ids.start}.npy"


def _blocks(folder: Path, config: AnySampleRun) -> Iterator[Block]:
    """The blocks of all images in order, each as soon as it is there; those that are finished are not sampled again."""
    # Here, not above: Ray takes seconds to import, and --dry-run needs this module without it.
    from glotok_ray.on_ray.actor_pool import map_shards

    folder.mkdir(parents=True, exist_ok=True)
    size = config.pool.batch_size
    starts = range(0, config.num_images, size)
    units = [range(start, min(start + size, config.num_images)) for start in starts]
    missing = [unit for unit in units if not _is_finished(block_path(folder, unit), len(unit))]
    if len(missing) < len(units):
        logger.info("%d of %d blocks are finished already", len(units) - len(missing), len(units))
    arguments = {"config": config, "folder": str(folder)}
    sizes = [len(unit) for unit in missing]
    made = map_shards(missing, SampleActor, arguments, config.pool, stage="sample", sizes=sizes)
    return _in_order(units, set(missing), made, folder)


def _in_order(
    units: Sequence[range], missing: set[range], made: Iterator[None], folder: Path
) -> Iterator[Block]:
    for unit in units:
        if unit in missing:
            next(made)
        yield np.load(at_hand(block_path(folder, unit)), allow_pickle=False)
    # Past its last block the pool ends by itself instead of being cut off.
    next(made, None)


def _is_finished(path: Path, count: int) -> bool:
    """Whether a block of so many images lies there; one of another `pool.batch_size` has another number."""
    try:
        return len(np.load(at_hand(path), mmap_mode="r", allow_pickle=False)) == count
    except (OSError, ValueError):
        return False


# ---------------------------------------------------------------------------------------- what they become


def _write_samples(
    folder: Path,
    blocks: Iterable[Block],
    config: AnySampleRun,
    facts: dict[str, Any],
) -> int:
    """Write samples.npz and samples.parquet block by block, since 50,000 images are 10 GB, and the grid; returns the
    images' side.
    """
    num_classes = facts["model"]["num_classes"]
    grid, start, side = SampleGrid(num_classes), 0, 0
    # PNGs are what takes the driver's time; threads share it while the next block is sampled.
    with (
        writing(folder / IMAGES_FILE) as images_file,
        writing(folder / TABLE_FILE) as table_file,
        zipfile.ZipFile(images_file, "w", zipfile.ZIP_STORED) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as stream,
        pyarrow.parquet.ParquetWriter(
            table_file, TABLE_SCHEMA, compression="NONE", use_dictionary=False
        ) as table,
        ThreadPoolExecutor() as threads,
    ):
        for block in blocks:
            if start == 0:
                side = block.shape[1]
                shape = (config.num_images, *block.shape[1:])
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(block.tobytes())
            ids = range(start, start + len(block))
            table.write_table(_rows(ids, block, num_classes, config.seed, threads))
            grid.add(start, block)
            start = ids.stop
    with writing(folder / "grid.png") as local:
        Image.fromarray(grid.image()).save(local)
    return side


def _rows(
    ids: range, block: Block, num_classes: int, seed: int, threads: Executor
) -> pyarrow.Table:
    columns = {
        "key": [f"{image:06d}" for image in ids],
        "image": list(threads.map(encode_png, block)),
        "label": [image % num_classes for image in ids],
        "seed": [seed] * len(ids),
        "image_id": list(ids),
    }
    return pyarrow.table(columns, schema=TABLE_SCHEMA)


class SampleGrid:
    """An image with a row per class (at most 10) and its first images (at most 8) in it."""

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
        """The image; places without an image are white."""
        rows, columns = (max(place[axis] for place in self._tiles) + 1 for axis in (0, 1))
        height, width, _ = self._tiles[0, 0].shape
        canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
        for (row, column), pixels in self._tiles.items():
            canvas[row * height : (row + 1) * height, column * width : (column + 1) * width] = (
                pixels
            )
        return canvas
