"""What every training run has: optimizer, workers and engine, data, schedule."""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.rules import ADDED_LATER, FREE, neighbours, require, require_positive


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
class ScalingConfig:
    """How many workers train and what each gets."""

    num_workers: int = 8
    """Ray Train workers (one process each)."""
    min_workers: int = 0
    """Workers with which a training begins, or goes on, where the cluster has no more; 0: num_workers. The global batch
    stays: a number of workers that does not divide it is not taken.
    """
    max_workers: int = 0
    """Workers that are asked for, and taken as nodes come; 0: num_workers."""
    use_gpu: bool = True
    """One GPU per worker; off trains on CPU."""
    cpus_per_worker: float = 8.0
    """Logical CPUs that Ray reserves per worker."""
    threads_per_worker: int = 0
    """Torch threads per worker; 0 leaves torch's own choice."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    """"torch" is a plain optimizer for one process; tests compare the two."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage."""
    precision: Literal["fp32", "bf16_autocast", "bf16"] = "bf16"
    """"bf16_autocast" computes convolutions and products in bf16 on fp32 weights; "bf16" also keeps bf16 weights
    beside fp32 masters. Look-ups and losses stay in fp32.
    """
    bucket_elements: int = 50_000_000
    """Numbers that DeepSpeed gathers or reduces at once, at most, and that its optimizer updates at once under ZeRO 3:
    more is faster on a fast network and takes more memory.
    """
    activation_checkpointing: bool = False
    """Keep only the inputs of blocks and compute the rest again in the backward pass: less memory, about a third
    more time.
    """
    compile: bool = False
    """Let torch.compile fuse the trained networks; the first step then takes minutes."""
    unit_rows: int = 256
    """Images that one reading task brings at once, at most: whole micro batches of one worker."""
    decode_on: Literal["auto", "ingest", "trainer"] = "auto"
    """Where rows are read and decoded: "ingest" in tasks of Ray Data on CPUs that no worker holds, "trainer" in threads
    of each worker. "auto" takes the trainer where fewer CPUs are free than the workers of GPUs hold beyond one each, or
    none is. Rows, their order and their pixels are the same.
    """
    decode_threads: int = 0
    """Threads that read and decode in each worker, with decode_on "trainer"; 0 takes cpus_per_worker less one."""
    storage_retry_minutes: float = 5.0
    """Minutes for which reads and writes of shards, codes and checkpoints are tried again before the run stops."""
    max_failures: int = 3
    """Restarts from the newest checkpoint within `failure_window_minutes` before the run fails."""
    failure_window_minutes: float = 60.0
    """Older restarts no longer count: a run of weeks outlives a node lost now and then, one that fails at once ends."""
    stall_minutes: float = 12.0
    """When a worker stays in one phase of a step for longer, all workers write their stacks and the run is restarted;
    the first step may take three times as long. Must exceed the slowest checkpoint or evaluation; 0 waits for ever.
    """

    def __post_init__(self) -> None:
        require(
            self.num_workers >= 1, "scaling.num_workers", self.num_workers, "must be at least 1"
        )
        require_positive("scaling", self, ("unit_rows",))
        self._require_range()
        for name in (
            "max_failures",
            "failure_window_minutes",
            "decode_threads",
            "stall_minutes",
            "storage_retry_minutes",
        ):
            value = getattr(self, name)
            require(value >= 0, f"scaling.{name}", value, "must not be negative")
        require(
            self.stall_minutes == 0 or self.stall_minutes > 2 * self.storage_retry_minutes,
            "scaling.stall_minutes",
            self.stall_minutes,
            "must exceed twice storage_retry_minutes, for which storage may keep a worker waiting "
            f"({self.storage_retry_minutes:g}), or be 0",
        )
        require(
            self.bucket_elements >= 2,
            "scaling.bucket_elements",
            self.bucket_elements,
            "must be at least 2",
        )
        require(
            self.engine == "deepspeed" or self.worker_range[1] == 1,
            "scaling.engine",
            self.engine,
            'is for one worker; use "deepspeed" with more',
        )
        require(
            self.engine == "deepspeed" or self.precision != "bf16",
            "scaling.precision",
            self.precision,
            'keeps master weights, which engine "torch" does not; use "bf16_autocast" or "fp32"',
        )
        require(
            self.zero_stage >= 1 or self.precision != "bf16",
            "scaling.zero_stage",
            self.zero_stage,
            'must be at least 1 with precision "bf16": at stage 0 DeepSpeed accumulates other gradients than at stages '
            "1 to 3 (DECISIONS.md)",
        )

    @property
    def worker_range(self) -> tuple[int, int]:
        """The fewest and the most workers that train."""
        return self.min_workers or self.num_workers, self.max_workers or self.num_workers

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change during a run."""
        least, most = self.worker_range
        return least < most

    def _require_range(self) -> None:
        least, most = self.worker_range
        require(
            0 < least <= self.num_workers,
            "scaling.min_workers",
            self.min_workers,
            f"must be at least 1 and at most scaling.num_workers = {self.num_workers}, or 0, which takes that",
        )
        require(
            self.num_workers <= most,
            "scaling.max_workers",
            self.max_workers,
            f"must be at least scaling.num_workers = {self.num_workers}, or 0, which takes that",
        )


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


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
