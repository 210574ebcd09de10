"""All of each job that trains nothing."""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.generator import FARConfig, XARConfig
from glotok_ray.config.pool import PoolConfig
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.rules import (
    ADDED_LATER,
    FORMER_NAMES,
    FREE,
    PATH_UNLESS,
    require,
    require_finite,
)
from glotok_ray.config.samplers import FlowSamplerConfig, ScaleSamplerConfig, TokenSamplerConfig
from glotok_ray.config.teacher import FeatureNetworkConfig, KMeansConfig
from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.config.var import ModelConfig, VARConfig

EMBEDDED_SOURCE = "photographs"
"""ShardRun.source of the embedded set, which is no path."""
AUTO_SOURCE = "auto"
"""ShardRun.source_kind where the path says it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRun:
    """All of `jobs.shard_images`."""

    source: str = field(default=EMBEDDED_SOURCE, metadata=FREE | {PATH_UNLESS: EMBEDDED_SOURCE})
    """"photographs" (the embedded set), a folder with one sub-folder per class, or ImageNet in another form (see
    source_kind). Shards are bound to its images, wherever they lie.
    """
    source_kind: Literal[
        "auto", "class_folders", "train_tar", "validation_tar", "webdataset", "parquet", "kaggle"
    ] = field(default=AUTO_SOURCE, metadata=FREE)
    """What `source` is. "train_tar": ILSVRC2012_img_train.tar, or a folder of the tars in it. "validation_tar":
    ILSVRC2012_img_val.tar, with ground_truth_path. "webdataset": folder of tars of samples (jpg, jpeg, png or webp;
    cls, json or txt). "parquet": folder of Hugging Face's files (image, label). "kaggle": folder with
    ILSVRC/Data/CLS-LOC. "auto" tells it by what is there. Folders of the last three hold validation images of their own
    where names of files, or of folders, say so.
    """
    validation_source: str = field(default="", metadata=FREE | {PATH_UNLESS: ""})
    """The validation images, of any kind, with the same classes; empty takes those that `source` has of its own, or a
    share of it.
    """
    class_names_path: str = field(default="", metadata=FREE)
    """Names of the classes of a WebDataset or of Parquet files, which may number them: a text file whose line i, from
    0, names class i (a line that begins with a synset is cut to it), or a JSON object from number or name to name.
    Empty takes names as they are there, else the numbers.
    """
    ground_truth_path: str = field(default="", metadata=FREE)
    """Classes of the images of a validation tar: the development kit's folder, LOC_val_solution.csv, or a text file of
    lines FILE SYNSET, or of one synset per image in order. Of Kaggle's folders empty takes the table in them.
    """
    output_path: str = field(default="data/shards", metadata=FREE)
    """Folder that receives train/ and validation/ shards."""
    image_size: int = 256
    """Side for which images are stored, pixels. The photographs are cut into crops of this side. A folder's images
    are stored whole: 0 keeps the originals, from which every crop is ADM's; a side N reduces (or enlarges) them to a
    short side in [N, 1.25 * N], which is smaller and quicker to read, and is no longer ADM's protocol.
    """
    upright: bool = True
    """Turn a folder's images by their EXIF orientation, as phones mean it, and lay transparent ones on white. Off
    leaves the pixels as they lie and drops alpha, as guided-diffusion and all published ImageNet numbers do.
    """
    output_form: Literal["parquet", "webdataset"] = field(
        default="parquet", metadata={ADDED_LATER: "parquet"}
    )
    """Files of the shards. "parquet" is what all jobs read. "webdataset" writes tars of the same rows (000000.tar;
    KEY.jpg, KEY.cls, KEY.json) for other programs; here `shard_images` alone reads them, as a source.
    """
    resize_short_side: int = field(default=0, metadata={ADDED_LATER: 0})
    """With image_size 0: reduce a folder's images whose short side is larger to this one, pixels, and store them as
    JPEG; smaller ones keep their bytes, and none is enlarged. 0 keeps all originals. Crops are then no longer ADM's of
    the originals; the log, dataset.json and the manifest say by how much (PSNR of the centre crops).
    """
    jpeg_quality: int = field(default=95, metadata={ADDED_LATER: 95})
    """Quality of the JPEGs (4:2:0) that resize_short_side makes, in [1, 100]; not read without it."""
    crops_per_class: int = 500
    """Training crops per embedded photograph."""
    validation_crops_per_class: int = 60
    """Validation crops per embedded photograph, from a region that no training crop touches."""
    validation_fraction: float = 0.1
    """Share of a folder's images, per class, that become validation (at least one, chosen by the seed); not read
    where validation_source names them.
    """
    class_folders: Literal["strict", "as_found"] = field(
        default="strict", metadata={ADDED_LATER: "strict"}
    )
    """What the classes of a folder must be. "strict": sub-folders, each with two images or more. "as_found": images
    without sub-folders are one class, named by the folder; sub-folders without images are no classes; a class of one
    image is trained on and has none for validation, one of six or more has at least two. Not read where
    validation_source names a folder.
    """
    rows_per_shard: int = 1000
    """Rows per Parquet shard; a shard has fewer where images of it prove unreadable."""
    shard_mib: int = 1024
    """MiB of image files at most that a shard is made of, which readers hold whole: photographs of a phone then have
    shards of fewer rows. Images that are stored as PNG may take several times their file's size.
    """
    seed: int = 0
    """Seeds crops, the split and the order of rows."""
    storage_retry_minutes: float = field(default=5.0, metadata=FREE)
    """Minutes for which an image that storage does not give is tried again before it is left out."""

    def __post_init__(self) -> None:
        require(
            self.storage_retry_minutes >= 0,
            "storage_retry_minutes",
            self.storage_retry_minutes,
            "must not be negative; 0 never tries again",
        )
        require(
            0 < self.validation_fraction < 1,
            "validation_fraction",
            self.validation_fraction,
            "must be in (0, 1)",
        )
        require(
            self.resize_short_side >= 0,
            "resize_short_side",
            self.resize_short_side,
            "must be a side in pixels, or 0, which keeps the originals",
        )
        require(
            not self.resize_short_side or self.image_size == 0,
            "resize_short_side",
            self.resize_short_side,
            f"reduces originals, and image_size = {self.image_size} reduces (or enlarges) all images by another rule; "
            "give --image-size 0, or leave it at 0",
        )
        require(
            1 <= self.jpeg_quality <= 100, "jpeg_quality", self.jpeg_quality, "must be in [1, 100]"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherRun:
    """All of `jobs.build_teacher`."""

    data_path: str = ""
    """Folder of training shards; or a file of finished centroids (.npy, .pt, .pth, .safetensors): a
    matrix, or a checkpoint whose semantic codebook is taken. Centroids need no features.
    """
    centroids_key: str = ""
    """Tensor of the file to take; empty finds the semantic codebook of GloTok, FQGAN, ImageFolder and
    LlamaGen checkpoints, or the only matrix.
    """
    output_path: str = field(default="runs/teacher", metadata=FREE)
    """Folder that receives teacher.safetensors, teacher.json and teacher.png."""
    network: FeatureNetworkConfig = field(
        default_factory=FeatureNetworkConfig, metadata={FORMER_NAMES: {"name": "network"}}
    )
    """Frozen network whose features are clustered."""
    vectors_per_image: int = 16
    """Spatial feature vectors kept per image, drawn by the seed."""
    max_images: int = 65536
    """Images used, drawn by the seed; 0 uses all."""
    stratified: bool = True
    """Draw equally many images of every class, as far as each has them; off draws from all alike."""
    kmeans: KMeansConfig = field(
        default_factory=KMeansConfig,
        metadata={
            FORMER_NAMES: {
                "iterations": "kmeans_iterations",
                "seeding": "kmeans_seeding",
                "restarts": "kmeans_restarts",
            }
        },
    )
    """Clustering of the features."""
    center: bool = True
    """Subtract the mean feature first; it changes the cosine histogram and is recorded."""
    project_width: int = 0
    """Project features (or finished centroids) to this many principal components first, so that a
    student of that width can reach the target; 0 keeps all.
    """
    fine_bins: int = 16384
    """Intervals of the stored cosine histogram, from which any bin count and alpha is re-binned."""
    seed: int = 0
    """Seeds the draw of images and vectors and the initial centroids."""
    pool: PoolConfig = field(default_factory=PoolConfig, metadata=FREE)

    def __post_init__(self) -> None:
        require_finite(self)
        require(
            self.vectors_per_image >= 1,
            "vectors_per_image",
            self.vectors_per_image,
            "must be at least 1",
        )
        for name in ("project_width", "max_images"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be at least 0")
        require(
            2048 <= self.fine_bins <= 1 << 20,
            "fine_bins",
            self.fine_bins,
            "must be at least 2048, which 40 bins need, and at most 1048576 (16384 holds any alpha up to 26000)",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRun:
    """All of `jobs.export_tokenizer`."""

    source_path: str = field(default="", metadata=FREE)
    """Run folder, one of its checkpoints' folders, or a checkpoint file of LlamaGen, FQGAN or taming-transformers; with
    `peer`, the released file.
    """
    output_path: str = field(default="runs/exported", metadata=FREE)
    """Folder that receives tokenizer.safetensors, config.json and README.md."""
    checkpoint: Literal["last", "best"] = field(default="last", metadata={ADDED_LATER: "last"})
    """Of a run: "last" is its result, or the newest checkpoint of an unfinished one; "best" the checkpoint that its
    checkpoint_evaluation has found best.
    """
    weights: Literal["model", "ema"] = "model"
    """Of a peer's file: its raw weights or their moving average. A run exports its average where it keeps one."""
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Of a peer's file: the tokenizer that it holds. A run brings its own."""
    peer: str = field(default="", metadata={ADDED_LATER: ""})
    """Released tokenizer of another system, a name of `glotok_ray.peers.systems`: it says what source_path holds, and
    `model` is not read. Empty for runs and for files of GloTokTokenizer's own kind.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportGeneratorRun:
    """All of `jobs.export_generator`."""

    source_path: str = field(default="", metadata=FREE)
    """Folder of a finished generator, or a checkpoint file of xAR, of VAR, of ImageFolder, of RQ-Transformer or of one
    of FAR's family.
    """
    output_path: str = field(default="runs/exported_generator", metadata=FREE)
    """Folder that receives generator.safetensors, generator.json, README.md and a copy of the tokenizer."""
    checkpoint: Literal["last", "best"] = field(default="last", metadata={ADDED_LATER: "last"})
    """Of a run: "last" is the result of a finished one; "best" the checkpoint that its checkpoint_evaluation has found
    best, whose averaged weights are there where the run keeps an average.
    """
    tokenizer_path: str = field(default="", metadata=FREE)
    """Folder with the tokenizer.safetensors that made the generator's codes, which is copied. Empty takes the copy
    beside a run's generator, and leaves a peer's generator without one.
    """
    weights: Literal["model", "ema"] = "ema"
    """Of a run: "ema" takes its average where it kept one, "model" its raw weights. Of a peer's file: "ema" demands
    its moving average, "model" takes the raw weights where both are there.
    """
    layout: Literal["own", "peer"] = "own"
    """"peer" also writes generator_peer.safetensors, under the names that the peer's own code loads."""
    architecture: Literal["xar", "far", "var", "rq"] = "xar"
    """Of a peer's file: which of the sections below describes it. A run brings its own config."""
    xar: XARConfig = field(default_factory=XARConfig)
    far: FARConfig = field(default_factory=FARConfig)
    var: VARConfig = field(default_factory=VARConfig, metadata={ADDED_LATER: VARConfig()})
    rq: RQConfig = field(default_factory=RQConfig, metadata={ADDED_LATER: RQConfig()})

    @property
    def model(self) -> ModelConfig:
        """The section that `architecture` names."""
        return {"xar": self.xar, "far": self.far, "var": self.var, "rq": self.rq}[self.architecture]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeRun:
    """All of `jobs.encode_images`."""

    data_path: str = ""
    """Folder of shards."""
    tokenizer_path: str = ""
    """Folder with tokenizer.safetensors."""
    output_path: str = field(default="runs/codes", metadata=FREE)
    """Folder that receives Parquet codes."""
    views: Literal["center", "center_flip", "ten_crop"] = "center_flip"
    """What is stored of an image: its centre; the centre and its mirror image (xAR); or centre and corners of the
    image at crop_scale times the size, and their mirror images (FAR, LlamaGen).
    """
    crop_scale: float = 1.1
    """Side of the image that "ten_crop" cuts, over the tokenizer's image size. Other views leave it unread."""
    adm_protocol: bool = field(default=False, metadata=FREE)
    """Refuse images that were reduced, turned or changed when they were sharded: crops are ADM's of originals, or the
    data set's own, alone. Off takes all, and dataset.json of the codes says what they are.
    """
    pool: PoolConfig = field(default_factory=PoolConfig, metadata=FREE)

    def __post_init__(self) -> None:
        require(1 <= self.crop_scale <= 2, "crop_scale", self.crop_scale, "must be in [1, 2]")

    @property
    def num_views(self) -> int:
        """Rows of codes per image."""
        return {"center": 1, "center_flip": 2, "ten_crop": 10}[self.views]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRun:
    """What all of `jobs.sample_images`'s runs have; XARSampleRun, FARSampleRun and VARSampleRun add the sampler."""

    generator_path: str = ""
    """Folder of a finished run, or of an export, of a generator."""
    tokenizer_path: str = ""
    """Folder with tokenizer.safetensors; empty takes the copy in the generator's folder."""
    output_path: str = field(default="runs/samples", metadata=FREE)
    """Folder that receives samples.npz, samples.parquet and a grid."""
    num_images: int = 50000
    """Images; image i has class i mod num_classes."""
    seed: int = 0
    """Randomness is keyed by (seed, image), so the number of actors changes nothing."""
    pool: PoolConfig = field(default_factory=PoolConfig, metadata=FREE)

    def __post_init__(self) -> None:
        require_finite(self)
        require(self.num_images >= 1, "num_images", self.num_images, "must be at least 1")
        # As it stands in samples.parquet.
        require(-(2**63) <= self.seed < 2**63, "seed", self.seed, "must fit into 64 bits")


@dataclass(frozen=True, kw_only=True, slots=True)
class XARSampleRun(SampleRun):
    """All of a sampling of xAR."""

    sampler: FlowSamplerConfig = field(default_factory=FlowSamplerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class FARSampleRun(SampleRun):
    """All of a sampling of FAR, of LlamaGen's GPT or of RQ-Transformer."""

    sampler: TokenSamplerConfig = field(default_factory=TokenSamplerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class VARSampleRun(SampleRun):
    """All of a sampling of VAR."""

    sampler: ScaleSamplerConfig = field(default_factory=ScaleSamplerConfig)


AnySampleRun = XARSampleRun | FARSampleRun | VARSampleRun
"""What `jobs.sample_images` samples."""
