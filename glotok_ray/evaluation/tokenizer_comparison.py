"""One tokenizer after the other on the same crops: errors, distances in feature networks, and seconds.

Whatever keeps the protocol of `glotok_ray.nn.tokenizer_protocol` can be measured. Read next:
glotok_ray/evaluation/psnr_protocols.py
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow
import torch
from jaxtyping import UInt8
from torch import Tensor

from glotok_ray.config.tokenizer_comparison import EvaluateTokenizersRun
from glotok_ray.data.forms import CROP
from glotok_ray.data.pixel_range import to_model_range, to_uint8
from glotok_ray.data.recorded import check_side
from glotok_ray.data.records import DatasetInfo
from glotok_ray.data.shard_reader import read_shard_rows, view_batches
from glotok_ray.devices import full_precision
from glotok_ray.evaluation.crop_protocols import own_crop
from glotok_ray.evaluation.extractors import INCEPTION
from glotok_ray.evaluation.features import POOLED, FeatureExtractor
from glotok_ray.evaluation.lpips_distance import LPIPSDistance
from glotok_ray.evaluation.psnr_protocols import own_psnr, truncated
from glotok_ray.metrics.frechet import (
    FeatureSummary,
    frechet_distance_of_summaries,
    summarize,
)
from glotok_ray.metrics.reconstruction import psnr, ssim
from glotok_ray.nn.tokenizer_protocol import Tokenizer
from glotok_ray.peers.released import CropProtocol, PSNRProtocol
from glotok_ray.storage.places import to_path

Images = UInt8[np.ndarray, "b h w 3"]
Features = dict[str, list[np.ndarray]]
"""Pooled features of all images so far, by the network's key."""


@dataclass
class Measured:
    """What was measured of one tokenizer."""

    metrics: dict[str, float]
    pictures: Images
    """The first reconstructions."""


class OwnProtocol(NamedTuple):
    """How a system's authors measure."""

    psnr: PSNRProtocol
    crop: CropProtocol
    pixels: Literal["rounded", "truncated", "unrounded"]
    """What their feature network gets."""


@dataclass
class RealCrops:
    """The crops of a comparison and, once they were seen, their features, by side."""

    config: EvaluateTokenizersRun
    dataset: DatasetInfo
    extractors: Sequence[FeatureExtractor]
    summaries: dict[tuple[int, CropProtocol], dict[str, FeatureSummary]] = field(
        default_factory=dict
    )

    def is_stored(self, side: int) -> bool:
        """Whether the stored images are crops of that side already, which every way to cut them leaves as they are."""
        return self.dataset.form == CROP and self.dataset.image_size == side

    def batches(self, side: int, protocol: CropProtocol = "adm") -> Iterable[Images]:
        """Centre crops of the first images in shard order; raises ArtefactError for shards stored for a smaller
        side.
        """
        config, folder = self.config, to_path(self.config.data_path)
        check_side(self.dataset, folder, side)
        left = config.num_images or self.dataset.num_images
        for shard in self.dataset.shards:
            rows = min(shard.rows, left)
            left -= rows
            if rows:
                yield from self._of_shard(folder / shard.file, rows, side, protocol)

    def _of_shard(
        self, path: Path, rows: int, side: int, protocol: CropProtocol
    ) -> Iterable[Images]:
        config = self.config
        table: pyarrow.Table = read_shard_rows(path, 0, rows, minutes=config.storage_retry_minutes)
        return view_batches(
            table,
            lambda image: own_crop(image, side, protocol)[np.newaxis],
            1,
            batch_size=config.batch_size,
            num_threads=config.decoding_threads,
        )

    def first(self, side: int) -> Images:
        """Those that the grid shows."""
        kept: list[np.ndarray] = []
        for images in self.batches(side):
            kept.extend(images)
            if len(kept) >= self.config.shown_images:
                break
        return np.stack(kept[: self.config.shown_images])


class Stopwatch:
    """Seconds and images of a device's work; the first batch, in which kernels are chosen, counts only if it is the
    only one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[tuple[int, float]] = []

    def __call__(self, count: int, work: Callable[[], Any]) -> Any:
        """Do `work` on `count` images; returns its answer."""
        self._wait()
        started = time.perf_counter()
        answer = work()
        self._wait()
        self._times.append((count, time.perf_counter() - started))
        return answer

    @property
    def images_per_second(self) -> float:
        """Over all batches but the first."""
        counted = self._times[1:] or self._times
        return sum(count for count, _ in counted) / sum(seconds for _, seconds in counted)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@torch.inference_mode()
@full_precision()
def measure_tokenizer(
    tokenizer: Tokenizer,
    crops: RealCrops,
    *,
    protocol: OwnProtocol,
    lpips: LPIPSDistance | None,
    device: torch.device,
) -> Measured:
    """Reconstruct all crops and measure them; `protocol` is how the system's authors measure, which is done beside."""
    side = crops.config.image_size or tokenizer.image_size
    scores: dict[str, list[np.ndarray]] = {}
    made: Features = {each.key: [] for each in crops.extractors}
    real: Features | None = None if (side, "adm") in crops.summaries else {key: [] for key in made}
    kept: list[np.ndarray] = []
    own_pass = protocol.crop != "adm" and not crops.is_stored(side)
    encoding, decoding = Stopwatch(device), Stopwatch(device)
    for images in crops.batches(side):
        inputs = to_model_range(images, device)
        codes = encoding(len(images), lambda inputs=inputs: tokenizer.encode(inputs))
        decoded: Tensor = decoding(len(images), lambda codes=codes: tokenizer.decode(codes))
        reconstructions = to_uint8(decoded)
        found = {
            "psnr": psnr(images, reconstructions),
            "ssim": ssim(images, reconstructions),
        }
        if not own_pass:
            found["own_psnr"] = own_psnr(images, decoded, protocol.psnr)
        if lpips is not None:
            found["lpips"] = lpips(images, reconstructions)
        for name, values in found.items():
            scores.setdefault(name, []).append(values)
        _add_features(made, crops.extractors, reconstructions)
        if real is not None:
            _add_features(real, crops.extractors, images)
        if len(kept) < crops.config.shown_images:
            kept.extend(reconstructions)
    if real is not None:
        crops.summaries[side, "adm"] = {key: summarize(blocks) for key, blocks in real.items()}
    metrics = {name: _finite_mean(np.concatenate(values)) for name, values in scores.items()}
    metrics |= _distances(made, crops.summaries[side, "adm"])
    has_inception = any(each.key == INCEPTION for each in crops.extractors)
    if own_pass or (has_inception and protocol.pixels == "truncated"):
        metrics |= _by_their_own(tokenizer, crops, side, protocol, device)
    metrics["encode_images_per_second"] = encoding.images_per_second
    metrics["decode_images_per_second"] = decoding.images_per_second
    return Measured(metrics, np.stack(kept[: crops.config.shown_images]))


def _by_their_own(
    tokenizer: Tokenizer, crops: RealCrops, side: int, protocol: OwnProtocol, device: torch.device
) -> dict[str, float]:
    """PSNR, and Inception's distance where it is measured, of crops and pixels as the authors have them."""
    extractors = [each for each in crops.extractors if each.key == INCEPTION]
    made: Features = {each.key: [] for each in extractors}
    real: Features = {each.key: [] for each in extractors}
    scores: list[np.ndarray] = []
    for images in crops.batches(side, protocol.crop):
        decoded = tokenizer.decode(tokenizer.encode(to_model_range(images, device)))
        scores.append(own_psnr(images, decoded, protocol.psnr))
        # Feature networks take 8-bit pixels: of un-rounded ones the nearest.
        pixels = truncated(decoded) if protocol.pixels == "truncated" else to_uint8(decoded)
        _add_features(made, extractors, pixels)
        if (side, protocol.crop) not in crops.summaries:
            _add_features(real, extractors, images)
    if (side, protocol.crop) not in crops.summaries:
        crops.summaries[side, protocol.crop] = {key: summarize(each) for key, each in real.items()}
    distances = _distances(made, crops.summaries[side, protocol.crop])
    found = {f"own_{name}": value for name, value in distances.items()}
    return {"own_psnr": _finite_mean(np.concatenate(scores)), **found}


def _add_features(found: Features, extractors: Sequence[FeatureExtractor], images: Images) -> None:
    for extractor in extractors:
        found[extractor.key].append(extractor(images)[POOLED])


def _distances(made: Features, real: Mapping[str, FeatureSummary]) -> dict[str, float]:
    return {
        f"frechet_{key}": frechet_distance_of_summaries(summarize(blocks), real[key])
        for key, blocks in made.items()
    }


def _finite_mean(values: np.ndarray) -> float:
    """Over images whose reconstruction is not equal to them, of which PSNR is infinite."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
