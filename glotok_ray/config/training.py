"""What every training run has: optimizer, workers and engine, data, schedule."""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.rules import ADDED_LATER, FREE, neighbours, require, require_positive
from glotok_ray.config.scaling import ScalingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Optimizer, gradient clipping and learning-rate schedule."""

    name: Literal["adam", "adamw"] = "adam"
    """Adam ignores weight_decay only when it is 0; AdamW decouples it."""
    learning_rate: float = 2e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's moment decay rates."""
    weight_decay: float = 0.0
    """Applied to parameters of two or more dimensions."""
    gradient_clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    schedule: Literal["constant", "warmup_hold_cosine", "warmup_hold_linear", "warmup_cosine"] = (
        "constant"
    )
    """Shape of the learning rate over the run."""
    warmup_fraction: float = 0.0
    """Share of all steps with linear warm-up from 0."""
    hold_fraction: float = 0.0
    """Share of all steps at which "warmup_hold_cosine" and "warmup_hold_linear" start to fall."""
    final_learning_rate: float = 0.0
    """Learning rate at the last step of a schedule that falls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDataConfig:
    """Image shards in, augmented batches out (tokenizer training)."""

    train_path: str = ""
    """Folder of the training shards, with its dataset.json."""
    validation_path: str = ""
    """Folder of the validation shards, from which the running PSNR is taken."""
    num_train_images: int = 1281167
    """Rows expected in train_path, checked against dataset.json; 0 takes what is there."""
    num_validation_images: int = 512
    """Validation images scored at each checkpoint; 0 scores none."""
    horizontal_flip: bool = True
    """Mirror half of the training images."""
    crop: Literal["random", "center"] = "random"
    """"random" is ADM's crop: short side uniform in [image size, 1.25 * image size]; "center" takes the middle."""
    decoding: Literal["exact", "fast"] = field(default="exact", metadata={ADDED_LATER: "exact"})
    """"exact" makes ADM's crop bit for bit as Pillow does. "fast" cuts the same places with libjpeg-turbo and torch,
    in about 0.6 times the time: over 60 dB from it, and 30 dB where a JPEG's short side is at least twice that of the
    resized picture. Evaluation and encoding are exact always.
    """
    adm_protocol: bool = field(default=False, metadata=FREE)
    """Refuse images that were reduced, turned or changed when they were sharded: crops are ADM's of originals, or the
    data set's own, alone. Off takes all, and the log and the run's facts say what they are.
    """
    open_shards: int = 8
    """Shards that are read side by side; every batch draws from all of them."""
    max_bad_rows: int = field(default=0, metadata=FREE)
    """Different rows that may turn out broken while training: each is named and another row takes its place. One more
    stops the run; 0 stops it at the first.
    """

    def __post_init__(self) -> None:
        require(
            self.num_train_images >= 0,
            "data.num_train_images",
            self.num_train_images,
            "must not be negative; 0 takes what is there",
        )
        require(
            self.num_validation_images >= 0,
            "data.num_validation_images",
            self.num_validation_images,
            "must not be negative; 0 scores none",
        )
        require_positive("data", self, ("open_shards",))
        require(
            self.max_bad_rows >= 0,
            "data.max_bad_rows",
            self.max_bad_rows,
            "must not be negative; 0 stops at the first broken row",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeDataConfig:
    """Parquet codes in, batches of indices out (generator training); each epoch draws one stored view per image."""

    train_path: str = ""
    """Folder of the training codes, with its dataset.json."""
    num_train_images: int = 1281167
    """Images expected in train_path (views apart), checked against dataset.json; 0 takes what is there."""
    views: Literal["", "center", "center_flip", "ten_crop"] = field(default="", metadata=FREE)
    """Views that the codes must hold (`EncodeRun.views`), checked against dataset.json; empty takes any."""
    open_shards: int = 8
    """Files of codes that are read side by side; every batch draws from all of them."""

    def __post_init__(self) -> None:
        require(
            self.num_train_images >= 0,
            "data.num_train_images",
            self.num_train_images,
            "must not be negative; 0 takes what is there",
        )
        require_positive("data", self, ("open_shards",))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Batch arithmetic and cadence of a training run."""

    global_batch_size: int = 240
    """Images per optimizer step over all workers (paper section 4.1)."""
    micro_batch_size: int = field(default=30, metadata=FREE)
    """Images per worker and forward pass, at most: a worker's share is cut into equal passes."""
    epochs: int = 150
    """Passes over the training set (paper section 4.1); the remainder that fills no batch is dropped."""
    num_steps: int = field(default=0, metadata={ADDED_LATER: 0})
    """Optimizer steps of the whole run, at most: it ends there, also within an epoch, and so do its schedules; 0 takes
    those of `epochs`.
    """
    log_every_steps: int = field(default=100, metadata=FREE)
    """Steps between lines of metrics.jsonl."""
    checkpoint_every_epochs: int = field(default=1, metadata=FREE)
    """Epochs between evaluations, each with a checkpoint."""
    checkpoint_every_steps: int = field(default=0, metadata=FREE)
    """Steps between checkpoints that evaluate nothing; 0 writes none of them."""
    checkpoint_every_minutes: float = field(default=0.0, metadata=FREE)
    """Minutes of rank 0's clock, since the checkpoint before, after which one is written that evaluates nothing; 0
    writes none of them.
    """
    checkpoints_to_keep: int = field(default=3, metadata=FREE)
    """Newest checkpoints that stay on disk."""
    stop_after_steps: int = field(default=0, metadata=FREE)
    """Stop (with a checkpoint) after this many optimizer steps, under the schedule of the whole
    run; 0 trains to the end. Running again without it goes on.
    """
    profile_steps: int = field(default=0, metadata=FREE)
    """Optimizer steps of rank 0 that torch's profiler traces into profile/trace.json.gz of the run folder, after the
    first five of a start; chrome://tracing and Perfetto open it. A few: each makes megabytes. 0 traces none.
    """

    def __post_init__(self) -> None:
        counts = ("global_batch_size", "micro_batch_size", "epochs", "log_every_steps")
        require_positive("schedule", self, counts)
        require_positive("schedule", self, ("checkpoint_every_epochs", "checkpoints_to_keep"))
        require(
            self.num_steps >= 0,
            "schedule.num_steps",
            self.num_steps,
            "must not be negative; 0 trains for schedule.epochs",
        )
        require(
            self.profile_steps >= 0,
            "schedule.profile_steps",
            self.profile_steps,
            "must not be negative; 0 traces no step",
        )
        for name in ("checkpoint_every_steps", "checkpoint_every_minutes"):
            require(
                getattr(self, name) >= 0,
                f"schedule.{name}",
                getattr(self, name),
                "must not be negative; 0 writes checkpoints with evaluations alone",
            )

    def check_workers(self, scaling: ScalingConfig) -> None:
        """Raise ValueError unless the fewest and the most workers divide the global batch, and what is planned for."""
        self.accumulation_steps(scaling.num_workers)
        for name, workers in zip(("min_workers", "max_workers"), scaling.worker_range, strict=True):
            divisors = _divisors(self.global_batch_size)
            require(
                workers in divisors,
                f"scaling.{name}",
                workers,
                f"must divide schedule.global_batch_size = {self.global_batch_size}, which is kept at any number of "
                f"workers; take {' or '.join(neighbours(divisors, workers))}",
            )

    def micro_batch(self, num_workers: int) -> int:
        """Images per worker and forward pass: the largest number up to `micro_batch_size` that divides a worker's
        share of the global batch, which is thus kept at any worker count that divides it.
        """
        share, rest = divmod(self.global_batch_size, num_workers)
        divisors = _divisors(self.global_batch_size)
        require(
            rest == 0,
            "schedule.global_batch_size",
            self.global_batch_size,
            f"must be a multiple of scaling.num_workers = {num_workers} ({self.global_batch_size} = {num_workers} * "
            f"{share} + {rest}); take {' or '.join(neighbours(divisors, num_workers))} workers, or another batch",
        )
        return max(n for n in range(1, min(self.micro_batch_size, share) + 1) if share % n == 0)

    def accumulation_steps(self, num_workers: int) -> int:
        """Forward passes per worker and optimizer step."""
        return self.global_batch_size // (num_workers * self.micro_batch(num_workers))

    def steps_per_epoch(self, num_images: int) -> int:
        """Optimizer steps per epoch; the tail that fills no batch is dropped."""
        steps = num_images // self.global_batch_size
        require(
            steps >= 1,
            "schedule.global_batch_size",
            self.global_batch_size,
            f"exceeds the training set of {num_images} images; lower it",
        )
        return steps

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        steps = steps_per_epoch * self.epochs
        return min(self.num_steps or steps, steps)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
