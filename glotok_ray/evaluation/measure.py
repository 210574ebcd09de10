"""The measurement of blocks of images: features, scores and codes of each, in the process of one actor.

Read next: glotok_ray/evaluation/metrics.py
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import torch
from jaxtyping import Float, Int32, Int64, UInt8
from torch import Tensor

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.data.codes import stored_codes
from glotok_ray.data.pixel_range import to_model_range, to_uint8
from glotok_ray.data.shard_reader import read_chosen_rows, read_shard_rows, view_batches
from glotok_ray.data.transforms import center_crop
from glotok_ray.devices import chosen_device
from glotok_ray.evaluation.features import POOLED, EfficientNetLite0Features, FeatureExtractor
from glotok_ray.evaluation.generator_loss import Codes, build_generator_loss
from glotok_ray.evaluation.inputs import encoding_tokenizer
from glotok_ray.evaluation.plan import SAMPLES, TRAINING, VALIDATION, Block
from glotok_ray.evaluation.retention import decoded_alone, has_retention
from glotok_ray.evaluation.sample_files import read_images
from glotok_ray.metrics.reconstruction import psnr, ssim
from glotok_ray.pretrained.tokenizer import load_tokenizer, read_tokenizer

logger = logging.getLogger(__name__)

KEPT_IMAGES = 32
"""First images of a kind that are kept for grids."""
LABELS = "labels"
"""Array of the class numbers of validation and training crops, and of those that samples were drawn for."""

Images = UInt8[np.ndarray, "b h w 3"]
Labels = Int32[np.ndarray, " b"]


class MeasuredBlock(NamedTuple):
    """What one block contributes; arrays are empty where the kind has no such part."""

    kind: str
    features: Float[np.ndarray, "b d"]
    arrays: dict[str, np.ndarray]
    """LABELS, the arrays of GeneratorLoss, "reconstruction_features", "psnr", "ssim", codes under their codebook's
    name, and kept images "inputs", "reconstructions", "images". Where there are several codebooks, each one's PSNR when
    it is decoded alone ("retention_NAME_psnr") and kept images of that ("retention_NAME").
    """


def build_measurement(config: EvaluateRun, *, image_size: int) -> "BlockMeasurement":
    """The measurement of a run on the device of this process."""
    device = chosen_device(use_gpu=config.pool.use_gpu)
    extractor = EfficientNetLite0Features(input_side=config.feature_size, device=device)
    return BlockMeasurement(config, extractor, image_size=image_size)


class BlockMeasurement:
    """Reconstructs, decodes and measures blocks with one tokenizer and one feature network, on the network's device."""

    def __init__(
        self,
        config: EvaluateRun,
        extractor: FeatureExtractor,
        *,
        image_size: int,
        kept_images: int = KEPT_IMAGES,
    ) -> None:
        self._config, self._extractor = config, extractor
        self._image_size, self._kept_images = image_size, kept_images
        self._tokenizer = self._generator_loss = None
        if encoding := encoding_tokenizer(config):
            # The copy that lies with a generator is a part of the generator's folder.
            load = load_tokenizer if config.tokenizer_path else read_tokenizer
            self._tokenizer = load(encoding).to(extractor.device)
        if config.generator_path:
            assert self._tokenizer is not None
            self._generator_loss = build_generator_loss(config, self._tokenizer)
        logger.info(
            "features: %d numbers of %s (weights %s), %s",
            extractor.outputs[POOLED],
            extractor.name,
            extractor.weights_sha256[:12],
            extractor.input_contract,
        )

    @torch.inference_mode()
    def __call__(self, blocks: Sequence[Block]) -> list[MeasuredBlock]:
        """Measure blocks of one kind; those of validation images must be adjacent blocks of one shard, and those of
        training crops blocks of one shard.
        """
        if blocks[0].kind == VALIDATION:
            return list(self._validation(blocks))
        if blocks[0].kind == TRAINING:
            return list(self._training(blocks))
        return [self._drawn(block) for block in blocks]

    def _drawn(self, block: Block) -> MeasuredBlock:
        """A block of samples, or of images decoded from a baseline's codes."""
        folder = Path(self._config.samples_path)
        if block.kind == SAMPLES:
            images = read_images(folder / "samples.npz", block.start, block.stop)
            rows = self._rows(folder / "samples.parquet", [block], ("label",))
            labels = rows["label"].to_numpy()
            return MeasuredBlock(block.kind, self._extractor(images)[POOLED], {LABELS: labels})
        images = self._decode(block)
        kept = {"images": images[: self._kept(block)]}
        return MeasuredBlock(block.kind, self._extractor(images)[POOLED], kept)

    def _kept(self, block: Block) -> int:
        return max(0, self._kept_images - block.first_image)

    def _rows(self, path: Path, blocks: Sequence[Block], columns: Sequence[str]) -> pyarrow.Table:
        """The rows of adjacent blocks of one shard."""
        minutes = self._config.pool.storage_retry_minutes
        return read_shard_rows(
            path, blocks[0].start, blocks[-1].stop, minutes=minutes, columns=columns
        )

    def _crops(self, rows: pyarrow.Table, batch_size: int) -> Iterator[Images]:
        """The centre crops of the rows in batches; threads decode ahead of the device, past the ends of batches."""
        return view_batches(
            rows,
            lambda image: center_crop(image, self._image_size)[np.newaxis],
            1,
            batch_size=batch_size,
            num_threads=self._config.pool.decoding_threads,
        )

    def _validation(self, blocks: Sequence[Block]) -> Iterator[MeasuredBlock]:
        first = blocks[0]
        path = Path(self._config.data_path) / first.file
        rows = self._rows(path, blocks, ("key", "image", "label"))
        labels = rows["label"].to_numpy()
        crops = self._crops(rows, first.stop - first.start)
        for block, images in zip(blocks, crops, strict=True):
            own = labels[block.start - first.start : block.stop - first.start]
            yield self._measured(block, images, own)

    def _training(self, blocks: Sequence[Block]) -> Iterator[MeasuredBlock]:
        path = Path(self._config.training_path) / blocks[0].file
        chosen = np.concatenate([block.rows for block in blocks if block.rows is not None])
        minutes = self._config.pool.storage_retry_minutes
        rows = read_chosen_rows(path, chosen, minutes=minutes)
        labels = rows["label"].to_numpy()
        size = blocks[0].stop - blocks[0].start
        for number, images in enumerate(self._crops(rows, size)):
            own = labels[number * size :][: len(images)]
            yield MeasuredBlock(TRAINING, self._extractor(images)[POOLED], {LABELS: own})

    def _measured(self, block: Block, images: Images, labels: Labels) -> MeasuredBlock:
        """A block of validation images, with what tokenizer and generator make of them where there are such."""
        features, arrays = self._extractor(images)[POOLED], {LABELS: labels}
        if self._tokenizer is not None:
            reconstructs = bool(self._config.tokenizer_path)
            # What it makes of codes that do not exist, the reconstruction's own check finds.
            encode = self._tokenizer.look_up if reconstructs else self._tokenizer.encode
            codes = encode(to_model_range(images, self._extractor.device))
            if reconstructs:
                arrays |= self._reconstructed(block, images, codes)
            if self._generator_loss is not None:
                ids = range(block.first_image, block.first_image + len(images))
                arrays |= self._generator_loss(Codes(codes, labels, ids))
        return MeasuredBlock(block.kind, features, arrays)

    def _reconstructed(
        self, block: Block, images: Images, codes: Int64[Tensor, "b k h w"]
    ) -> dict[str, np.ndarray]:
        """What the measured tokenizer made of a block."""
        assert self._tokenizer is not None
        reconstructions = to_uint8(self._tokenizer.images_of(codes))
        model = self._tokenizer.config
        stored = stored_codes(codes.flatten(2).transpose(0, 1).cpu().numpy(), model)
        kept = self._kept(block)
        arrays: dict[str, Any] = {
            "reconstruction_features": self._extractor(reconstructions)[POOLED],
            "psnr": psnr(images, reconstructions),
            "ssim": ssim(images, reconstructions),
            "inputs": images[:kept],
            "reconstructions": reconstructions[:kept],
        }
        arrays |= self._retained(images, codes, kept)
        return arrays | dict(zip(model.names, stored, strict=True))

    def _retained(
        self, images: Images, codes: Int64[Tensor, "b k h w"], kept: int
    ) -> dict[str, np.ndarray]:
        """What is left of a block in each codebook alone."""
        assert self._tokenizer is not None
        arrays: dict[str, np.ndarray] = {}
        if has_retention(self._tokenizer.config):
            for name, decoded in decoded_alone(self._tokenizer, codes).items():
                alone = to_uint8(decoded)
                arrays[f"retention_{name}_psnr"] = psnr(images, alone)
                arrays[f"retention_{name}"] = alone[:kept]
        return arrays

    def _decode(self, block: Block) -> Images:
        assert self._tokenizer is not None
        assert block.codes is not None
        side = self._tokenizer.config.autoencoder.grid_size
        codes = torch.from_numpy(block.codes.astype(np.int64)).to(self._extractor.device)
        return to_uint8(self._tokenizer.images_of(codes.unflatten(2, (side, side))))


class Merged(NamedTuple):
    """All blocks of one kind, in image order."""

    features: Float[np.ndarray, "n d"]
    arrays: dict[str, np.ndarray]


def merge(measured: Iterable[MeasuredBlock]) -> dict[str, Merged]:
    """Results by kind, in the blocks' order."""
    found: dict[str, list[MeasuredBlock]] = {}
    for block in measured:
        found.setdefault(block.kind, []).append(block)
    merged = {}
    for kind, parts in found.items():
        names = parts[0].arrays
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
        merged[kind] = Merged(np.concatenate([part.features for part in parts]), arrays)
    return merged
