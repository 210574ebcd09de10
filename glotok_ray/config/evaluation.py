"""All of an evaluation."""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.pool import PoolConfig
from glotok_ray.config.rules import ADDED_LATER, FREE, PATH_UNLESS, require

DOWNLOAD = "download"
"""Value of `inception_path` for the published weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateRun:
    """All of `jobs.evaluate_images`."""

    tokenizer_path: str = ""
    """Folder with tokenizer.safetensors: reconstructions of data_path are measured. Empty measures samples only."""
    data_path: str = ""
    """Folder of validation shards: the input of reconstructions and the reference of Frechet distances."""
    samples_path: str = ""
    """Folder that jobs.sample_images wrote; or images of others: an npz in ADM's layout (arr_0, and labels as arr_1 or
    label, where it has them), or a folder of PNG or JPEG files. Empty measures reconstructions only.
    """
    samples_paths: tuple[str, ...] = field(default=(), metadata={ADDED_LATER: ()})
    """Two or more of what samples_path takes: each is measured into a folder of its own below output_path, real images
    once for all, and a table compares them. samples_path, tokenizer_path, codes_path and generator_path are not read
    then: samples alone are measured. Empty measures samples_path.
    """
    codes_path: str = ""
    """Training codes, from which the two baselines of the samples are drawn; empty computes none."""
    training_path: str = field(default="", metadata={ADDED_LATER: ""})
    """Folder of the training shards: how near samples come to their nearest training crop is measured, beside the same
    of the validation crops. Without samples and with tokenizer_path, its crops are those on whose codes the classifier
    of `probe_images` is fitted. Empty measures none.
    """
    training_images: int = field(default=0, metadata={ADDED_LATER: 0})
    """Training crops that are compared with or encoded, drawn by the seed; 0 takes all. Their features lie in the
    output folder until the end of the job, 5 kB per crop.
    """
    generator_path: str = field(default="", metadata={ADDED_LATER: ""})
    """Folder of a finished generator: its loss on the codes of the validation crops is measured, with their labels and
    with those of other classes. Its codes are made by tokenizer_path or, where that is empty, by the copy of the
    tokenizer in this folder. Empty measures none.
    """
    generator_draws: int = field(default=4, metadata={ADDED_LATER: 4})
    """Draws of noise and times per validation crop for an xAR's loss; the losses of FAR and VAR have none."""
    output_path: str = field(default="runs/evaluation", metadata=FREE)
    """Folder that receives metrics.json and grids."""
    num_images: int = 0
    """Images evaluated; 0 takes all."""
    adm_protocol: bool = field(default=False, metadata=FREE)
    """Refuse images that were reduced, turned or changed when they were sharded: crops are ADM's of originals, or the
    data set's own, alone. Off takes all, and each metric's protocol says what they are.
    """
    feature_size: int = 224
    """Side to which images are resized for the feature network, pixels."""
    inception_path: str = field(default="", metadata={ADDED_LATER: "", PATH_UNLESS: DOWNLOAD})
    """File of the weights of FID's Inception-v3 (torch-fidelity's or pytorch-fid's): FID, sFID, Inception Score, KID,
    precision and recall are measured. "download" takes the published file from the network; empty measures none.
    """
    reference_path: str = field(default="", metadata={ADDED_LATER: ""})
    """File of published Inception statistics with which samples are compared as well: ADM's npz, pytorch-fid's npz or
    torch-fidelity's cache; or an npz of images alone (arr_0), of which they are taken. Empty compares them with the
    run's own crops alone.
    """
    dinov2_path: str = field(default="", metadata={ADDED_LATER: ""})
    """File of the weights of DINOv2's ViT-L/14: FD-DINOv2 is measured. Empty measures none."""
    lpips_path: str = field(default="", metadata={ADDED_LATER: ""})
    """File of torchvision's weights of `lpips_backbone`: LPIPS of reconstructions is measured. Empty measures none."""
    lpips_backbone: Literal["alex", "vgg"] = field(default="alex", metadata={ADDED_LATER: "alex"})
    """Network of LPIPS; distances of different ones are different metrics."""
    statistics_path: str = field(default="", metadata=FREE)
    """Folder in which later evaluations find what the feature networks made of the same validation crops, training
    crops and images of the reference: features (per image 5 kB of EfficientNet-Lite0, 20 of Inception, 4 of DINOv2) and
    their moments. They are used again where weights, images, crops, device, batches and packages are the same. It may
    be removed at any time while no evaluation runs; empty keeps nothing.
    """
    uniformity_vectors: int = 10000
    """Latent vectors per uniformity draw (Table 3)."""
    uniformity_repeats: int = 10
    """Draws over which Table 3's metrics are averaged."""
    probe_images: int = field(default=50000, metadata={ADDED_LATER: 50000})
    """Training images, drawn by the seed, on whose codes a linear classifier of the class is fitted: those at
    codes_path, else those at training_path. 0 fits none; nor has another system's tokenizer one.
    """
    probe_l2: float = field(default=1e-3, metadata={ADDED_LATER: 1e-3})
    """Weight of half the squared weights of that classifier, beside the mean loss of an image."""
    seed: int = 0
    """Seeds the uniformity draws, the baselines, the draws of training crops, and noise, times and wrong labels of a
    generator's loss.
    """
    pool: PoolConfig = field(default_factory=PoolConfig, metadata=FREE)

    def __post_init__(self) -> None:
        require(
            len(self.samples_paths) != 1
            and len(set(self.samples_paths)) == len(self.samples_paths),
            "samples_paths",
            self.samples_paths,
            "must be two or more different paths; give a single one as samples_path",
        )
        for name in ("num_images", "training_images"):
            value = getattr(self, name)
            require(value >= 0, name, value, "must be at least 0; 0 takes all")
        for name in ("generator_draws", "feature_size", "uniformity_vectors"):
            value = getattr(self, name)
            require(value >= 1, name, value, "must be at least 1")
        require(
            self.uniformity_repeats >= 0,
            "uniformity_repeats",
            self.uniformity_repeats,
            "must be at least 0; 0 draws none",
        )
        require(
            self.probe_images >= 0,
            "probe_images",
            self.probe_images,
            "must be at least 0; 0 fits no classifier",
        )
        require(self.probe_l2 > 0, "probe_l2", self.probe_l2, "must be above 0")
