"""What a teacher is made with: the frozen network that is loaded, and k-means over its features."""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.rules import FREE, require, require_finite


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureNetworkConfig:
    """A frozen feature network to load: its name, its weights, and which of its outputs is taken."""

    name: str = "dinov2_vitb14_reg"
    """A name of `glotok_ray.teacher.networks.NETWORKS`; "efficientnet_lite0" ships with the package."""
    weights_path: str = ""
    """Local weights file; empty lets timm download its own, and is right for "efficientnet_lite0"."""
    weights_sha256: str = ""
    """Digest that the weights file must have; empty accepts any and records it."""
    block: int = -1
    """Transformer block whose output is taken, counted from the end: -1 is the last, -3 DiGIT's."""
    final_norm: bool = True
    """Pass the block's output through the network's last LayerNorm."""
    projected: bool = False
    """Pass patch tokens through CLIP's projection too (VQGAN-LC); CLIP alone has one."""
    input_size: int = 224
    """Side to which images are resized for the network, pixels."""

    def __post_init__(self) -> None:
        require(
            self.block <= -1,
            self.full_name("block"),
            self.block,
            "counts from the end: -1 is the last",
        )

    def full_name(self, name: str) -> str:
        """A field as the user writes it, for messages."""
        return f"network.{name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class KMeansConfig:
    """K-means over feature vectors."""

    num_clusters: int = 4096
    """Centroids of k-means over all vectors; unused with clusters_per_class."""
    clusters_per_class: int = 0
    """Cluster every class by itself into this many centroids (VQGAN-LC has 100); 0 clusters all
    vectors together.
    """
    iterations: int = 20
    """Lloyd iterations, at most; a run that no longer moves stops."""
    seeding: Literal["random", "kmeans++"] = "random"
    """Initial centroids: vectors drawn alike, or far apart from each other."""
    restarts: int = 1
    """Runs from different seeds, of which the best objective is kept."""
    spherical: bool = False
    """Cosine k-means: vectors are normalised, and centroids after each iteration."""
    memory_gib: float = field(default=16.0, metadata=FREE)
    """Features up to this size are clustered in the driver's memory; larger ones stay in Parquet and
    each Lloyd iteration runs over the pool.
    """

    def __post_init__(self) -> None:
        require_finite(self, "kmeans.")
        for name in ("num_clusters", "iterations", "restarts"):
            require(
                getattr(self, name) >= 1,
                f"kmeans.{name}",
                getattr(self, name),
                "must be at least 1",
            )
        require(
            self.clusters_per_class >= 0,
            "kmeans.clusters_per_class",
            self.clusters_per_class,
            "must be at least 0",
        )
        require(self.memory_gib > 0, "kmeans.memory_gib", self.memory_gib, "must be positive")
