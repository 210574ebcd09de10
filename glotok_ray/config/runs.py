"""All of a training run: a tokenizer's, xAR's, FAR's, VAR's and RQ-Transformer's."""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.checkpoint_evaluation import (
    CheckpointEvaluationConfig,
    FARCheckpointsConfig,
    SampledCheckpointsConfig,
    VARCheckpointsConfig,
    XARCheckpointsConfig,
)
from glotok_ray.config.generator import FARConfig, FlowConfig, XARConfig
from glotok_ray.config.losses import TokenizerLossConfig
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.rules import ADDED_LATER, FREE, require, require_finite, require_probability
from glotok_ray.config.samplers import TokenSamplerConfig
from glotok_ray.config.tokenizer import DiscriminatorConfig, TokenizerConfig
from glotok_ray.config.tracking import TrackingConfig
from glotok_ray.config.training import (
    CodeDataConfig,
    ImageDataConfig,
    OptimizerConfig,
    ScalingConfig,
    ScheduleConfig,
)
from glotok_ray.config.var import VARConfig


def _require_one_worker(launcher: str, scaling: ScalingConfig) -> None:
    require(
        launcher == "ray" or scaling.worker_range == (1, 1),
        "scaling.num_workers",
        scaling.num_workers,
        'must be 1 with launcher = "local", which trains in one process; pass --scaling.num-workers 1',
    )


def _require_folder_name(name: str) -> None:
    """An empty name, of a shell variable that is not set, would make the folder of all runs the run's own."""
    is_name = name not in ("", ".", "..") and not {"/", "\\"} & set(name)
    rule = "must name one folder under output_path, without / or \\; give a name such as 'first'"
    require(is_name, "name", name, rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRun:
    """All of `jobs.train_tokenizer`."""

    name: str = "tokenizer"
    """Folder of the run under output_path."""
    output_path: str = field(default="runs", metadata=FREE)
    """Folder or URI that holds runs."""
    seed: int = 0
    """Seeds initialisation, data order, crops and flips."""
    teacher_path: str = ""
    """Folder with teacher.safetensors and teacher.json; may be empty where loss.relation_weight is 0, and then no
    relation is measured either.
    """
    initial_path: str = ""
    """Folder with tokenizer.safetensors (and perhaps discriminator.safetensors) of the same model to start from, such
    as an imported one; empty starts at random.
    """
    ema_decay: float = 0.0
    """Decay of averaged weights, per optimizer step, which are then exported and scored too; 0 averages nothing."""
    ema_warmup: bool = True
    """Let the decay rise to ema_decay as (1 + step) / (10 + step), so that short runs' averages forget the start."""
    audit_keys: bool = field(default=False, metadata=FREE)
    """Write into audit/ of the run folder which keys every worker saw at every step."""
    launcher: Literal["ray", "local"] = field(default="ray", metadata=FREE)
    """"local" trains in the process of the job itself, without Ray, for a debugger and a profiler; one worker, no
    restarts. Either goes on where the other stopped.
    """
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig, metadata=FREE)
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata=FREE)
    checkpoint_evaluation: CheckpointEvaluationConfig = field(
        default_factory=CheckpointEvaluationConfig, metadata=FREE
    )

    def __post_init__(self) -> None:
        require_finite(self)
        _require_folder_name(self.name)
        _require_one_worker(self.launcher, self.scaling)
        self.schedule.check_workers(self.scaling)
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must be in [0, 1)")
        loss = self.loss
        if self.teacher_path:
            self.model.codebook(loss.relation.codebook)
        widths = {item.name: item.width for item in self.model.codebooks}
        require(
            loss.disentanglement_weight == 0 or len(set(widths.values())) == 1,
            "loss.disentanglement_weight",
            loss.disentanglement_weight,
            f"compares codes of all codebooks, so their widths must be equal (they are {widths}); set it to 0",
        )
        heads = [item.name for item in self.model.codebooks if item.contrast.network]
        require(
            bool(heads) == (loss.contrastive_weight > 0),
            "loss.contrastive_weight",
            loss.contrastive_weight,
            "must be positive exactly where a codebook names a contrast.network; "
            f"those with one: {', '.join(heads) or 'none'}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorRun:
    """What all of `jobs.train_generator`'s runs have; XARRun, FARRun, VARRun and RQRun add the model."""

    name: str = "generator"
    """Folder of the run under output_path."""
    output_path: str = field(default="runs", metadata=FREE)
    """Folder or URI that holds runs."""
    seed: int = 0
    """Seeds initialisation, data order, dropped labels, times and noise."""
    tokenizer_path: str = ""
    """Folder with the tokenizer.safetensors that made the codes."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights, per optimizer step; 0 averages nothing."""
    ema_warmup: bool = True
    """Let the decay rise to ema_decay as (1 + step) / (10 + step), so that short runs' averages forget the start."""
    audit_keys: bool = field(default=False, metadata=FREE)
    """Write into audit/ of the run folder which keys every worker saw at every step."""
    launcher: Literal["ray", "local"] = field(default="ray", metadata=FREE)
    """"local" trains in the process of the job itself, without Ray, for a debugger and a profiler; one worker, no
    restarts. Either goes on where the other stopped.
    """
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: CodeDataConfig = field(default_factory=CodeDataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig, metadata=FREE)
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata=FREE)
    checkpoint_evaluation: SampledCheckpointsConfig = field(
        default_factory=SampledCheckpointsConfig, metadata=FREE
    )

    def __post_init__(self) -> None:
        require_finite(self)
        _require_folder_name(self.name)
        _require_one_worker(self.launcher, self.scaling)
        self.schedule.check_workers(self.scaling)
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must be in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class XARRun(GeneratorRun):
    """All of a training of xAR."""

    model: XARConfig = field(default_factory=XARConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    checkpoint_evaluation: XARCheckpointsConfig = field(
        default_factory=XARCheckpointsConfig, metadata=FREE
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FARRun(GeneratorRun):
    """All of a training of FAR, or of a GPT."""

    model: FARConfig = field(default_factory=FARConfig)
    label_dropout: float = 0.1
    """Probability that a label becomes the null label."""
    code_noise: float = field(default=0.0, metadata={ADDED_LATER: 0.0})
    """Probability that an input code becomes a random one of the table, classes behind the codes included; what is to
    be predicted stays (1 - pkeep of taming-transformers and VQGAN-LC).
    """
    checkpoint_evaluation: FARCheckpointsConfig = field(
        default_factory=FARCheckpointsConfig, metadata=FREE
    )

    def __post_init__(self) -> None:
        # Without arguments `super` does not know a class with slots.
        GeneratorRun.__post_init__(self)
        require_probability("label_dropout", self.label_dropout)
        require(
            self.label_dropout == 0 or self.model.variant.has_null_label,
            "label_dropout",
            self.label_dropout,
            f"must be 0 with model.variant.class_input = {self.model.variant.class_input!r}, which has no null label",
        )
        require_probability("code_noise", self.code_noise)
        if not self.model.variant.has_null_label:
            _require_unguided(self.checkpoint_evaluation)


@dataclass(frozen=True, kw_only=True, slots=True)
class VARRun(GeneratorRun):
    """All of a training of VAR."""

    model: VARConfig = field(default_factory=VARConfig)
    label_dropout: float = 0.1
    """Probability that a label becomes the null label."""
    checkpoint_evaluation: VARCheckpointsConfig = field(
        default_factory=VARCheckpointsConfig, metadata=FREE
    )

    def __post_init__(self) -> None:
        GeneratorRun.__post_init__(self)
        require_probability("label_dropout", self.label_dropout)


def _unguided() -> FARCheckpointsConfig:
    return FARCheckpointsConfig(sampler=TokenSamplerConfig(guidance_scale=1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class RQRun(GeneratorRun):
    """All of a training of RQ-Transformer, which has no null label: every image keeps its own."""

    model: RQConfig = field(default_factory=RQConfig)
    checkpoint_evaluation: FARCheckpointsConfig = field(default_factory=_unguided, metadata=FREE)

    def __post_init__(self) -> None:
        GeneratorRun.__post_init__(self)
        _require_unguided(self.checkpoint_evaluation)


def _require_unguided(evaluated: FARCheckpointsConfig) -> None:
    scale = evaluated.sampler.guidance_scale
    require(
        evaluated.every_steps == 0 or scale == 1,
        "checkpoint_evaluation.sampler.guidance_scale",
        scale,
        "must be 1, since this generator has no null label",
    )


AnyGeneratorRun = XARRun | FARRun | VARRun | RQRun
"""What `jobs.train_generator` trains."""
