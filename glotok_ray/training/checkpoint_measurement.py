"""The evaluation of one checkpoint after another, by the code and the protocols of the job `evaluate_images`.

A tokenizer's checkpoint reconstructs validation crops; a generator's draws samples with the same seeds every time, and
the features of the crops that these are compared with are measured once. Runs in a process of its own.
Read next: glotok_ray/evaluation/measure.py
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from glotok_ray.config.checkpoint_evaluation import (
    FARCheckpointsConfig,
    VARCheckpointsConfig,
    XARCheckpointsConfig,
)
from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.data.recorded import crops_text, read_image_dataset
from glotok_ray.devices import chosen_device
from glotok_ray.evaluation.array_names import EFFNET_POOLED, LABELS
from glotok_ray.evaluation.distances import distance_metrics
from glotok_ray.evaluation.entries import Metrics, with_crops
from glotok_ray.evaluation.extractors import build_extractors, networks_of
from glotok_ray.evaluation.features import FeatureExtractor
from glotok_ray.evaluation.measure import BlockMeasurement, features_of
from glotok_ray.evaluation.metrics import reconstruction_metrics
from glotok_ray.evaluation.parts import MeasuredBlock, finished_parts, planned_part, write_part
from glotok_ray.evaluation.plan import SAMPLES, VALIDATION, Block, plan, units_of
from glotok_ray.evaluation.sample_metrics import Labelled, own_class_metrics
from glotok_ray.evaluation.streams import MeasuredImages, open_measured
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.storage.places import remove_tree, to_path
from glotok_ray.training.checkpoint import checkpoint_step
from glotok_ray.training.checkpoint_protocol import Run, evaluation_of, protocol_of
from glotok_ray.training.checkpoint_weights import copy_weights
from glotok_ray.training.evaluated_checkpoints import WORK_FOLDER, Measured

Sampled = XARCheckpointsConfig | FARCheckpointsConfig | VARCheckpointsConfig
MeasureBlocks = Callable[[Sequence[Block]], list[MeasuredBlock]]


class CheckpointMeasurement:
    """Measures checkpoints of one run on the device of this process; its feature networks stay from one to the next."""

    def __init__(self, config: Run, folder: Path) -> None:
        """`folder` is the run's; copies and parts lie in a sub-folder of it."""
        self._config, self._work = config, folder / WORK_FOLDER
        for left in self._work.glob("step-*"):
            remove_tree(left)
        self._evaluation = evaluation_of(config)
        self._images = read_image_dataset(to_path(self._evaluation.data_path))
        self._protocol = protocol_of(config).fingerprint
        device = chosen_device(use_gpu=config.checkpoint_evaluation.use_gpu)
        self._extractors = build_extractors(self._evaluation, device)
        self._device = device

    def __call__(self, checkpoint: Path) -> Measured | None:
        """None where the checkpoint is removed before it is read."""
        started = time.monotonic()
        weights = copy_weights(checkpoint, self._work, self._config)
        if weights is None:
            return None
        parts = self._work / f"{checkpoint.name}.parts"
        remove_tree(parts, ignore_errors=True)
        parts.mkdir()
        if isinstance(self._config, TokenizerRun):
            metrics = self._tokenizer(weights, parts)
        else:
            metrics = self._generator(weights, parts, self._config.checkpoint_evaluation)
        remove_tree(parts)
        return Measured(
            step=checkpoint_step(checkpoint),
            metrics=with_crops(metrics, crops_text(self._images)),
            seconds=time.monotonic() - started,
            weights=weights,
        )

    def _tokenizer(self, weights: Path, parts: Path) -> Metrics:
        config = replace(self._evaluation, tokenizer_path=str(weights))
        blocks, image_size = plan(config)
        measured = self._measured(blocks, self._blocks_of(config, image_size), parts)
        scores = {name: measured[VALIDATION].column(name) for name in ("psnr", "ssim")}
        distances = distance_metrics(measured, config, networks_of(self._extractors))
        return reconstruction_metrics(scores, image_size) | distances

    def _generator(self, weights: Path, parts: Path, section: Sampled) -> Metrics:
        config = self._evaluation
        images = ImageGenerator.from_pretrained(weights).to(self._device)
        samples = _Samples(images, section, self._extractors)
        # Of the crops, only what the feature networks make of them: no checkpoint changes that.
        reference = self._work / f"reference-{self._protocol[:16]}"
        reference.mkdir(exist_ok=True)
        crops = self._blocks_of(config, images.tokenizer.image_size)
        measured = self._measured(plan(config)[0], crops, reference)
        measured |= self._measured(samples.blocks(), samples, parts)
        metrics = distance_metrics(measured, config, networks_of(self._extractors))
        return metrics | own_class_metrics(
            _labelled(measured[SAMPLES]),
            _labelled(measured[VALIDATION]),
            None,
            len(self._images.classes),
            config.feature_size,
        )

    def _blocks_of(self, config: EvaluateRun, image_size: int) -> BlockMeasurement:
        return BlockMeasurement(
            config,
            self._extractors,
            image_size=image_size,
            kept_images=0,
            measures_retention=False,
        )

    def _measured(
        self, blocks: Sequence[Block], measure: MeasureBlocks, folder: Path
    ) -> dict[str, MeasuredImages]:
        units = [(unit, planned_part(unit, self._protocol)) for unit in units_of(blocks)]
        parts = [part for _, part in units]
        finished = finished_parts(folder, parts)
        for unit, part in units:
            if part.name not in finished:
                write_part(folder, part, measure(unit))
        return open_measured(folder, parts)


class _Samples:
    """Samples of one generator, drawn and measured block by block; nothing of them is kept but their features."""

    def __init__(
        self, images: ImageGenerator, config: Sampled, extractors: Sequence[FeatureExtractor]
    ) -> None:
        self._images, self._config, self._extractors = images, config, extractors

    def blocks(self) -> list[Block]:
        """All images, in batches."""
        total, size = self._config.num_images, self._config.batch_size
        starts = range(0, total, size)
        return [Block(SAMPLES, start, min(start + size, total), start) for start in starts]

    def __call__(self, blocks: Sequence[Block]) -> list[MeasuredBlock]:
        """Image i has class i mod num_classes, as `sample_images` draws it."""
        return [self._drawn(range(block.start, block.stop)) for block in blocks]

    def _drawn(self, ids: range) -> MeasuredBlock:
        labels = [image % self._images.num_classes for image in ids]
        images = self._images.generate(
            labels, seed=self._config.seed, image_ids=ids, sampler=self._config.sampler
        )
        arrays = features_of(self._extractors, images)
        return MeasuredBlock(SAMPLES, {**arrays, LABELS: np.array(labels, np.int32)}, {})


def _labelled(images: MeasuredImages) -> Labelled:
    return Labelled(images.blocks(EFFNET_POOLED), images.column(LABELS))
