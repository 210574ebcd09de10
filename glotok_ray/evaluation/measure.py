"""The measurement of blocks of images: features, scores and codes of each, in the process of one actor.

Read next: glotok_ray/evaluation/units.py
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.data.codes import stored_codes
from glotok_ray.data.pixel_range import to_model_range, to_uint8
from glotok_ray.data.shard_reader import read_chosen_rows, read_shard_rows, view_batches
from glotok_ray.data.transforms import center_crop
from glotok_ray.devices import full_precision
from glotok_ray.evaluation.array_names import (
    GREY,
    LABELS,
    LPIPS,
    RECONSTRUCTION,
    array_name,
    error_parts,
    of_reconstructions,
    retention_pictures,
    retention_psnr,
)
from glotok_ray.evaluation.baseline_images import BaselineCodes, read_counts
from glotok_ray.evaluation.error_metrics import MID_GREY
from glotok_ray.evaluation.features import FeatureExtractor
from glotok_ray.evaluation.generator_loss import Codes, build_generator_loss
from glotok_ray.evaluation.inputs import encoding_tokenizer, takes_training_codes
from glotok_ray.evaluation.lpips_distance import LPIPSDistance
from glotok_ray.evaluation.parts import MeasuredBlock
from glotok_ray.evaluation.plan import DECODED, REFERENCE, SAMPLES, TRAINING, VALIDATION, Block
from glotok_ray.evaluation.retention import decoded_alone
from glotok_ray.evaluation.sample_files import read_images, unpacked
from glotok_ray.evaluation.sample_inputs import SampleReader
from glotok_ray.metrics.error_parts import squared_error_parts
from glotok_ray.metrics.reconstruction import psnr, ssim
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.tokenizer_protocol import Codes as TokenizerCodes
from glotok_ray.nn.tokenizer_protocol import grids_of
from glotok_ray.pretrained.tokenizer import code_layout, load_any_tokenizer, read_any_tokenizer
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)

KEPT_IMAGES = 32
"""First images of a kind that are kept for grids."""

Images = UInt8[np.ndarray, "b h w 3"]


def features_of(
    extractors: Sequence[FeatureExtractor], images: Images
) -> dict[str, Float[np.ndarray, "b d"]]:
    """What feature networks make of images, by the name of the array."""
    return {
        array_name(extractor.key, output): values
        for extractor in extractors
        for output, values in extractor(images).items()
    }


class BlockMeasurement:
    """Reconstructs, decodes and measures blocks with one tokenizer and some feature networks, on their device."""

    def __init__(
        self,
        config: EvaluateRun,
        extractors: Sequence[FeatureExtractor],
        *,
        image_size: int,
        kept_images: int = KEPT_IMAGES,
        folder: Path | None = None,
        lpips: LPIPSDistance | None = None,
        measures_retention: bool = True,
    ) -> None:
        """Without `measures_retention` nothing is decoded from one codebook alone."""
        self._config, self._extractors, self._lpips = config, extractors, lpips
        self._measures_retention = measures_retention
        self._device = extractors[0].device
        self._image_size, self._kept_images = image_size, kept_images
        self._folder = folder
        self._baseline_codes: BaselineCodes | None = None
        self._sample_reader: SampleReader | None = None
        self._tokenizer = self._generator_loss = None
        if encoding := encoding_tokenizer(config):
            # The copy that lies with a generator is a part of the generator's folder.
            load = load_any_tokenizer if config.tokenizer_path else read_any_tokenizer
            self._tokenizer = load(encoding).to(self._device)
            self._layout = code_layout(encoding)
        if config.generator_path:
            assert self._tokenizer is not None
            self._generator_loss = build_generator_loss(config, self._tokenizer)
        for extractor in extractors:
            logger.info(
                "features: %s of %s (weights %s), %s",
                ", ".join(f"{width} {output}" for output, width in extractor.outputs.items()),
                extractor.name,
                extractor.weights_sha256[:12],
                extractor.input_contract,
            )

    @torch.inference_mode()
    @full_precision()
    def __call__(
        self, blocks: Sequence[Block], *, done: Collection[str] = ()
    ) -> list[MeasuredBlock]:
        """Measure blocks of one kind; those of validation images must be adjacent blocks of one shard, and those of
        training crops, decoded or not, blocks of one shard. The features of networks that are `done` are left out.
        """
        if blocks[0].kind == VALIDATION:
            return list(self._validation(blocks, done))
        if blocks[0].kind == TRAINING:
            return list(self._training(blocks, done))
        if blocks[0].kind == DECODED:
            return list(self._decoded(blocks))
        return [self._drawn(block, done) for block in blocks]

    def _drawn(self, block: Block, done: Collection[str]) -> MeasuredBlock:
        """A block of samples, of the reference's images, or of images decoded from a baseline's codes."""
        if block.kind == REFERENCE:
            assert self._folder is not None
            stored = unpacked(to_path(self._config.reference_path), self._folder)
            images = read_images(stored, block.start, block.stop)
            return MeasuredBlock(block.kind, self._features(images, done), {})
        if block.kind == SAMPLES:
            images, labels = self._samples().read(block.start, block.stop)
            named = {} if labels is None else {LABELS: labels}
            return MeasuredBlock(block.kind, {**self._features(images), **named}, {})
        images = self._decode(self._baselines().draw(block))
        kept = {"images": images[: self._kept(block)]}
        return MeasuredBlock(block.kind, self._features(images), kept)

    def _features(
        self, images: Images, done: Collection[str] = ()
    ) -> dict[str, Float[np.ndarray, "b d"]]:
        """What the feature networks make of images, by name; nothing of those that are `done`."""
        return features_of([each for each in self._extractors if each.key not in done], images)

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

    def _validation(
        self, blocks: Sequence[Block], done: Collection[str]
    ) -> Iterator[MeasuredBlock]:
        first = blocks[0]
        path = to_path(self._config.data_path) / first.file
        rows = self._rows(path, blocks, ("key", "image", "label"))
        labels = rows["label"].to_numpy()
        crops = self._crops(rows, first.stop - first.start)
        for block, images in zip(blocks, crops, strict=True):
            own = labels[block.start - first.start : block.stop - first.start]
            features = self._features(images, done)
            yield self._measured(block, images, {**features, LABELS: own})

    def _training(self, blocks: Sequence[Block], done: Collection[str]) -> Iterator[MeasuredBlock]:
        rows = self._training_rows(blocks)
        labels = rows["label"].to_numpy()
        size = blocks[0].stop - blocks[0].start
        for number, images in enumerate(self._crops(rows, size)):
            own = labels[number * size :][: len(images)]
            # Without samples nothing is compared with these crops: their codes alone are asked for.
            features = self._features(images, done) if self._config.samples_path else {}
            arrays = {**features, LABELS: own}
            if takes_training_codes(self._config):
                assert self._tokenizer is not None
                arrays |= self._stored(
                    self._tokenizer.look_up(to_model_range(images, self._device))
                )
            yield MeasuredBlock(TRAINING, arrays, {})

    def _decoded(self, blocks: Sequence[Block]) -> Iterator[MeasuredBlock]:
        rows = self._training_rows(blocks)
        for images in self._crops(rows, blocks[0].stop - blocks[0].start):
            decoded = to_uint8(self._images_of(self._codes_to_decode(images)))
            yield MeasuredBlock(DECODED, self._features(decoded), {})

    def _training_rows(self, blocks: Sequence[Block]) -> pyarrow.Table:
        """The rows of training shards that blocks of one shard hold."""
        path = to_path(self._config.training_path) / blocks[0].file
        chosen = np.concatenate([block.rows for block in blocks if block.rows is not None])
        minutes = self._config.pool.storage_retry_minutes
        return read_chosen_rows(path, chosen, minutes=minutes)

    def _measured(
        self, block: Block, images: Images, arrays: dict[str, np.ndarray]
    ) -> MeasuredBlock:
        """A block of validation images, whose labels and features are `arrays`, with what tokenizer and generator make
        of them where there are such.
        """
        pictures: dict[str, Images] = {}
        if self._tokenizer is not None:
            reconstructs = bool(self._config.tokenizer_path)
            if reconstructs:
                codes = self._codes_to_decode(images)
                measured = self._reconstructed(block, images, codes)
                arrays, pictures = arrays | measured.arrays, measured.pictures
            else:
                codes = self._tokenizer.encode(to_model_range(images, self._device))
            if self._generator_loss is not None:
                ids = range(block.first_image, block.first_image + len(images))
                grids = grids_of(codes, self._tokenizer.rate)
                arrays |= self._generator_loss(Codes(grids, arrays[LABELS], ids))
        return MeasuredBlock(block.kind, arrays, pictures)

    def _reconstructed(self, block: Block, images: Images, codes: TokenizerCodes) -> MeasuredBlock:
        """What the measured tokenizer made of a block."""
        assert self._tokenizer is not None
        reconstructions = to_uint8(self._images_of(codes))
        kept, features = self._kept(block), self._features(reconstructions)
        arrays: dict[str, np.ndarray] = {
            **{of_reconstructions(name): values for name, values in features.items()},
            "psnr": psnr(images, reconstructions),
            "ssim": ssim(images, reconstructions),
            error_parts(RECONSTRUCTION): squared_error_parts(images, reconstructions),
            error_parts(GREY): squared_error_parts(images, MID_GREY),
            **self._stored(codes),
        }
        if self._lpips is not None:
            arrays[LPIPS] = self._lpips(images, reconstructions)
        pictures = {"inputs": images[:kept], "reconstructions": reconstructions[:kept]}
        if self._measures_retention:
            for name, decoded in decoded_alone(self._tokenizer, codes).items():
                alone = to_uint8(decoded)
                arrays[retention_psnr(name)] = psnr(images, alone)
                row = retention_pictures(name)
                arrays[error_parts(row)] = squared_error_parts(images, alone)
                pictures[row] = alone[:kept]
        return MeasuredBlock(block.kind, arrays, pictures)

    def _codes_to_decode(self, images: Images) -> TokenizerCodes:
        assert self._tokenizer is not None
        pixels = to_model_range(images, self._device)
        # What ours makes of codes that do not exist, the check of the decoded images finds.
        if isinstance(self._tokenizer, GloTokTokenizer):
            return self._tokenizer.look_up(pixels)
        return self._tokenizer.encode(pixels)

    def _images_of(self, codes: TokenizerCodes) -> Tensor:
        if isinstance(self._tokenizer, GloTokTokenizer):
            assert isinstance(codes, Tensor)
            return self._tokenizer.images_of(codes)
        assert self._tokenizer is not None
        return self._tokenizer.images_of(codes)

    def _samples(self) -> SampleReader:
        """Opened at the first block of samples, which not every actor meets."""
        if self._sample_reader is None:
            self._sample_reader = SampleReader(
                self._config, self._folder, image_size=self._image_size
            )
        return self._sample_reader

    def _stored(self, codes: TokenizerCodes) -> dict[str, np.ndarray]:
        """Codes as parts hold them, by codebook or grid."""
        assert self._tokenizer is not None
        grids = grids_of(codes, self._tokenizer.rate)
        return stored_codes([grid.cpu().numpy() for grid in grids], self._layout)

    def _baselines(self) -> BaselineCodes:
        """Read at the first block of a baseline, which not every actor meets."""
        if self._baseline_codes is None:
            assert self._folder is not None
            self._baseline_codes = read_counts(self._folder, self._config, self._layout)
        return self._baseline_codes

    def _decode(self, codes: Sequence[Integer[np.ndarray, "b positions"]]) -> Images:
        """Images of the codes of all columns of the tokenizer's layout."""
        grids: tuple[Tensor, ...] = tuple(
            torch.from_numpy(each.astype(np.int64)).to(self._device).unflatten(1, column.shape)
            for each, column in zip(codes, self._layout.columns, strict=True)
        )
        if isinstance(self._tokenizer, GloTokTokenizer):
            return to_uint8(self._images_of(torch.stack(grids, dim=1)))
        return to_uint8(self._images_of(grids if len(grids) > 1 else next(iter(grids))))
