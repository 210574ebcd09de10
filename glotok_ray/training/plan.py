"""The arithmetic of a run on its data set: steps, batches, which rows in which order. Needs no torch.

Read next: glotok_ray/data/shard_plan.py
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glotok_ray.config.runs import GeneratorRun, TokenizerRun
from glotok_ray.config.tracking import TrackingConfig
from glotok_ray.config.training import OptimizerConfig, ScalingConfig, ScheduleConfig
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.data.shard_plan import Division, ShardPlan
from glotok_ray.data.training_rows import CodeRows, ImageRows, expect_images, shard_rows
from glotok_ray.storage.places import to_path

LOG_FOLDER = "logs"
"""In a run's folder: what the launcher and the workers tell of attempts."""
RAY_FOLDER = "ray"
"""In a run's folder: Ray Train's own files."""
CHECKPOINT_FORMAT = 2
"""1 was DeepSpeed's own, bound to its number of workers; 2 is in pieces by parameter."""
RUN_FILE = "run.json"
"""In a run's folder: what crops a tokenizer is trained on. Older versions noted the run's fingerprint there too."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The arithmetic of a run, and the facts of its data set, which are read once."""

    folder: Path
    dataset: DatasetInfo
    """Of the rows to train on."""
    seed: int
    steps_per_epoch: int
    schedule: ScheduleConfig
    optimizer: OptimizerConfig
    scaling: ScalingConfig
    max_bad_rows: int = 0
    audit_keys: bool = False
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def state_layout(self) -> dict[str, Any]:
        """What decides the files of a checkpoint; a run goes on under the same alone. Workers and ZeRO stage may be
        others (training/pieces.py).
        """
        names = ("engine", "precision")
        return {f"scaling.{name}": getattr(self.scaling, name) for name in names} | {
            "checkpoint.format": CHECKPOINT_FORMAT
        }

    @property
    def micro_batch_size(self) -> int:
        """Images per worker and forward pass."""
        return self.schedule.micro_batch(self.scaling.num_workers)

    @property
    def accumulation_steps(self) -> int:
        """Forward passes per worker and optimizer step."""
        return self.schedule.accumulation_steps(self.scaling.num_workers)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.schedule.total_steps(self.steps_per_epoch)

    @property
    def last_step(self) -> int:
        """Optimizer steps after which this process stops."""
        return min(self.schedule.stop_after_steps or self.total_steps, self.total_steps)


def run_folder(config: TokenizerRun | GeneratorRun) -> Path:
    """The folder of a run."""
    return (to_path(config.output_path) / config.name).absolute()


def run_plan(config: TokenizerRun | GeneratorRun) -> RunPlan:
    """The plan of a run; reads dataset.json, and raises ArtefactError when the data are not what the recipe expects."""
    dataset = read_dataset(to_path(config.data.train_path))
    images = expect_images(dataset, config.data.train_path, config.data.num_train_images)
    return RunPlan(
        folder=run_folder(config),
        dataset=dataset,
        seed=config.seed,
        steps_per_epoch=config.schedule.steps_per_epoch(images),
        schedule=config.schedule,
        optimizer=config.optimizer,
        scaling=config.scaling,
        max_bad_rows=config.data.max_bad_rows if isinstance(config, TokenizerRun) else 0,
        audit_keys=config.audit_keys,
        tracking=config.tracking,
    )


def row_reader(config: TokenizerRun | GeneratorRun, plan: RunPlan) -> ImageRows | CodeRows:
    """What turns a plan unit into rows."""
    if isinstance(config, TokenizerRun):
        return ImageRows.of(
            config.data,
            seed=config.seed,
            image_size=config.model.autoencoder.image_size,
            retry_minutes=config.scaling.storage_retry_minutes,
        )
    dataset = plan.dataset
    return CodeRows(
        to_path(config.data.train_path).absolute(),
        config.seed,
        dataset.num_views,
        dataset.code_counts,
        len(dataset.classes),
        dataset.num_indices,
        config.scaling.storage_retry_minutes,
    )


def row_plan(config: TokenizerRun | GeneratorRun, plan: RunPlan) -> ShardPlan:
    """The order of all rows of a run."""
    return ShardPlan(
        tuple(shard_rows(plan.dataset, rows_per_image=plan.dataset.num_views)),
        seed=config.seed,
        batch_size=config.schedule.global_batch_size,
        steps_per_epoch=plan.steps_per_epoch,
        open_shards=config.data.open_shards,
    )


def division(config: TokenizerRun | GeneratorRun) -> Division:
    """How the rows of a run are divided among its workers."""
    workers = config.scaling.num_workers
    return Division(workers, config.schedule.micro_batch(workers), config.scaling.unit_rows)
