"""All of a comparison of tokenizers."""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.evaluation import DOWNLOAD
from glotok_ray.config.rules import FREE, PATH_UNLESS, require, require_positive


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateTokenizersRun:
    """All of `jobs.evaluate_tokenizers`."""

    tokenizer_paths: tuple[str, ...] = field(default=(), metadata=FREE)
    """Folders of finished tokenizers, ours or of other systems; at least one. Results are bound to their weights."""
    skip_missing: bool = field(default=False, metadata=FREE)
    """Leave out tokenizers that are not there, with a line in the log; off refuses them."""
    data_path: str = ""
    """Folder of validation shards, whose centre crops every tokenizer reconstructs."""
    output_path: str = field(default="runs/tokenizers", metadata=FREE)
    """Folder that receives table.md, table.csv, metrics.json and reconstructions.png."""
    num_images: int = 0
    """First images of the shards; 0 takes all."""
    image_size: int = 0
    """Side of the crops, pixels; every tokenizer must take it. 0 takes each one's own."""
    batch_size: int = 16
    """Images per forward pass. Speeds depend on it."""
    use_gpu: bool = True
    """Measure on the GPU that torch sees; off takes the CPU."""
    decoding_threads: int = field(default=4, metadata=FREE)
    """Threads that decode images ahead of the device."""
    storage_retry_minutes: float = field(default=5.0, metadata=FREE)
    """Minutes for which reads of shards are tried again before the job stops."""
    shown_images: int = 8
    """First images of the shards in the grid."""
    feature_size: int = 224
    """Side to which images are resized for EfficientNet-Lite0, pixels."""
    inception_path: str = field(default="", metadata={PATH_UNLESS: DOWNLOAD})
    """File of the weights of FID's Inception-v3: rFID is measured. "download" takes the published file from the
    network; empty measures none. Features of all images lie in memory, 8 kB each.
    """
    lpips_path: str = ""
    """File of torchvision's weights of `lpips_backbone`: LPIPS is measured. Empty measures none."""
    lpips_backbone: Literal["alex", "vgg"] = "alex"
    """Network of LPIPS."""

    def __post_init__(self) -> None:
        require(
            bool(self.tokenizer_paths),
            "tokenizer_paths",
            self.tokenizer_paths,
            "must name at least one",
        )
        require_positive(
            "evaluate_tokenizers",
            self,
            ("batch_size", "decoding_threads", "shown_images", "feature_size"),
        )
        for name in ("num_images", "image_size", "storage_retry_minutes"):
            value = getattr(self, name)
            require(value >= 0, name, value, "must not be negative")
