"""The evaluation of checkpoints beside a training: how often, on what, and by which metric the best is kept.

Read next: glotok_ray/training/checkpoint_watch.py
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from glotok_ray.config.evaluation import DOWNLOAD
from glotok_ray.config.rules import PATH_UNLESS, require, require_finite, require_positive
from glotok_ray.config.samplers import (
    FlowSamplerConfig,
    SamplerConfig,
    ScaleSamplerConfig,
    TokenSamplerConfig,
)

SECTION = "checkpoint_evaluation"
"""The section's name in a run."""


class ChosenMetric(NamedTuple):
    """The metric that names the best checkpoint."""

    entry: str
    """As the evaluation names it."""
    higher_is_better: bool


_OF_RECONSTRUCTIONS = {
    "fd_effnet": ChosenMetric("reconstruction_fd_effnet", higher_is_better=False),
    "fid": ChosenMetric("reconstruction_fid", higher_is_better=False),
    "psnr": ChosenMetric("reconstruction_psnr", higher_is_better=True),
    "ssim": ChosenMetric("reconstruction_ssim", higher_is_better=True),
}
_OF_SAMPLES = {
    "fd_effnet": ChosenMetric("samples_fd_effnet", higher_is_better=False),
    "fid": ChosenMetric("samples_fid", higher_is_better=False),
    "own_class": ChosenMetric("samples_own_class", higher_is_better=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointEvaluationConfig:
    """Checkpoints of a tokenizer are evaluated by a process of their own while the training goes on."""

    every_steps: int = 0
    """Optimizer steps between evaluated checkpoints, at least; the last checkpoint is evaluated in any case. 1 takes
    each that is the newest when the one before is done, 0 evaluates none.
    """
    metric: Literal["fd_effnet", "fid", "psnr", "ssim", "own_class"] = "fd_effnet"
    """By which the best checkpoint is kept: "psnr" and "ssim" for tokenizers alone, "own_class" for generators alone,
    "fid" with an inception_path.
    """
    data_path: str = ""
    """Folder of validation shards. Empty takes the data.validation_path of a tokenizer's run; a generator needs it."""
    num_images: int = 2048
    """First validation crops that are reconstructed; of a generator, samples that are drawn. Fewer where the shards
    hold fewer.
    """
    feature_size: int = 224
    """Side to which images are resized for EfficientNet-Lite0, pixels."""
    inception_path: str = field(default="", metadata={PATH_UNLESS: DOWNLOAD})
    """File of the weights of FID's Inception-v3, as in `EvaluateRun`: FID and sFID are measured too. Empty measures
    none.
    """
    use_gpu: bool = False
    """Evaluate on a GPU of its own, which no worker trains on; off evaluates on CPU."""
    num_cpus: float = 1.0
    """Logical CPUs that Ray reserves for the evaluation. It starts only where these are left beside all workers of the
    training and one that reads its data.
    """
    num_threads: int = 1
    """Torch threads of the evaluation; 0 leaves torch's own choice."""
    batch_size: int = 16
    """Images per forward pass."""
    last_wait_minutes: float = 30.0
    """Minutes that the end of a training waits for the evaluation of its last checkpoint; 0 waits for none."""

    def __post_init__(self) -> None:
        require_finite(self, f"{SECTION}.")
        require_positive(SECTION, self, ("num_images", "batch_size", "feature_size"))
        for name in ("every_steps", "num_cpus", "num_threads", "last_wait_minutes"):
            value = getattr(self, name)
            require(value >= 0, f"{SECTION}.{name}", value, "must not be negative")
        require(
            self.metric in self.metrics(),
            f"{SECTION}.metric",
            self.metric,
            f"is not measured of this model; take one of {', '.join(self.metrics())}",
        )
        require(
            self.metric != "fid" or bool(self.inception_path),
            f"{SECTION}.metric",
            self.metric,
            f"needs {SECTION}.inception_path, the file of Inception's weights; give it, or take fd_effnet",
        )

    def metrics(self) -> Mapping[str, ChosenMetric]:
        """The values that `metric` may have here."""
        return _OF_RECONSTRUCTIONS

    @property
    def chosen_metric(self) -> ChosenMetric:
        """What `metric` names."""
        return self.metrics()[self.metric]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledCheckpointsConfig(CheckpointEvaluationConfig):
    """Checkpoints of a generator are evaluated by samples that are drawn from them."""

    num_reference_images: int = 10000
    """First validation crops that samples are compared with, measured once. Fewer where the shards hold fewer."""
    seed: int = 0
    """Seeds the samples: image i has class i mod the number of classes, and the same noise for every checkpoint."""

    def __post_init__(self) -> None:
        # Without arguments `super` does not know a class with slots.
        CheckpointEvaluationConfig.__post_init__(self)
        require_positive(SECTION, self, ("num_reference_images",))

    def metrics(self) -> Mapping[str, ChosenMetric]:
        """The values that `metric` may have here."""
        return _OF_SAMPLES


@dataclass(frozen=True, kw_only=True, slots=True)
class XARCheckpointsConfig(SampledCheckpointsConfig):
    """Checkpoints of xAR."""

    sampler: FlowSamplerConfig = field(default_factory=FlowSamplerConfig)

    def __post_init__(self) -> None:
        SampledCheckpointsConfig.__post_init__(self)
        _require_average(self.sampler)


@dataclass(frozen=True, kw_only=True, slots=True)
class FARCheckpointsConfig(SampledCheckpointsConfig):
    """Checkpoints of FAR, of LlamaGen's GPT or of RQ-Transformer."""

    sampler: TokenSamplerConfig = field(default_factory=TokenSamplerConfig)

    def __post_init__(self) -> None:
        SampledCheckpointsConfig.__post_init__(self)
        _require_average(self.sampler)


@dataclass(frozen=True, kw_only=True, slots=True)
class VARCheckpointsConfig(SampledCheckpointsConfig):
    """Checkpoints of VAR."""

    sampler: ScaleSamplerConfig = field(default_factory=ScaleSamplerConfig)

    def __post_init__(self) -> None:
        SampledCheckpointsConfig.__post_init__(self)
        _require_average(self.sampler)


def _require_average(sampler: SamplerConfig) -> None:
    require(
        sampler.use_ema,
        f"{SECTION}.sampler.use_ema",
        sampler.use_ema,
        "must be on: checkpoints hold the averaged weights for sampling, or the raw ones where no average is kept",
    )
