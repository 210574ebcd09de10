"""The actor of an evaluation: one block of images in, features, scores and codes out.

A block has the same images whatever the number of actors. Read next: glotok_ray/stages/evaluate_images.py
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from jaxtyping import Float, UInt8, UInt16
from torch.nn import functional

from glotok_ray.config.jobs import EvaluateRun
from glotok_ray.data.codes import stored_codes
from glotok_ray.data.pixel_range import to_model_range, to_uint8
from glotok_ray.data.records import decode_image
from glotok_ray.data.transforms import center_crop
from glotok_ray.metrics.reconstruction import psnr, ssim
from glotok_ray.pretrained.feature_networks import EfficientNetLite0
from glotok_ray.pretrained.tokenizer import load_tokenizer
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import patiently

VALIDATION, SAMPLES = "validation", "samples"


class Block(NamedTuple):
    """A unit of work: rows of a shard, images of samples.npz, or codes to decode."""

    kind: str
    """VALIDATION, SAMPLES, or the name of a baseline."""
    start: int
    stop: int
    first_image: int = 0
    """Position of the block's first image within its kind."""
    file: str = ""
    codes: UInt16[np.ndarray, "b codebooks positions"] | None = None
    """Codes of a baseline's block."""


class MeasuredBlock(NamedTuple):
    """What one block contributes; arrays are empty where the kind has no such part."""

    kind: str
    features: Float[np.ndarray, "b d"]
    arrays: dict[str, np.ndarray]
    """"reconstruction_features", "psnr", "ssim", codes under their codebook's name, and kept
    images "inputs", "images".
    """


class BlockMeasurement:
    """Reconstructs, decodes and measures blocks with one tokenizer and one feature network."""

    def __init__(
        self, config: EvaluateRun, *, image_size: int, kept_images: int, device: torch.device
    ) -> None:
        self._config, self._device = config, device
        self._image_size, self._kept_images = image_size, kept_images
        self._network = EfficientNetLite0().requires_grad_(False).eval().to(device)
        self._tokenizer = None
        if config.tokenizer_path:
            self._tokenizer = load_tokenizer(Path(config.tokenizer_path)).to(device)

    @torch.inference_mode()
    def __call__(self, block: Block) -> MeasuredBlock:
        """Measure one block."""
        if block.kind == VALIDATION:
            return self._measure_validation(block)
        if block.kind == SAMPLES:
            images = read_images(
                Path(self._config.samples_path) / "samples.npz", block.start, block.stop
            )
            return MeasuredBlock(block.kind, self._features(images), {})
        images = self._decode(block)
        return MeasuredBlock(
            block.kind, self._features(images), {"images": images[: self._kept(block)]}
        )

    def _kept(self, block: Block) -> int:
        return max(0, self._kept_images - block.first_image)

    def _measure_validation(self, block: Block) -> MeasuredBlock:
        path = Path(self._config.data_path) / block.file
        rows = patiently(
            lambda: read_rows(path, block.start, block.stop),
            path,
            minutes=self._config.pool.storage_retry_minutes,
        )
        images = np.stack(
            [
                center_crop(decode_image(encoded.as_py(), key.as_py()), self._image_size)
                for key, encoded in zip(rows["key"], rows["image"], strict=True)
            ]
        )
        features = self._features(images)
        if self._tokenizer is None:
            return MeasuredBlock(block.kind, features, {})
        codes = self._tokenizer.look_up(to_model_range(images, self._device))
        reconstructions = to_uint8(self._tokenizer.images_of(codes))
        model = self._tokenizer.config
        stored = stored_codes(codes.flatten(2).transpose(0, 1).cpu().numpy(), model)
        kept = self._kept(block)
        arrays: dict[str, Any] = {
            "reconstruction_features": self._features(reconstructions),
            "psnr": psnr(images, reconstructions),
            "ssim": ssim(images, reconstructions),
            "inputs": images[:kept],
            "reconstructions": reconstructions[:kept],
        }
        arrays |= dict(zip(model.names, stored, strict=True))
        return MeasuredBlock(block.kind, features, arrays)

    def _decode(self, block: Block) -> UInt8[np.ndarray, "b h w 3"]:
        assert self._tokenizer is not None
        assert block.codes is not None
        side = self._tokenizer.config.autoencoder.grid_size
        codes = torch.from_numpy(block.codes.astype(np.int64)).to(self._device)
        return to_uint8(self._tokenizer.images_of(codes.unflatten(2, (side, side))))

    def _features(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b d"]:
        size = (self._config.feature_size, self._config.feature_size)
        resized = functional.interpolate(
            to_model_range(images, self._device),
            size=size,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return self._network.pooled(resized).float().cpu().numpy()


def read_rows(path: Path, start: int, stop: int) -> pyarrow.Table:
    """Keys and encoded images of rows start .. stop, from the row groups that hold them."""
    with pyarrow.parquet.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
        table = file.read_row_groups(range(first, last + 1), columns=["key", "image"])
    return table.slice(start - int(ends[first] - sizes[first]), stop - start)


class StoredImages(NamedTuple):
    """Layout of arr_0 in an uncompressed npz."""

    offset: int
    shape: tuple[int, ...]
    """(n, h, w, 3)."""


def stored_images(path: Path) -> StoredImages:
    """Where arr_0 lies in `path`; raises ArtefactError unless it is uint8 NHWC, stored without
    compression.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("arr_0.npy")
            with archive.open(entry) as member:
                version = np.lib.format.read_magic(member)
                reader = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, fortran_order, dtype = reader(member)
                header_bytes = member.tell()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtefactError(
            f"{path}: holds no readable arr_0 ({error}); run jobs.sample_images again"
        ) from None
    layout_is_right = len(shape) == 4 and shape[-1] == 3 and dtype == np.uint8 and not fortran_order
    if not layout_is_right or entry.compress_type != zipfile.ZIP_STORED:
        raise ArtefactError(
            f"{path}: arr_0 is {dtype} {shape}, compression {entry.compress_type}; "
            "needs uint8 (n, h, w, 3) written by numpy.savez without compression"
        )
    with path.open("rb") as stream:
        stream.seek(entry.header_offset + 26)
        name_bytes, extra_bytes = np.frombuffer(stream.read(4), "<u2").tolist()
    return StoredImages(entry.header_offset + 30 + name_bytes + extra_bytes + header_bytes, shape)


def read_images(path: Path, start: int, stop: int) -> UInt8[np.ndarray, "b h w 3"]:
    """Images start .. stop of samples.npz, without reading the others."""
    layout = stored_images(path)
    stored = np.memmap(path, np.uint8, "r", offset=layout.offset, shape=layout.shape)
    return np.array(stored[start:stop])
