"""A multi-scale tokenizer made of a finished one: its config, and all of `jobs.build_scales`.

Read next: glotok_ray/peers/glotok_scales.py
"""

from dataclasses import dataclass, field

from glotok_ray.config.rules import (
    FREE,
    require,
    require_code_count,
    require_finite,
    require_positive,
)
from glotok_ray.config.teacher import KMeansConfig
from glotok_ray.config.tokenizer import TokenizerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class GloTokScalesConfig:
    """A residual pyramid over the latents of a tokenizer of this package."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer whose latents are coded; it is kept as it is."""
    num_codes: int = 4096
    """Codes of the codebook that all scales share."""
    sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Sides of the grids, rising from 1 to the tokenizer's own."""

    def __post_init__(self) -> None:
        require_code_count("scales.num_codes", self.num_codes)
        grid = self.tokenizer.autoencoder.grid_size
        sides = self.sides
        require(
            len(sides) > 1 and list(sides) == sorted(set(sides)),
            "scales.sides",
            sides,
            "must hold at least two sides and rise",
        )
        require(
            (min(sides), max(sides)) == (1, grid),
            "scales.sides",
            sides,
            f"must begin with 1 and end with {grid}, the side of the tokenizer's grid",
        )

    @property
    def image_size(self) -> int:
        """Side of the square images, pixels."""
        return self.tokenizer.autoencoder.image_size


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalesRun:
    """All of `jobs.build_scales`."""

    tokenizer_path: str = ""
    """Folder of a finished tokenizer of this package."""
    data_path: str = ""
    """Folder of training shards, of whose centre crops the codebook is clustered."""
    output_path: str = field(default="runs/scales", metadata=FREE)
    """Folder that receives tokenizer.safetensors and config.json."""
    num_codes: int = 4096
    """Codes of the codebook that all scales share."""
    sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Sides of the grids, rising from 1 to the tokenizer's own."""
    num_images: int = 8192
    """First images of the shards; fewer where there are fewer. Their latents lie in memory."""
    vectors_per_scale: int = 262144
    """Vectors of each scale that are clustered, drawn by the seed, so that large grids do not outvote small ones."""
    rounds: int = 3
    """Clusterings: the first of what ideal codes would leave over, each further one of what the codes of the one before
    leave over.
    """
    kmeans: KMeansConfig = field(default_factory=lambda: KMeansConfig(seeding="kmeans++"))
    """Clustering; its num_clusters is not read, `num_codes` is."""
    seed: int = 0
    """Seeds the draw of vectors and the initial codes."""
    batch_size: int = field(default=64, metadata=FREE)
    """Images per forward pass."""
    use_gpu: bool = field(default=True, metadata=FREE)
    """Work on the GPU that torch sees; off takes the CPU."""
    decoding_threads: int = field(default=4, metadata=FREE)
    """Threads that decode images ahead of the device."""
    storage_retry_minutes: float = field(default=5.0, metadata=FREE)
    """Minutes for which reads of shards are tried again before the job stops."""

    def __post_init__(self) -> None:
        require_finite(self)
        require_positive(
            "scales",
            self,
            ("num_images", "vectors_per_scale", "rounds", "batch_size", "decoding_threads"),
        )
        require_code_count("num_codes", self.num_codes)
        require(
            not self.kmeans.spherical and not self.kmeans.clusters_per_class,
            "kmeans",
            self.kmeans,
            "must be Euclidean over all vectors together: look-ups are; leave spherical and clusters_per_class",
        )
