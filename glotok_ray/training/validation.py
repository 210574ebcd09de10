"""The metrics of a tokenizer while it is trained: PSNR of the validation images, relation KL, use of the codes.

PSNR is that of `glotok_ray.metrics.reconstruction`, on pixels rounded as everywhere: 10 log10(255^2 / MSE) per image,
averaged over images. An image that comes back identical has none; it is counted apart, as the evaluation job does.
Read next: glotok_ray/metrics/reconstruction.py
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from glotok_ray.config.runs import TokenizerRun
from glotok_ray.data.pixel_range import pixels_to_model_range, to_uint8
from glotok_ray.data.records import decode_image, read_dataset
from glotok_ray.data.shard_reader import read_shard_rows
from glotok_ray.data.transforms import center_crop
from glotok_ray.losses import objective
from glotok_ray.metrics.reconstruction import ScoreSum, psnr
from glotok_ray.nn.tokenizer import GloTokTokenizer, TokenizerOutput
from glotok_ray.storage.places import to_path
from glotok_ray.training.tokenizer_state import TokenizerState
from glotok_ray.training.worker import Worker

_BATCH = 16


class TokenizerValidation:
    """Measures the present weights of a tokenizer on all workers together."""

    def __init__(
        self,
        state: TokenizerState,
        teacher: Float[Tensor, " num_bins"] | None,
        images: UInt8[Tensor, "n 3 h w"],
        worker: Worker,
    ) -> None:
        """`images` are this worker's, which may be none; without a `teacher` no relation is measured."""
        self._state, self._teacher, self._worker = state, teacher, worker
        self._parts = [part for part in images.split(_BATCH) if len(part)]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """`psnr` and `average_psnr` (of the averaged weights) in dB, `relation_kl`, and per codebook the usage and
        perplexity since the last evaluation and the share of duplicate codes; equal on every worker.

        Where images come back identical, `psnr_identical` says how many, and the mean is over the others; where all do,
        there is no `psnr`. A reconstruction that is not finite makes it NaN.
        """
        state, config = self._state, self._state.config
        codebooks = self._codebooks()
        metrics = state.watch.metrics(codebooks)
        if self._teacher is not None:
            codebook = codebooks[config.loss.relation.codebook]
            relation = objective.relation_term(codebook, self._teacher, config.loss, self._worker)
            metrics["relation_kl"] = float(relation)
        metrics |= self._psnr(state.model.eval(), "psnr")
        state.model.train()
        if state.average is not None:
            averaged = GloTokTokenizer(config.model)
            averaged.load_state_dict(state.average.whole(keep=True))
            metrics |= self._psnr(averaged.to(self._worker.device).eval(), "average_psnr")
        return metrics

    def _codebooks(self) -> dict[str, Tensor]:
        """As the look-up compares them; whole even where ZeRO 3 holds them in parts, while the other parameters are let
        go one by one.
        """
        state = self._state
        wanted = {f"branches.{name}.quantizer.codebook": name for name in state.config.model.names}
        return {
            wanted[name]: state.model.quantizer(wanted[name]).matched(value.detach().float())
            for name, value in state.tokenizer.full_precision_parameters()
            if name in wanted
        }

    def _psnr(self, model: GloTokTokenizer, name: str) -> dict[str, float]:
        scores = ScoreSum()
        side = self._state.config.model.autoencoder.image_size
        nothing = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self._worker.device)
        for number in range(self._passes()):
            images = self._parts[number] if number < len(self._parts) else nothing
            output: TokenizerOutput = model(pixels_to_model_range(images))
            if images is not nothing:
                scores = scores.merge(psnr_sum(images, output.reconstruction.float()))
        sums = torch.tensor(
            [scores.total, scores.count, scores.num_infinite],
            dtype=torch.float64,
            device=self._worker.device,
        )
        total, count, identical = self._worker.all_sum(sums).tolist()
        found = {name: total / count} if count else {}
        return found | ({f"{name}_identical": identical} if identical else {})

    def _passes(self) -> int:
        """Batches of the worker that has most: under ZeRO 3 a pass gathers weights from all workers, so all make
        equally many.
        """
        mine = torch.zeros(self._worker.world_size, device=self._worker.device)
        mine[self._worker.rank] = len(self._parts)
        return int(self._worker.all_sum(mine).max())


def psnr_sum(
    images: UInt8[Tensor, "b 3 h w"], reconstruction: Float[Tensor, "b 3 h w"]
) -> ScoreSum:
    """The sum of the PSNR of each pair, of reconstructions in [-1, 1]; NaN where one of them is not finite, so that a
    diverged model shows in the log.
    """
    finite = torch.isfinite(reconstruction).flatten(1).all(dim=1)
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    if not finite.all():
        return ScoreSum(count=len(images), total=math.nan)
    return ScoreSum.of(psnr(pixels, to_uint8(reconstruction)))


def validation_images(config: TokenizerRun, worker: Worker) -> Tensor:
    """This worker's share of the validation images, uint8 (n, 3, h, w), centre crops."""
    size = config.model.autoencoder.image_size
    images: list[np.ndarray] = []
    if config.data.validation_path and config.data.num_validation_images:
        folder = to_path(config.data.validation_path)
        minutes = config.scaling.storage_retry_minutes
        rows = _first_rows(folder, config.data.num_validation_images, minutes)
        for index, (key, encoded) in enumerate(rows):
            if index % worker.world_size == worker.rank:
                images.append(center_crop(decode_image(encoded, key), size).transpose(2, 0, 1))
    stacked = np.stack(images) if images else np.zeros((0, 3, size, size), dtype=np.uint8)
    return torch.from_numpy(stacked).to(worker.device)


def _first_rows(folder: Path, number: int, minutes: float) -> Iterator[tuple[str, bytes]]:
    for shard in read_dataset(folder).shards:
        taken = min(number, shard.rows)
        if not taken:
            return
        number -= taken
        table = read_shard_rows(folder / shard.file, 0, taken, minutes=minutes)
        yield from zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True)
