"""All of the jobs that run other jobs many times: sweeps, ablations and guidance sweeps."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.jobs import (
    FARSampleRun,
    VARSampleRun,
    XARSampleRun,
)
from glotok_ray.config.rules import FREE, require, require_finite
from glotok_ray.config.runs import TokenizerRun, XARRun
from glotok_ray.config.search import ALPHA_FACTOR, WEIGHT, SearchField


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRun:
    """All of a search by `jobs.sweep_tokenizer`: short runs of a tokenizer recipe over lambda_hist, bins, alpha and any
    other of its fields, judged by their reconstructions; the best are trained again with other seeds.
    """

    output_path: str = field(default="runs/sweep", metadata=FREE)
    """Folder that receives results.csv, table.md, sweep.html and best_recipe.json."""
    inputs: Literal["given", "quickstart"] = "given"
    """"quickstart" makes the quickstart's shards and teacher first, where they are not there yet."""
    space: tuple[SearchField, ...] = (
        SearchField(field=WEIGHT, values=(0.0, 0.01, 0.1)),
        SearchField(field="loss.relation.num_bins", values=(20, 40, 80)),
        SearchField(field=ALPHA_FACTOR, values=(0.5, 1.0, 2.0)),
    )
    """What is varied. Where values of loss.relation_weight hold 0, the first trial is that baseline."""
    search: Literal["optuna", "random", "grid"] = "grid"
    """Who draws trials: Optuna's TPE, which learns from finished and from stopped trials; chance; or the points of a
    grid in an order drawn by the seed, none twice.
    """
    startup_trials: int = 5
    """Trials that TPE draws by chance before it learns; read with search = "optuna"."""
    num_trials: int = 12
    """Trials; the baseline first."""
    max_concurrent_trials: int = field(default=1, metadata=FREE)
    """Trials that run at once."""
    max_steps: int = 2000
    """Optimizer steps of a trial that is not stopped early, and of a finalist."""
    evaluate_every_steps: int = 0
    """Optimizer steps between a trial's evaluations, the last of them at max_steps; 0 evaluates there alone. Training
    pauses meanwhile, and goes on to the bit as if it had not.
    """
    metric: Literal["auto", "fid", "fd_effnet", "psnr"] = "auto"
    """By which trials are stopped and ranked: "auto" is rFID with evaluation.inception_path, else FD-EffNet. Never the
    loss, whose meaning changes with bins and alpha.
    """
    scheduler: Literal["asha", "median", "none"] = "none"
    """Who stops trials early: asynchronous successive halving, the median of the others' running means, or nobody."""
    grace_steps: int = 0
    """Optimizer steps before a trial may be stopped, also ASHA's first rung; 0 takes evaluate_every_steps."""
    reduction_factor: float = 2.0
    """Of ASHA: one in so many trials passes a rung, and each rung has so many times the steps of the one before."""
    min_trials_for_median: int = 3
    """Of the median: other trials that must have come as far before one is stopped."""
    num_finalists: int = 0
    """Best trials that came to max_steps, and the baseline beside them, that are trained again with each of
    finalist_seeds; 0 trains none again, and the best trial is the best.
    """
    finalist_seeds: tuple[int, ...] = (1, 2)
    """Seeds of the finalists; ranked by their mean. Other ones than tokenizer.seed, by whose luck they were chosen."""
    trial_restarts: int = field(default=2, metadata=FREE)
    """Times that a trial whose process died is started again; it goes on at its last checkpoint. An error of its own
    settings is a row at once.
    """
    seed: int = 0
    """Seeds the draw of trials; every trial trains with the tokenizer recipe's own seed."""
    retry_failed: bool = field(default=False, metadata=FREE)
    """Train again the trials that failed in an earlier run of the same sweep, which are otherwise rows without metrics,
    ranked last.
    """
    tokenizer: TokenizerRun = field(default_factory=TokenizerRun)
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)
    """Of every trial and finalist; its tokenizer_path and output_path are theirs."""

    def __post_init__(self) -> None:
        require_finite(self)
        require(self.num_trials >= 2, "num_trials", self.num_trials, "must be at least 2")
        for name in (
            "max_concurrent_trials",
            "max_steps",
            "startup_trials",
            "min_trials_for_median",
        ):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("evaluate_every_steps", "grace_steps", "num_finalists", "trial_restarts"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        require(
            self.reduction_factor > 1, "reduction_factor", self.reduction_factor, "must be above 1"
        )
        self._check_space()
        self._check_stopping()
        seeds = self.finalist_seeds
        require(
            not self.num_finalists
            or (len(set(seeds)) == len(seeds) > 0 and self.tokenizer.seed not in seeds),
            "finalist_seeds",
            seeds,
            f"must be different seeds, and not tokenizer.seed = {self.tokenizer.seed}",
        )

    def _check_space(self) -> None:
        names = [item.field for item in self.space]
        require(
            len(set(names)) == len(names) > 0,
            "space",
            names,
            "must hold fields, and none of them twice",
        )
        ranges = [item.field for item in self.space if item.has_range]
        require(
            self.search != "grid" or not ranges,
            "search",
            self.search,
            f"has no points for the ranges of {', '.join(ranges)}; give values, or take optuna or random",
        )
        require(
            not {ALPHA_FACTOR, "loss.relation.alpha"} <= set(names),
            "space",
            names,
            f"loss.relation.alpha and {ALPHA_FACTOR} set one field; keep one of them",
        )

    def _check_stopping(self) -> None:
        require(
            self.metric != "fid" or bool(self.evaluation.inception_path),
            "metric",
            self.metric,
            "needs evaluation.inception_path, the file of Inception's weights; give it, or take fd_effnet",
        )
        require(
            self.scheduler == "none" or 0 < self.evaluate_every_steps < self.max_steps,
            "evaluate_every_steps",
            self.evaluate_every_steps,
            f"must lie between 0 and max_steps = {self.max_steps} for scheduler = {self.scheduler!r}, which stops "
            "trials at evaluations",
        )
        require(
            self.first_rung <= self.max_steps,
            "grace_steps",
            self.grace_steps,
            f"must not be above max_steps = {self.max_steps}",
        )

    @property
    def first_rung(self) -> int:
        """Steps before a trial may be stopped."""
        return self.grace_steps or self.evaluate_every_steps or self.max_steps

    @property
    def judged_by(self) -> str:
        """The metric that decides."""
        if self.metric != "auto":
            return self.metric
        return "fid" if self.evaluation.inception_path else "fd_effnet"

    @property
    def higher_is_better(self) -> bool:
        """Whether a trial is better with a larger value of `judged_by`."""
        return self.judged_by == "psnr"


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
    row_restarts: int = field(default=2, metadata=FREE)
    """Times that a row whose process died is started again; it goes on at its last checkpoint. An error of its own
    settings is a row without metrics at once.
    """
    retry_failed: bool = field(default=False, metadata=FREE)
    """Train again the rows that failed in an earlier run, which otherwise stay without metrics."""

    def __post_init__(self) -> None:
        rows, restarts = self.max_concurrent_rows, self.row_restarts
        require(rows >= 1, "max_concurrent_rows", rows, "must be at least 1")
        require(restarts >= 0, "row_restarts", restarts, "must not be negative")


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

    def __post_init__(self) -> None:
        AblationRun.__post_init__(self)
        generator = self.generator
        require(
            generator.launcher == "ray" or not generator.scaling.use_gpu,
            "generator.launcher",
            generator.launcher,
            "must be ray on GPUs: the process of a row has none; pass --generator.launcher ray",
        )


AUTOMATIC = "auto"
"""Value of `best_by` for the distance that generators are compared by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceRun:
    """What all of `jobs.sweep_guidance`'s runs have; XARGuidanceRun and FARGuidanceRun add the sampling."""

    _unguided: ClassVar[int] = 1

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
        scales, least = self.guidance_scales, self._unguided
        require(
            len(set(scales)) == len(scales) > 0 and min(scales) >= least,
            "guidance_scales",
            scales,
            f"must be different numbers of at least {least} ({least} is unguided)",
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
class VARGuidanceRun(GuidanceRun):
    """All of a guidance sweep of VAR, in its own convention: 0 is unguided."""

    _unguided: ClassVar[int] = 0

    samples: VARSampleRun = field(default_factory=VARSampleRun)
    """Sampling of every value; its sampler.guidance_scale and output_path are the value's."""


AnyGuidanceRun = XARGuidanceRun | FARGuidanceRun | VARGuidanceRun
"""What `jobs.sweep_guidance` runs."""
