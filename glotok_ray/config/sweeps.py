"""All of the jobs that run other jobs: sweeps, ablations and the quickstart."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.jobs import (
    EncodeRun,
    FARSampleRun,
    ShardRun,
    TeacherRun,
    XARSampleRun,
)
from glotok_ray.config.rules import FREE, require, require_finite
from glotok_ray.config.runs import FARRun, TokenizerRun, XARRun


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRun:
    """All of a search by `jobs.sweep_tokenizer`: short runs of a tokenizer recipe over lambda_hist, bins and alpha."""

    output_path: str = field(default="runs/sweep", metadata=FREE)
    """Folder that receives results.csv, table.md, a plot and best_recipe.json."""
    inputs: Literal["given", "quickstart"] = "given"
    """"quickstart" makes the quickstart's shards and teacher first, where they are not there yet."""
    relation_weights: tuple[float, ...] = (0.0, 0.01, 0.1)
    """Values of loss.relation_weight; 0 is the baseline without relation learning."""
    bins: tuple[int, ...] = (20, 40, 80)
    """Values of loss.relation.num_bins."""
    alpha_factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Alpha as multiples of 1 / (2 * bin width^2)."""
    num_trials: int = 12
    """Trials; the baseline first, then points drawn by the seed without repetition."""
    max_concurrent_trials: int = field(default=1, metadata=FREE)
    """Trials that run at once."""
    max_steps: int = 2000
    """Optimizer steps per trial, the same for all."""
    seed: int = 0
    """Seeds the draw of trials; every trial trains with the tokenizer recipe's own seed."""
    retry_failed: bool = field(default=False, metadata=FREE)
    """Train again the trials that failed in an earlier run of the same sweep, which are otherwise rows without metrics,
    ranked last.
    """
    tokenizer: TokenizerRun = field(default_factory=TokenizerRun)
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)

    def __post_init__(self) -> None:
        require_finite(self)
        require(self.num_trials >= 2, "num_trials", self.num_trials, "must be at least 2")
        for name in ("max_concurrent_trials", "max_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        weights, bins, factors = self.relation_weights, self.bins, self.alpha_factors
        require(min(weights, default=0) >= 0, "relation_weights", weights, "must not be negative")
        require(min(bins, default=2) >= 2, "bins", bins, "must be at least 2 each")
        require(min(factors, default=1) > 0, "alpha_factors", factors, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationRun:
    """What the ablations of tokenizers and of generators have in common: one training per row of published tables."""

    output_path: str = field(default="runs/ablations", metadata=FREE)
    """Folder that receives results.csv, table.md and, under rows/, the parts of every row."""
    inputs: Literal["given", "quickstart"] = field(default="given", metadata=FREE)
    """"quickstart" makes the quickstart's folders that the rows read first, where they are not there yet."""
    rows: tuple[str, ...] = field(default=(), metadata=FREE)
    """Names of the recipes' ROWS; empty takes all. Rows that an earlier run finished stay in the tables."""
    max_concurrent_rows: int = field(default=1, metadata=FREE)
    """Rows that are trained at once."""
    retry_failed: bool = field(default=False, metadata=FREE)
    """Train again the rows that failed in an earlier run, which otherwise stay without metrics."""

    def __post_init__(self) -> None:
        rows = self.max_concurrent_rows
        require(rows >= 1, "max_concurrent_rows", rows, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerAblationRun(AblationRun):
    """All of the ablations by `jobs.sweep_tokenizer`: one tokenizer recipe trained once per row of the paper's tables
    (`glotok_ray.recipes.tokenizer_rows.ROWS`), and its reconstructions measured.
    """

    max_steps: int = 2000
    """Optimizer steps per row, the same for all."""
    tokenizer: TokenizerRun = field(default_factory=TokenizerRun)
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)
    """Evaluation of every row; its tokenizer_path and output_path are the row's."""

    def __post_init__(self) -> None:
        # Without arguments `super` does not know a class with slots.
        AblationRun.__post_init__(self)
        require(self.max_steps >= 1, "max_steps", self.max_steps, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorAblationRun(AblationRun):
    """All of `jobs.sweep_generator`: one xAR recipe trained once per row of xAR's ablations
    (`glotok_ray.recipes.generator_ablations.ROWS`), sampled and measured.
    """

    generator: XARRun = field(default_factory=XARRun)
    samples: XARSampleRun = field(default_factory=XARSampleRun)
    """Sampling of every row; its generator_path and output_path are the row's."""
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)
    """Evaluation of every row's samples; its samples_path and output_path are the row's."""


AUTOMATIC = "auto"
"""Value of `best_by` for the distance that generators are compared by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceRun:
    """What all of `jobs.sweep_guidance`'s runs have; XARGuidanceRun and FARGuidanceRun add the sampling."""

    output_path: str = field(default="runs/guidance", metadata=FREE)
    """Folder that receives guidance.csv, guidance.json, guidance.png and, under values/, samples and evaluation of each
    value.
    """
    guidance_scales: tuple[float, ...] = field(default=(1.0, 1.5, 2.0, 3.0), metadata=FREE)
    """Guidance at which samples are drawn and measured; 1 is unguided. Values that an earlier run measured stay in the
    results.
    """
    best_by: Literal[
        "auto",
        "samples_fid_reference",
        "samples_fid",
        "samples_fid_training",
        "samples_sfid",
        "samples_inception_score",
        "samples_fd_dinov2",
        "samples_fd_effnet",
        "samples_fd_effnet_training",
        "samples_own_class",
    ] = field(default=AUTOMATIC, metadata=FREE)
    """Metric that names the best value. "auto" is FID from evaluation.reference_path where that is given, else FID from
    the validation crops where Inception is, else FD-EffNet.
    """
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)
    """Evaluation of every value's samples; its samples_path and output_path are the value's. What the feature networks
    make of real images is kept in its statistics_path or, where that is empty, in the sweep's folder: it is computed
    for the first value alone.
    """

    def __post_init__(self) -> None:
        scales = self.guidance_scales
        require(
            len(set(scales)) == len(scales) > 0 and min(scales) >= 1,
            "guidance_scales",
            scales,
            "must be different numbers of at least 1 (1 is unguided)",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class XARGuidanceRun(GuidanceRun):
    """All of a guidance sweep of xAR."""

    samples: XARSampleRun = field(default_factory=XARSampleRun)
    """Sampling of every value; its sampler.guidance_scale and output_path are the value's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FARGuidanceRun(GuidanceRun):
    """All of a guidance sweep of FAR, or of LlamaGen's GPT."""

    samples: FARSampleRun = field(default_factory=FARSampleRun)
    """Sampling of every value; its sampler.guidance_scale and output_path are the value's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartRun:
    """All of `jobs.quickstart`: its stages, their folders chained under output_path. Two stages have no settings of
    their own: `twin` and `twin_evaluation` follow from those of the tokenizer and of its evaluation.
    """

    output_path: str = "runs/quickstart"
    """Folder of everything that the pipeline writes."""
    data: ShardRun = field(default_factory=ShardRun)
    teacher: TeacherRun = field(default_factory=TeacherRun)
    tokenizer: TokenizerRun = field(default_factory=TokenizerRun)
    codes: EncodeRun = field(default_factory=EncodeRun)
    generator: XARRun = field(default_factory=XARRun)
    samples: XARSampleRun = field(default_factory=XARSampleRun)
    far: FARRun = field(default_factory=FARRun)
    far_samples: FARSampleRun = field(default_factory=FARSampleRun)
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)
    far_evaluation: EvaluateRun = field(default_factory=EvaluateRun)

    def __post_init__(self) -> None:
        form = self.data.output_form
        require(
            form == "parquet",
            "data.output_form",
            form,
            "must be 'parquet', which the later stages read; tars are made by jobs.shard_images",
        )
        for name in ("evaluation", "far_evaluation"):
            several = getattr(self, name).samples_paths
            require(
                not several,
                f"{name}.samples_paths",
                several,
                "must be empty: the samples of this run are measured; several are by jobs.evaluate_images",
            )

    @property
    def twin(self) -> TokenizerRun:
        """The tokenizer's run once more without the relation loss, all else equal, so that what it does can be seen."""
        loss = dataclasses.replace(self.tokenizer.loss, relation_weight=0.0)
        return dataclasses.replace(self.tokenizer, name="twin", loss=loss)

    @property
    def twin_evaluation(self) -> EvaluateRun:
        """The evaluation of the twin, of its reconstructions and codebooks alone."""
        return dataclasses.replace(
            self.evaluation,
            tokenizer_path=str(Path(self.output_path) / "twin"),
            samples_path="",
            codes_path="",
            training_path="",
            generator_path="",
            reference_path="",
            output_path=str(Path(self.output_path) / "twin_evaluation"),
        )
