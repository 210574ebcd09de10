"""All of a comparison of generators."""

from dataclasses import dataclass, field

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.pool import PoolConfig
from glotok_ray.config.rules import FREE, require, require_finite, require_positive


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareGeneratorsRun:
    """All of `jobs.compare_generators`."""

    generator_paths: tuple[str, ...] = field(default=(), metadata=FREE)
    """Folders of finished generators with their tokenizers, at least one. Results are bound to their weights."""
    skip_missing: bool = field(default=False, metadata=FREE)
    """Leave out generators that are not there, with a line in the log; off refuses them."""
    output_path: str = field(default="runs/generators", metadata=FREE)
    """Folder that receives table.md, table.csv, metrics.json, samples.png and, under values/, samples and evaluation of
    each generator.
    """
    num_images: int = 50000
    """Images of each generator; image i has class i mod num_classes."""
    seed: int = 0
    """Randomness is keyed by (seed, image), the same for all generators."""
    timed_images: int = 64
    """Images of the batch whose seconds tell images per second, after one of the same size that warms up, in the
    process of the job itself; 0 times none.
    """
    use_gpu: bool = True
    """Time on the GPU that torch sees; off takes the CPU."""
    shown_images: int = 8
    """First images of each generator in the grid."""
    pool: PoolConfig = field(default_factory=PoolConfig, metadata=FREE)
    """Actors that sample."""
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)
    """Evaluation of every generator's samples; its samples_path and output_path are the generator's. What the feature
    networks make of real images is kept in its statistics_path or, where that is empty, in the comparison's folder.
    """

    def __post_init__(self) -> None:
        require_finite(self)
        require(
            bool(self.generator_paths),
            "generator_paths",
            self.generator_paths,
            "must name at least one",
        )
        require_positive("compare_generators", self, ("num_images", "shown_images"))
        require(
            self.timed_images >= 0, "timed_images", self.timed_images, "must be at least 0 (none)"
        )
        for name in ("tokenizer_path", "codes_path", "generator_path", "samples_path"):
            value = getattr(self.evaluation, name)
            require(
                not value,
                f"evaluation.{name}",
                value,
                "must be empty: samples alone are measured, of each generator the same",
            )
        require(
            not self.evaluation.samples_paths,
            "evaluation.samples_paths",
            self.evaluation.samples_paths,
            "must be empty: the samples are those of generator_paths",
        )
