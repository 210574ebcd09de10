"""How many workers train, what each of them gets, and how a run outlives them."""

from dataclasses import dataclass
from typing import Literal

from glotok_ray.config.rules import require, require_positive


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
    none is, and for codes, which need no decoding. Rows, their order and their pixels are the same.
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
