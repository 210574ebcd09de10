"""Every tunable of every job, once, as frozen dataclasses; the docstring under a field is its meaning.

One file per floor: rules, tokenizer, losses, generator, teacher, training, tracking, runs, pool, jobs, evaluation,
checkpoint_evaluation, tokenizer_comparison, search, sweeps; `overrides`
applies dotted names (`{"loss.relation_weight": 0.1}`), which the command line and Ray Tune use too. Constructors only
check: they raise ValueError with the field, its value, the rule and the remedy. All names can be had from here; modules
of this package import them from their own file, so that a floor reaches no config above it. Imports nothing else of
this package.
Named runs are functions in `glotok_ray/recipes/`. Read next: glotok_ray/recipes/train_tokenizer.py
"""

from glotok_ray.config.checkpoint_evaluation import (
    CheckpointEvaluationConfig,
    FARCheckpointsConfig,
    SampledCheckpointsConfig,
    XARCheckpointsConfig,
)
from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.generator import FARConfig, FlowConfig, VocabularyConfig, XARConfig
from glotok_ray.config.jobs import (
    EMBEDDED_SOURCE,
    EncodeRun,
    ExportGeneratorRun,
    ExportRun,
    FARSampleRun,
    SampleRun,
    ShardRun,
    TeacherRun,
    XARSampleRun,
)
from glotok_ray.config.losses import RelationConfig, TokenizerLossConfig
from glotok_ray.config.overrides import (
    absolute_path,
    bound_settings,
    from_dict,
    override,
    relative_paths,
    to_dict,
    with_absolute_paths,
)
from glotok_ray.config.pool import PoolConfig
from glotok_ray.config.runs import FARRun, GeneratorRun, TokenizerRun, XARRun
from glotok_ray.config.samplers import FlowSamplerConfig, TokenSamplerConfig
from glotok_ray.config.search import SearchField
from glotok_ray.config.sweeps import (
    AblationRun,
    FARGuidanceRun,
    GeneratorAblationRun,
    GuidanceRun,
    QuickstartRun,
    SweepRun,
    TokenizerAblationRun,
    XARGuidanceRun,
)
from glotok_ray.config.teacher import FeatureNetworkConfig, KMeansConfig
from glotok_ray.config.tokenizer import (
    AdapterConfig,
    AutoencoderConfig,
    CodebookConfig,
    ContrastConfig,
    DiscriminatorConfig,
    ResidualConfig,
    TokenizerConfig,
)
from glotok_ray.config.tokenizer_comparison import EvaluateTokenizersRun
from glotok_ray.config.tracking import TrackingConfig
from glotok_ray.config.training import (
    CodeDataConfig,
    ImageDataConfig,
    OptimizerConfig,
    ScalingConfig,
    ScheduleConfig,
)

__all__ = [
    "EMBEDDED_SOURCE",
    "AblationRun",
    "AdapterConfig",
    "AutoencoderConfig",
    "CheckpointEvaluationConfig",
    "CodeDataConfig",
    "CodebookConfig",
    "ContrastConfig",
    "DiscriminatorConfig",
    "EncodeRun",
    "EvaluateRun",
    "EvaluateTokenizersRun",
    "ExportGeneratorRun",
    "ExportRun",
    "FARCheckpointsConfig",
    "FARConfig",
    "FARGuidanceRun",
    "FARRun",
    "FARSampleRun",
    "FeatureNetworkConfig",
    "FlowConfig",
    "FlowSamplerConfig",
    "GeneratorAblationRun",
    "GeneratorRun",
    "GuidanceRun",
    "ImageDataConfig",
    "KMeansConfig",
    "OptimizerConfig",
    "PoolConfig",
    "QuickstartRun",
    "RelationConfig",
    "ResidualConfig",
    "SampleRun",
    "SampledCheckpointsConfig",
    "ScalingConfig",
    "ScheduleConfig",
    "SearchField",
    "ShardRun",
    "SweepRun",
    "TeacherRun",
    "TokenSamplerConfig",
    "TokenizerAblationRun",
    "TokenizerConfig",
    "TokenizerLossConfig",
    "TokenizerRun",
    "TrackingConfig",
    "VocabularyConfig",
    "XARCheckpointsConfig",
    "XARConfig",
    "XARGuidanceRun",
    "XARRun",
    "XARSampleRun",
    "absolute_path",
    "bound_settings",
    "from_dict",
    "override",
    "relative_paths",
    "to_dict",
    "with_absolute_paths",
]
