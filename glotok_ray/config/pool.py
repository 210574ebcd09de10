"""The actor pool of a batch job; its own file, so that what works inside an actor needs no job's config."""

from dataclasses import dataclass

from glotok_ray.config.rules import require, require_finite, require_positive


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """An actor pool of a batch job."""

    num_actors: int = 8
    """Actors in the pool."""
    use_gpu: bool = True
    """One GPU per actor; off runs on CPU."""
    cpus_per_actor: float = 4.0
    """Logical CPUs that Ray reserves per actor, and threads that decode images in it (at least one)."""
    threads_per_actor: int = 0
    """Torch threads per actor; 0 leaves torch's own choice."""
    batch_size: int = 64
    """Images per forward pass."""
    storage_retry_minutes: float = 5.0
    """Minutes for which reads of shards and writes of codes are tried again before the job stops."""

    def __post_init__(self) -> None:
        require_finite(self, "pool.")
        require_positive("pool", self, ("num_actors", "batch_size"))
        require(
            self.storage_retry_minutes >= 0,
            "pool.storage_retry_minutes",
            self.storage_retry_minutes,
            "must not be negative; 0 never tries again",
        )

    @property
    def decoding_threads(self) -> int:
        """Threads of an actor that decode images ahead of its device."""
        return max(1, int(self.cpus_per_actor))
