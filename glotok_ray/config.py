"""Every tunable of every job, once, as frozen dataclasses; the docstring under a field is its meaning.

`override` applies dotted names (`{"loss.relation_weight": 0.1}`); the command line and Ray Tune use the same names.
Constructors only check: they raise ValueError with the field, its value, the rule and the remedy.
Named runs are functions in `glotok_ray/recipes/`. Read next: glotok_ray/recipes/tokenizer.py
"""

import dataclasses
import json
import math
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

Config = TypeVar("Config")

PHOTOGRAPHS = "photographs"
"""ShardRun.source of the embedded set, which is no path."""


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"{name} = {value!r}: {rule}")


# Rules that several sections share.


def _require_positive(section: str, config: Any, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= 1, f"{section}.{name}", value, "must be at least 1")


def _require_finite(config: Any, prefix: str = "") -> None:
    """Every number of a section and of the sections in it: what a value means, no rule says better than this."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        for place, part in enumerate(value if isinstance(value, tuple) else (value,)):
            name = prefix + item.name + (f".{place}" if isinstance(value, tuple) else "")
            if dataclasses.is_dataclass(part):
                _require_finite(part, f"{name}.")
            elif isinstance(part, float):
                _require(math.isfinite(part), name, part, "must be a finite number")


def _require_probability(name: str, value: float) -> None:
    _require(0 <= value <= 1, name, value, "must be in [0, 1]")


def _require_code_count(name: str, size: int) -> None:
    _require(2 <= size <= 65536, name, size, "must be in [2, 65536]: codes are stored as uint16")


def _require_distinct(name: str, names: list[str]) -> None:
    _require(
        0 < len(names) == len(set(names)),
        name,
        names,
        "must hold at least one codebook, each with a name of its own",
    )


def _require_rotary_heads(width: int, num_heads: int) -> None:
    _require(
        width % (4 * num_heads) == 0,
        "model.num_heads",
        num_heads,
        f"must make width / num_heads a multiple of 4 (width = {width})",
    )


def _require_guidance(scale: float, interval: tuple[float, float]) -> None:
    _require(scale >= 1, "sampler.guidance_scale", scale, "must be at least 1 (1 is unguided)")
    low, high = interval
    _require(
        0 <= low <= high <= 1,
        "sampler.guidance_interval",
        interval,
        "must be two numbers that rise within [0, 1]",
    )


def _gated_hidden(width: int, multiple: int) -> int:
    """int(8 * width / 3), rounded up to `multiple`: three products of a gated MLP cost what two of a plain one do."""
    return -(-int(8 * width / 3) // multiple) * multiple


# ---------------------------------------------------------------------------------------- tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderConfig:
    """The convolutional encoder and decoder of VQGAN (paper section 4.1: "consistent with VQGAN")."""

    image_size: int = 256
    """Side of the square input image, pixels."""
    base_channels: int = 128
    """Channels after the first convolution; each level multiplies it."""
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """One factor per resolution level; every level but the last halves the side."""
    num_res_blocks: int = 2
    """Residual blocks per encoder level; the decoder has one more."""
    latent_channels: int = 256
    """Channels of the encoder's output and of the decoder's input."""
    norm_groups: int = 32
    """Groups of every GroupNorm; each level's channels must be a multiple of it."""
    dropout: float = 0.0
    """Dropout inside residual blocks, in [0, 1)."""

    def __post_init__(self) -> None:
        _require(
            len(self.channel_multipliers) >= 1,
            "autoencoder.channel_multipliers",
            self.channel_multipliers,
            "needs at least one level",
        )
        _require(
            self.image_size % self.downsample_factor == 0,
            "autoencoder.image_size",
            self.image_size,
            f"must be a multiple of {self.downsample_factor} (2 ** (levels - 1))",
        )
        for multiplier in self.channel_multipliers:
            _require(
                (self.base_channels * multiplier) % self.norm_groups == 0,
                "autoencoder.base_channels",
                self.base_channels,
                f"times multiplier {multiplier} must be a multiple of norm_groups = {self.norm_groups}",
            )
        _require(0 <= self.dropout < 1, "autoencoder.dropout", self.dropout, "must be in [0, 1)")

    @property
    def downsample_factor(self) -> int:
        """Input pixels per latent position along one side."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def grid_size(self) -> int:
        """Latent positions along one side (16 at 256 pixels)."""
        return self.image_size // self.downsample_factor

    @property
    def top_channels(self) -> int:
        """Channels of the lowest-resolution level, which the adapters split."""
        return self.base_channels * self.channel_multipliers[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """One transformer adapter per branch; it splits the shared feature map (paper section 3.2, FQGAN's shape)."""

    depth: int = 6
    """Pre-LayerNorm transformer blocks; the width is the trunk's top level. 0 leaves the adapters out, as
    in VQGAN and LlamaGen.
    """
    num_heads: int = 8
    """Attention heads; must divide the width."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over its width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastConfig:
    """FQGAN's local supervision of one codebook: a head predicts a frozen network's vector of the image."""

    network: str = ""
    """Frozen network, a name of `glotok_ray.teacher.networks.NETWORKS`; empty leaves the head out."""
    weights_path: str = ""
    """Local file of the network's weights; empty lets timm download its own."""
    weights_sha256: str = ""
    """Digest that the weights file must have; empty accepts any."""
    width: int = 1024
    """Width of the head and of the predicted vector: the network's own (1024 for clip_vitl14)."""
    depth: int = 3
    """Transformer blocks of the head."""
    num_heads: int = 8
    """Attention heads; must divide the width."""

    def __post_init__(self) -> None:
        _require(
            self.width % self.num_heads == 0,
            "contrast.width",
            self.width,
            f"must be a multiple of num_heads = {self.num_heads}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CodebookConfig:
    """One learnable codebook and its branch."""

    name: str = "semantic"
    """Name of the branch, in files and in metrics."""
    size: int = 16384
    """Number of codes n."""
    width: int = 8
    """Code dimension d (paper section 4.1: 8)."""
    lookup: Literal["cosine", "euclidean"] = "cosine"
    """"cosine" finds the nearest of unit vectors; "euclidean" is VQGAN's search among raw vectors."""
    contrast: ContrastConfig = field(default_factory=ContrastConfig)

    def __post_init__(self) -> None:
        _require(
            self.name.isidentifier(),
            "codebook.name",
            self.name,
            "must be a name of letters, digits and underscores that starts with no digit",
        )
        _require_code_count("codebook.size", self.size)
        _require(
            self.width >= 2,
            "codebook.width",
            self.width,
            "must be at least 2: unit vectors of width 1 are only +1 and -1",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualConfig:
    """The residual predictor R of one branch: one transformer block (paper section 3.3, Eqs. 8-12)."""

    enabled: bool = True
    """Off gives the ablation rows without residual learning (Tables 4 and 5)."""
    width: int = 512
    """Width of the block; the code is projected in and out. Not stated in the paper."""
    num_heads: int = 8
    """Attention heads; must divide the width."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over its width."""

    def __post_init__(self) -> None:
        _require(
            self.width % self.num_heads == 0,
            "residual.width",
            self.width,
            f"must be a multiple of num_heads = {self.num_heads}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """GloTokTokenizer: encoder, one branch of adapter, codebook and residual predictor per codebook, decoder
    (paper section 3.2).
    """

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    codebooks: tuple[CodebookConfig, ...] = (
        CodebookConfig(name="visual"),
        CodebookConfig(name="semantic"),
    )
    """One branch each, in the order of the decoder's channels (FQGAN: visual first)."""
    residual: ResidualConfig = field(default_factory=ResidualConfig)

    def __post_init__(self) -> None:
        _require(
            self.adapter.depth == 0 or self.autoencoder.top_channels % self.adapter.num_heads == 0,
            "adapter.num_heads",
            self.adapter.num_heads,
            f"must divide the trunk's top width {self.autoencoder.top_channels}",
        )
        _require_distinct("codebooks", list(self.names))

    def codebook(self, name: str) -> CodebookConfig:
        """The codebook of that name; raises ValueError with the known ones."""
        for item in self.codebooks:
            if item.name == name:
                return item
        known = ", ".join(item.name for item in self.codebooks)
        raise ValueError(f"codebook {name!r}: there is {known}; correct the name")

    @property
    def names(self) -> tuple[str, ...]:
        """The codebooks' names, in the order of the decoder's channels."""
        return tuple(item.name for item in self.codebooks)

    @property
    def code_counts(self) -> dict[str, int]:
        """The codebooks' sizes by name."""
        return {item.name: item.size for item in self.codebooks}

    @property
    def latent_width(self) -> int:
        """Channels of the concatenated latent (16 in the paper)."""
        return sum(item.width for item in self.codebooks)

    @property
    def num_tokens(self) -> int:
        """Latent positions per image and branch."""
        return self.autoencoder.grid_size**2


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """PatchGAN (paper section 3.1, "patch-discriminator")."""

    base_channels: int = 64
    """Channels of the first layer; doubled per layer, at most 8 times."""
    num_layers: int = 3
    """Strided layers after the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RelationConfig:
    """Histogram relation learning (paper section 3.3, Eqs. 4-7, Algorithm 1)."""

    codebook: str = "semantic"
    """Name of the codebook whose cosines follow the teacher's histogram."""
    num_bins: int = 40
    """N bins from -1 to 1 (paper section 4.1)."""
    alpha: float | Literal["bin_width"] = "bin_width"
    """Kernel sharpness of Eq. 6; "bin_width" is 1 / (2 * width^2), 190 at 40 bins: one bin is one
    standard deviation.
    """
    include_diagonal: bool = False
    """Literal Eq. 4 has i <= j: it adds n constant ones. Off counts pairs i < j."""
    normalization: Literal["sum", "l2"] = "sum"
    """"sum" makes a proper distribution; "l2" is Algorithm 1's literal norm."""
    reduction: Literal["sum", "mean"] = "sum"
    """"mean" divides the KL by the bin count, as F.kl_div's default does."""
    literal: bool = False
    """Evaluate every pair and bin as Algorithm 1 prints it, in pairs x bins memory; off sums through
    a fine histogram of the cosines.
    """
    tolerance: float = 3e-6
    """Largest error of Eq. 6 per pair that the fine histogram may make, where the kernel's peak is 1;
    it decides the number of nodes.
    """
    project_teacher: bool = False
    """Project the teacher's centroids to the semantic codebook's width before their cosines are
    counted, so that the codebook can reach them (DECISIONS.md, section 3).
    """
    duplicate_cosine: float = 0.99
    """A code with a neighbour of at least this cosine counts as a duplicate in the metrics; with Euclidean look-up, one
    as near as that in proportion to the mean squared distance of the codes from their mean.
    """

    def __post_init__(self) -> None:
        _require(self.num_bins >= 2, "relation.num_bins", self.num_bins, "must be at least 2")
        if self.alpha != "bin_width":
            _require(
                self.alpha > 0, "relation.alpha", self.alpha, 'must be positive, or "bin_width"'
            )
        _require(
            1e-7 <= self.tolerance <= 1e-2,
            "relation.tolerance",
            self.tolerance,
            "must lie in [1e-7, 0.01]",
        )
        _require(
            -1 < self.duplicate_cosine <= 1,
            "relation.duplicate_cosine",
            self.duplicate_cosine,
            "must lie in (-1, 1]",
        )

    @property
    def sharpness(self) -> float:
        """Alpha of Eq. 6 as a number."""
        width = 2.0 / (self.num_bins - 1)
        return 1.0 / (2.0 * width * width) if self.alpha == "bin_width" else float(self.alpha)

    @property
    def num_nodes(self) -> int:
        """Intervals M of the fine histogram: the least power of two, from 1,024 to 65,536, that keeps
        the tolerance.

        A linear split over spacing 2 / M misses exp(-alpha x^2) by at most alpha / M^2.
        """
        needed = math.sqrt(self.sharpness / self.tolerance)
        return min(65536, max(1024, 2 ** math.ceil(math.log2(needed))))


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerLossConfig:
    """Weights of Eqs. 1, 3 and 13. What the paper leaves open follows FQGAN's script (DECISIONS.md)."""

    reconstruction_weight: float = 1.0
    """lambda_R of Eq. 3."""
    reconstruction_kind: Literal["l2", "l1"] = "l2"
    """Eq. 2 squares the difference of pixels; taming-transformers takes its absolute value."""
    quantization_weight: float = 1.0
    """lambda_Q of Eq. 3."""
    perceptual_weight: float = 1.0
    """lambda_P of Eq. 3."""
    adversarial_weight: float = 0.5
    """lambda_G of Eq. 3."""
    residual_weight: float = 0.5
    """lambda_res of Eq. 13 (paper section 4.1)."""
    relation_weight: float = 0.01
    """lambda_hist of Eq. 13 (paper section 4.1)."""
    commitment_weight: float = 0.25
    """beta of Eq. 1."""
    entropy_weight: float = 0.0
    """Code-usage entropy term of FQGAN; not in Eq. 13, off by default."""
    entropy_temperature: float = 0.01
    """Softmax temperature of the entropy term."""
    entropy_epsilon: float = 1e-20
    """Keeps the logarithm of a code's mean probability finite in the entropy term; FQGAN and LlamaGen have 1e-5."""
    entropy_epsilon_placing: Literal["floor", "added"] = "floor"
    """Where the epsilon stands: "floor" takes log(max(p, epsilon)), which leaves the gradient of all codes above it as
    it is; "added" takes log(p + epsilon), as FQGAN and LlamaGen do: at 1e-5 and 16,384 codes, of 6e-5 each at even
    use, that changes the gradient by 7 % (8,192 random tokens).
    """
    entropy_tokens: int = 0
    """Evenly spaced tokens per worker and branch on which the entropy term is estimated, at most; 0 takes all."""
    disentanglement_weight: float = 0.0
    """Squared cosine between branches of FQGAN; not in Eq. 13, off by default."""
    contrastive_weight: float = 0.0
    """FQGAN's local contrastive loss between each contrast head and its network; not in Eq. 13, off by default."""
    contrastive_temperature: float = 1.0
    """Divides the cosines of the contrastive loss; FQGAN uses none."""
    restart_every_steps: int = 0
    """Optimizer steps between restarts, in which codes that no token chose since the last one move onto tokens of
    the batch; 0 leaves them alone.
    """
    adversarial_start_step: int = 20000
    """Optimizer step, counted from 0, from which L_G and the discriminator run. FQGAN and LlamaGen count theirs from 1
    when they compare it with 20,000, which is step 19,999 here.
    """
    discriminator_loss_scale: float = 1.0
    """Multiplies all that the discriminator learns from, the LeCam penalty too. FQGAN and LlamaGen have 0.5, taming 1.
    Adam does not see it, but gradient clipping does: at 0.5 it engages at twice the norm.
    """
    adversarial_kind: Literal["hinge", "non_saturating", "vanilla"] = "hinge"
    """Game between tokenizer and discriminator; "vanilla" is the original minimax game, which saturates."""
    lecam_weight: float = 0.0
    """Weight of the LeCam penalty on the discriminator (IBQ has 0.05, TiTok 0.001); 0 is off."""
    lecam_decay: float = 0.999
    """Decay of the penalty's moving averages of mean logits, per discriminator step."""
    adaptive_adversarial_weight: bool = False
    """Scale L_G by the ratio of gradient norms at the decoder's last convolution (VQGAN)."""
    perceptual_network: Literal["lpips_vgg", "efficientnet_lite0"] = "lpips_vgg"
    """Feature network of L_P: LPIPS in VGG16, or "efficientnet_lite0", whose weights ship with a package."""
    perceptual_weights_path: str = ""
    """File with VGG16's weights for "lpips_vgg", torchvision's or lpips's; empty: torchvision downloads it once."""
    perceptual_weights_sha256: str = ""
    """Hex sha256 that the weights file must have; empty checks nothing."""
    relation: RelationConfig = field(default_factory=RelationConfig)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if item.name.endswith("_weight") and item.name != "adaptive_adversarial_weight":
                _require(
                    getattr(self, item.name) >= 0,
                    f"loss.{item.name}",
                    getattr(self, item.name),
                    "must not be negative; 0 switches the term off",
                )
        _require(
            self.adversarial_start_step >= 0,
            "loss.adversarial_start_step",
            self.adversarial_start_step,
            "must not be negative",
        )
        _require(
            0 < self.entropy_epsilon < 1,
            "loss.entropy_epsilon",
            self.entropy_epsilon,
            "must lie in (0, 1), such as 1e-20 or FQGAN's 1e-5",
        )
        _require(
            0 < self.discriminator_loss_scale < math.inf,
            "loss.discriminator_loss_scale",
            self.discriminator_loss_scale,
            "must be positive and finite; adversarial_weight = 0 switches the game off",
        )


# ---------------------------------------------------------------------------------------- generator


@dataclass(frozen=True, kw_only=True, slots=True)
class XARConfig:
    """xAR with noisy context over entities of a latent grid (Ren et al. 2025; defaults are xAR-B)."""

    grid_size: int = 16
    """Latent positions along one side."""
    entity: Literal["token", "cell", "subsample", "scale", "image"] = "cell"
    """What is predicted at once: one position, a square block, a coarser sampling of the grid, the whole grid at a
    smaller size, or everything (plain flow matching).
    """
    cell_size: int = 8
    """Positions along one side of a "cell" or of a "subsample"; must divide grid_size. Others do not read it."""
    scale_sides: tuple[int, ...] = ()
    """Sides of the grids of "scale", rising to grid_size; empty doubles from 1. Others do not read it."""
    channels: int = 16
    """Latent channels (8 semantic + 8 visual); 8 for the LlamaGen-VQ baseline."""
    width: int = 768
    """Model width d."""
    depth: int = 16
    """Blocks in all; half before and half after the middle projection."""
    num_heads: int = 12
    """Attention heads; width / num_heads must be a multiple of 4 (2-D rotary)."""
    mlp_multiple: int = 1
    """Round the MLP's hidden width, int(8 * width / 3), up to this multiple, which tensor cores like; 1 keeps the
    published sizes.
    """
    num_classes: int = 1000
    """Classes; one more embedding row is the null label."""
    dropout: float = 0.1
    """Dropout of attention, projection and MLP."""
    zero_init_gates: bool = False
    """Start AdaLN at zero (DiT); the published model uses Xavier."""

    def __post_init__(self) -> None:
        sizes = ("grid_size", "cell_size", "channels", "width", "num_heads", "mlp_multiple")
        _require_positive("model", self, (*sizes, "num_classes"))
        _require(
            self.entity not in ("cell", "subsample") or self.grid_size % self.cell_size == 0,
            "model.cell_size",
            self.cell_size,
            f"must divide grid_size = {self.grid_size}",
        )
        sides = self.sides
        _require(
            list(sides) == sorted(set(sides)) and sides[0] >= 1 and sides[-1] == self.grid_size,
            "model.scale_sides",
            self.scale_sides,
            f"must rise from at least 1 to grid_size = {self.grid_size}",
        )
        _require_rotary_heads(self.width, self.num_heads)
        _require(
            self.depth % 2 == 0 and self.depth >= 2,
            "model.depth",
            self.depth,
            "must be even and at least 2",
        )
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the grids of "scale"."""
        doubled = [2**power for power in range(self.grid_size.bit_length())]
        return self.scale_sides or (
            *(side for side in doubled if side < self.grid_size),
            self.grid_size,
        )

    @property
    def entity_lengths(self) -> tuple[int, ...]:
        """Tokens of every entity, in the order of prediction: (64, 64, 64, 64) for cells of 8 x 8."""
        tokens = self.grid_size**2
        if self.entity == "scale":
            return tuple(side**2 for side in self.sides)
        size = {"token": 1, "image": tokens}.get(self.entity, self.cell_size**2)
        return (size,) * (tokens // size)

    @property
    def num_entities(self) -> int:
        """Entities per image (4 for cells of 8 x 8)."""
        return len(self.entity_lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of all entities (256; 341 for scales)."""
        return sum(self.entity_lengths)

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the gated MLP."""
        return _gated_hidden(self.width, self.mlp_multiple)


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig:
    """Flow-matching objective of xAR with noisy context learning."""

    time_distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    """Distribution of t per sample and entity; t = 1 is noise."""
    context: Literal["random", "clean", "increasing", "decreasing"] = "random"
    """What an entity sees of earlier ones in training (xAR, Table 5): them at times of their own, which are independent
    or sorted upward or downward over the entities, or clean ones (teacher forcing, at twice the compute).
    """
    label_dropout: float = 0.1
    """Probability that a label becomes the null label."""
    latent_space: Literal["codes", "codes_plus_residual"] = "codes"
    """What is modelled: code vectors (residual predictors run at decoding) or refined vectors (Eqs. 11-12)."""

    def __post_init__(self) -> None:
        _require_probability("flow.label_dropout", self.label_dropout)


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyConfig:
    """The codes of one codebook, as a token generator predicts them."""

    name: str = "visual"
    """Name of the tokenizer's codebook."""
    size: int = 16384
    """Number of codes."""

    def __post_init__(self) -> None:
        _require_code_count("vocabulary.size", self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class FARConfig:
    """FAR, a causal transformer over positions with a factorised head over codebooks (FQGAN; defaults are FAR-B).

    With one codebook and no head it is LlamaGen's GPT.
    """

    grid_size: int = 16
    """Code positions along one side."""
    codebooks: tuple[VocabularyConfig, ...] = (
        VocabularyConfig(name="visual"),
        VocabularyConfig(name="semantic"),
    )
    """What is predicted at a position, in this order, each given those before it."""
    width: int = 1024
    """Model width d."""
    depth: int = 24
    """Blocks over positions."""
    head_depth: int = 3
    """Blocks of the head over the codebooks of one position; 0 for a single codebook."""
    num_heads: int = 16
    """Attention heads; width / num_heads must be a multiple of 4 (2-D rotary)."""
    mlp_multiple: int = 256
    """Round the MLP's hidden width, int(8 * width / 3), up to this multiple."""
    num_classes: int = 1000
    """Classes; one more embedding row is the null label."""
    dropout: float = 0.1
    """Dropout after attention and after the MLP of every block."""
    token_dropout: float = 0.1
    """Dropout on the embedded input tokens."""

    def __post_init__(self) -> None:
        _require_distinct("model.codebooks", list(self.names))
        sizes = ("grid_size", "width", "depth", "num_heads", "mlp_multiple", "num_classes")
        _require_positive("model", self, sizes)
        _require(
            (self.head_depth > 0) == (len(self.codebooks) > 1),
            "model.head_depth",
            self.head_depth,
            "must be positive for several codebooks, and 0 for one",
        )
        _require_rotary_heads(self.width, self.num_heads)
        for name in ("dropout", "token_dropout"):
            _require(
                0 <= getattr(self, name) < 1,
                f"model.{name}",
                getattr(self, name),
                "must be in [0, 1)",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The codebooks' names, in the order of prediction."""
        return tuple(item.name for item in self.codebooks)

    @property
    def code_counts(self) -> dict[str, int]:
        """The codebooks' sizes by name."""
        return {item.name: item.size for item in self.codebooks}

    @property
    def num_positions(self) -> int:
        """Positions of one image."""
        return self.grid_size**2

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the gated MLP."""
        return _gated_hidden(self.width, self.mlp_multiple)


Precision = Literal["fp32", "bf16_autocast"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSamplerConfig:
    """Entity-by-entity sampling of xAR."""

    num_steps: int = 50
    """Network evaluations per entity S: S - 1 stochastic steps and one noise-free step."""
    last_num_steps: int = 0
    """Evaluations in the last entity, to which num_steps falls linearly over the entities; 0 keeps num_steps."""
    final_time: float = 0.04
    """Last grid point before the noise-free step."""
    solver: Literal["euler_maruyama", "euler"] = "euler_maruyama"
    """Stochastic (published) or deterministic steps."""
    guidance_scale: float = 2.7
    """Classifier-free guidance w in the last entity; 1 is unguided."""
    guidance_schedule: Literal["linear", "constant"] = "linear"
    """"linear" grows from 1 in the first entity to w in the last."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times, from low to high, between which guidance acts; t = 1 is noise."""
    snap: Literal["off", "on"] = "off"
    """"on" replaces each codebook's part by its nearest code before decoding."""
    precision: Precision = "fp32"
    """The network's products; under bf16_autocast the solver's state and the decoder stay as they are."""
    use_ema: bool = True
    """Sample from the averaged weights."""

    def __post_init__(self) -> None:
        _require(self.num_steps >= 2, "sampler.num_steps", self.num_steps, "must be at least 2")
        _require(
            self.last_num_steps == 0 or self.last_num_steps >= 2,
            "sampler.last_num_steps",
            self.last_num_steps,
            "must be at least 2, or 0 for as many as in the first entity",
        )
        _require(
            0 < self.final_time < 1, "sampler.final_time", self.final_time, "must be in (0, 1)"
        )
        _require_guidance(self.guidance_scale, self.guidance_interval)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSamplerConfig:
    """Token-by-token sampling of FAR and of LlamaGen's GPT."""

    guidance_scale: float = 2.0
    """Classifier-free guidance s on the logits of every codebook; 1 is unguided."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Share of the positions, from first to last, between which guidance acts."""
    temperature: float = 1.0
    """Divides the logits; below 1 sharpens."""
    top_k: int = 0
    """Draw among the k most likely codes; 0 draws among all."""
    top_p: float = 1.0
    """Draw among the most likely codes that together reach this probability; 1 draws among all."""
    precision: Precision = "fp32"
    """The network's products; under bf16_autocast the weights and the decoder stay in fp32."""
    use_ema: bool = True
    """Sample from the averaged weights, where the run kept an average."""

    def __post_init__(self) -> None:
        _require_guidance(self.guidance_scale, self.guidance_interval)
        _require(self.temperature > 0, "sampler.temperature", self.temperature, "must be positive")
        _require(
            self.top_k >= 0, "sampler.top_k", self.top_k, "must be at least 0 (0 draws among all)"
        )
        _require(0 < self.top_p <= 1, "sampler.top_p", self.top_p, "must be in (0, 1]")


# ---------------------------------------------------------------------------------------- training


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
    schedule: Literal["constant", "warmup_hold_cosine", "warmup_cosine"] = "constant"
    """Shape of the learning rate over the run."""
    warmup_fraction: float = 0.0
    """Share of all steps with linear warm-up from 0."""
    hold_fraction: float = 0.0
    """Share of all steps at which "warmup_hold_cosine" starts to fall."""
    final_learning_rate: float = 0.0
    """Learning rate at the last step of a cosine schedule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    """How many workers train and what each gets."""

    num_workers: int = 8
    """Ray Train workers (one process each)."""
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
        _require(
            self.num_workers >= 1, "scaling.num_workers", self.num_workers, "must be at least 1"
        )
        _require_positive("scaling", self, ("unit_rows",))
        for name in (
            "max_failures",
            "failure_window_minutes",
            "stall_minutes",
            "storage_retry_minutes",
        ):
            value = getattr(self, name)
            _require(value >= 0, f"scaling.{name}", value, "must not be negative")
        _require(
            self.stall_minutes == 0 or self.stall_minutes > 2 * self.storage_retry_minutes,
            "scaling.stall_minutes",
            self.stall_minutes,
            "must exceed twice storage_retry_minutes, for which storage may keep a worker waiting "
            f"({self.storage_retry_minutes:g}), or be 0",
        )
        _require(
            self.bucket_elements >= 2,
            "scaling.bucket_elements",
            self.bucket_elements,
            "must be at least 2",
        )
        _require(
            self.engine == "deepspeed" or self.num_workers == 1,
            "scaling.engine",
            self.engine,
            'is for one worker; use "deepspeed" with more',
        )
        _require(
            self.engine == "deepspeed" or self.precision != "bf16",
            "scaling.precision",
            self.precision,
            'keeps master weights, which engine "torch" does not; use "bf16_autocast" or "fp32"',
        )
        _require(
            self.zero_stage >= 1 or self.precision != "bf16",
            "scaling.zero_stage",
            self.zero_stage,
            'must be at least 1 with precision "bf16": at stage 0 DeepSpeed accumulates other gradients than at stages '
            "1 to 3 (DECISIONS.md)",
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
    adm_protocol: bool = False
    """Refuse pictures that were reduced, turned or changed when they were sharded: crops are ADM's of originals, or the
    data set's own, alone. Off takes all, and the log and the run's facts say what they are.
    """
    open_shards: int = 8
    """Shards that are read side by side; every batch draws from all of them."""
    max_bad_rows: int = 0
    """Different rows that may turn out broken while training: each is named and another row takes its place. One more
    stops the run; 0 stops it at the first.
    """

    def __post_init__(self) -> None:
        _require(
            self.num_train_images >= 0,
            "data.num_train_images",
            self.num_train_images,
            "must not be negative; 0 takes what is there",
        )
        _require(
            self.num_validation_images >= 0,
            "data.num_validation_images",
            self.num_validation_images,
            "must not be negative; 0 scores none",
        )
        _require_positive("data", self, ("open_shards",))
        _require(
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
    views: Literal["", "center", "center_flip", "ten_crop"] = ""
    """Views that the codes must hold (`EncodeRun.views`), checked against dataset.json; empty takes any."""
    open_shards: int = 8
    """Files of codes that are read side by side; every batch draws from all of them."""

    def __post_init__(self) -> None:
        _require(
            self.num_train_images >= 0,
            "data.num_train_images",
            self.num_train_images,
            "must not be negative; 0 takes what is there",
        )
        _require_positive("data", self, ("open_shards",))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Batch arithmetic and cadence of a training run."""

    global_batch_size: int = 240
    """Images per optimizer step over all workers (paper section 4.1)."""
    micro_batch_size: int = 30
    """Images per worker and forward pass, at most: a worker's share is cut into equal passes."""
    epochs: int = 150
    """Passes over the training set (paper section 4.1); the remainder that fills no batch is dropped."""
    log_every_steps: int = 100
    """Steps between lines of metrics.jsonl."""
    checkpoint_every_epochs: int = 1
    """Epochs between evaluations, each with a checkpoint."""
    checkpoint_every_steps: int = 0
    """Steps between checkpoints that evaluate nothing; 0 writes none of them."""
    checkpoint_every_minutes: float = 0.0
    """Minutes of rank 0's clock, since the checkpoint before, after which one is written that evaluates nothing; 0
    writes none of them.
    """
    checkpoints_to_keep: int = 3
    """Newest checkpoints that stay on disk."""
    stop_after_steps: int = 0
    """Stop (with a checkpoint) after this many optimizer steps, under the schedule of the whole
    run; 0 trains to the end. Running again without it goes on.
    """

    def __post_init__(self) -> None:
        counts = ("global_batch_size", "micro_batch_size", "epochs", "log_every_steps")
        _require_positive("schedule", self, counts)
        _require_positive("schedule", self, ("checkpoint_every_epochs", "checkpoints_to_keep"))
        for name in ("checkpoint_every_steps", "checkpoint_every_minutes"):
            _require(
                getattr(self, name) >= 0,
                f"schedule.{name}",
                getattr(self, name),
                "must not be negative; 0 writes checkpoints with evaluations alone",
            )

    def micro_batch(self, num_workers: int) -> int:
        """Images per worker and forward pass: the largest number up to `micro_batch_size` that divides a worker's
        share of the global batch, which is thus kept at any worker count that divides it.
        """
        share, rest = divmod(self.global_batch_size, num_workers)
        divisors = [
            n for n in range(1, self.global_batch_size + 1) if self.global_batch_size % n == 0
        ]
        _require(
            rest == 0,
            "schedule.global_batch_size",
            self.global_batch_size,
            f"must be a multiple of scaling.num_workers = {num_workers} ({self.global_batch_size} = {num_workers} * "
            f"{share} + {rest}); take {' or '.join(_neighbours(divisors, num_workers))} workers, or another batch",
        )
        return max(n for n in range(1, min(self.micro_batch_size, share) + 1) if share % n == 0)

    def accumulation_steps(self, num_workers: int) -> int:
        """Forward passes per worker and optimizer step."""
        return self.global_batch_size // (num_workers * self.micro_batch(num_workers))

    def steps_per_epoch(self, num_images: int) -> int:
        """Optimizer steps per epoch; the tail that fills no batch is dropped."""
        steps = num_images // self.global_batch_size
        _require(
            steps >= 1,
            "schedule.global_batch_size",
            self.global_batch_size,
            f"exceeds the training set of {num_images} images; lower it",
        )
        return steps


def _neighbours(sorted_values: list[int], value: int) -> list[str]:
    """The nearest smaller and the nearest larger one."""
    smaller = [str(item) for item in sorted_values if item < value][-1:]
    return smaller + [str(item) for item in sorted_values if item > value][:1]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRun:
    """All of `jobs.train_tokenizer`."""

    name: str = "tokenizer"
    """Folder of the run under output_path."""
    output_path: str = "runs"
    """Folder or URI that holds runs."""
    seed: int = 0
    """Seeds initialisation, data order, crops and flips."""
    teacher_path: str = ""
    """Folder with teacher.safetensors and teacher.json; may be empty where loss.relation_weight is 0, and then no
    relation is measured either.
    """
    initial_path: str = ""
    """Folder with tokenizer.safetensors (and perhaps discriminator.safetensors) of the same model to start from, such
    as an imported one; empty starts at random.
    """
    ema_decay: float = 0.0
    """Decay of averaged weights, per optimizer step, which are then exported and scored too; 0 averages nothing."""
    ema_warmup: bool = True
    """Let the decay rise to ema_decay as (1 + step) / (10 + step), so that short runs' averages forget the start."""
    audit_keys: bool = False
    """Write into audit/ of the run folder which keys every worker saw at every step."""
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)

    def __post_init__(self) -> None:
        _require_finite(self)
        self.schedule.accumulation_steps(self.scaling.num_workers)
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must be in [0, 1)")
        loss = self.loss
        if self.teacher_path:
            self.model.codebook(loss.relation.codebook)
        widths = {item.name: item.width for item in self.model.codebooks}
        _require(
            loss.disentanglement_weight == 0 or len(set(widths.values())) == 1,
            "loss.disentanglement_weight",
            loss.disentanglement_weight,
            f"compares codes of all codebooks, so their widths must be equal (they are {widths}); set it to 0",
        )
        heads = [item.name for item in self.model.codebooks if item.contrast.network]
        _require(
            bool(heads) == (loss.contrastive_weight > 0),
            "loss.contrastive_weight",
            loss.contrastive_weight,
            "must be positive exactly where a codebook names a contrast.network; "
            f"those with one: {', '.join(heads) or 'none'}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorRun:
    """What all of `jobs.train_generator`'s runs have; XARRun and FARRun add the model."""

    name: str = "generator"
    """Folder of the run under output_path."""
    output_path: str = "runs"
    """Folder or URI that holds runs."""
    seed: int = 0
    """Seeds initialisation, data order, dropped labels, times and noise."""
    tokenizer_path: str = ""
    """Folder with the tokenizer.safetensors that made the codes."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights, per optimizer step; 0 averages nothing."""
    ema_warmup: bool = True
    """Let the decay rise to ema_decay as (1 + step) / (10 + step), so that short runs' averages forget the start."""
    audit_keys: bool = False
    """Write into audit/ of the run folder which keys every worker saw at every step."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: CodeDataConfig = field(default_factory=CodeDataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)

    def __post_init__(self) -> None:
        _require_finite(self)
        self.schedule.accumulation_steps(self.scaling.num_workers)
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must be in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class XARRun(GeneratorRun):
    """All of a training of xAR."""

    model: XARConfig = field(default_factory=XARConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class FARRun(GeneratorRun):
    """All of a training of FAR, or of LlamaGen's GPT."""

    model: FARConfig = field(default_factory=FARConfig)
    label_dropout: float = 0.1
    """Probability that a label becomes the null label."""

    def __post_init__(self) -> None:
        # Without arguments `super` does not know a class with slots.
        GeneratorRun.__post_init__(self)
        _require_probability("label_dropout", self.label_dropout)


# ---------------------------------------------------------------------------------------- the other jobs


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """An actor pool of a batch job."""

    num_actors: int = 8
    """Actors in the pool."""
    use_gpu: bool = True
    """One GPU per actor; off runs on CPU."""
    cpus_per_actor: float = 4.0
    """Logical CPUs that Ray reserves per actor."""
    threads_per_actor: int = 0
    """Torch threads per actor; 0 leaves torch's own choice."""
    batch_size: int = 64
    """Images per forward pass."""
    storage_retry_minutes: float = 5.0
    """Minutes for which reads of shards and writes of codes are tried again before the job stops."""

    def __post_init__(self) -> None:
        _require_finite(self, "pool.")
        _require_positive("pool", self, ("num_actors", "batch_size"))
        _require(
            self.storage_retry_minutes >= 0,
            "pool.storage_retry_minutes",
            self.storage_retry_minutes,
            "must not be negative; 0 never tries again",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRun:
    """All of `jobs.shard_images`."""

    source: str = PHOTOGRAPHS
    """"photographs" (the embedded set), or a folder with one sub-folder per class."""
    validation_source: str = ""
    """Folder of the validation pictures, with the same sub-folders; empty takes them out of a folder `source`."""
    output_path: str = "data/shards"
    """Folder that receives train/ and validation/ shards."""
    image_size: int = 256
    """Side for which pictures are stored, pixels. The photographs are cut into crops of this side. A folder's pictures
    are stored whole: 0 keeps the originals, from which every crop is ADM's; a side N reduces (or enlarges) them to a
    short side in [N, 1.25 * N], which is smaller and quicker to read, and is no longer ADM's protocol.
    """
    upright: bool = True
    """Turn a folder's pictures by their EXIF orientation, as phones mean it, and lay transparent ones on white. Off
    leaves the pixels as they lie and drops alpha, as guided-diffusion and all published ImageNet numbers do.
    """
    crops_per_class: int = 500
    """Training crops per embedded photograph."""
    validation_crops_per_class: int = 60
    """Validation crops per embedded photograph, from a region that no training crop touches."""
    validation_fraction: float = 0.1
    """Share of a folder's pictures, per class, that become validation (at least one, chosen by the seed); not read
    where validation_source names them.
    """
    rows_per_shard: int = 1000
    """Rows per Parquet shard; a shard has fewer where pictures of it prove unreadable."""
    shard_mib: int = 1024
    """MiB of picture files at most that a shard is made of, which readers hold whole: photographs of a phone then have
    shards of fewer rows. Pictures that are stored as PNG may take several times their file's size.
    """
    seed: int = 0
    """Seeds crops, the split and the order of rows."""
    storage_retry_minutes: float = 5.0
    """Minutes for which a picture that storage does not give is tried again before it is left out."""

    def __post_init__(self) -> None:
        _require(
            self.storage_retry_minutes >= 0,
            "storage_retry_minutes",
            self.storage_retry_minutes,
            "must not be negative; 0 never tries again",
        )
        _require(
            0 < self.validation_fraction < 1,
            "validation_fraction",
            self.validation_fraction,
            "must be in (0, 1)",
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
    output_path: str = "runs/teacher"
    """Folder that receives teacher.safetensors, teacher.json and teacher.png."""
    network: str = "dinov2_vitb14_reg"
    """Frozen feature network, a name of `glotok_ray.teacher.networks.NETWORKS`; "efficientnet_lite0"
    ships with the package.
    """
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
    vectors_per_image: int = 16
    """Spatial feature vectors kept per image, drawn by the seed."""
    max_images: int = 65536
    """Images used, drawn by the seed; 0 uses all."""
    stratified: bool = True
    """Draw equally many images of every class, as far as each has them; off draws from all alike."""
    num_clusters: int = 4096
    """Centroids of k-means over all vectors; unused with clusters_per_class."""
    clusters_per_class: int = 0
    """Cluster every class by itself into this many centroids (VQGAN-LC has 100); 0 clusters all
    vectors together.
    """
    kmeans_iterations: int = 20
    """Lloyd iterations, at most; a run that no longer moves stops."""
    kmeans_seeding: Literal["random", "kmeans++"] = "random"
    """Initial centroids: vectors drawn alike, or far apart from each other."""
    kmeans_restarts: int = 1
    """Runs from different seeds, of which the best objective is kept."""
    spherical: bool = False
    """Cosine k-means: vectors are normalised, and centroids after each iteration."""
    center: bool = True
    """Subtract the mean feature first; it changes the cosine histogram and is recorded."""
    project_width: int = 0
    """Project features (or finished centroids) to this many principal components first, so that a
    student of that width can reach the target; 0 keeps all.
    """
    memory_gib: float = 16.0
    """Features up to this size are clustered in the driver's memory; larger ones stay in Parquet and
    each Lloyd iteration runs over the pool.
    """
    fine_bins: int = 16384
    """Intervals of the stored cosine histogram, from which any bin count and alpha is re-binned."""
    seed: int = 0
    """Seeds the draw of images and vectors and the initial centroids."""
    pool: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        _require_finite(self)
        for name in ("num_clusters", "kmeans_iterations", "kmeans_restarts", "vectors_per_image"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("clusters_per_class", "project_width", "max_images"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must be at least 0")
        _require(self.block <= -1, "block", self.block, "counts from the end: -1 is the last")
        _require(self.memory_gib > 0, "memory_gib", self.memory_gib, "must be positive")
        _require(
            2048 <= self.fine_bins <= 1 << 20,
            "fine_bins",
            self.fine_bins,
            "must be at least 2048, which 40 bins need, and at most 1048576 (16384 holds any alpha up to 26000)",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRun:
    """All of `jobs.export_tokenizer`."""

    source_path: str = ""
    """Run folder, one of its checkpoints' folders, or a checkpoint file of LlamaGen, FQGAN or taming-transformers."""
    output_path: str = "runs/exported"
    """Folder that receives tokenizer.safetensors, config.json and README.md."""
    weights: Literal["model", "ema"] = "model"
    """Of a peer's file: its raw weights or their moving average. A run exports its average where it keeps one."""
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Of a peer's file: the tokenizer that it holds. A run brings its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportGeneratorRun:
    """All of `jobs.export_generator`."""

    source_path: str = ""
    """Folder of a finished generator, or a checkpoint file of xAR, of FQGAN's FAR or of LlamaGen's GPT."""
    output_path: str = "runs/exported_generator"
    """Folder that receives generator.safetensors, generator.json, README.md and a copy of the tokenizer."""
    tokenizer_path: str = ""
    """Folder with the tokenizer.safetensors that made the generator's codes, which is copied. Empty takes the copy
    beside a run's generator, and leaves a peer's generator without one.
    """
    weights: Literal["model", "ema"] = "ema"
    """Of a run: "ema" takes its average where it kept one, "model" its raw weights. Of a peer's file: "ema" demands
    its moving average, "model" takes the raw weights where both are there.
    """
    layout: Literal["own", "peer"] = "own"
    """"peer" also writes generator_peer.safetensors, under the names that the peer's own code loads."""
    architecture: Literal["xar", "far"] = "xar"
    """Of a peer's file: which of the two sections below describes it. A run brings its own config."""
    xar: XARConfig = field(default_factory=XARConfig)
    far: FARConfig = field(default_factory=FARConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeRun:
    """All of `jobs.encode_images`."""

    data_path: str = ""
    """Folder of shards."""
    tokenizer_path: str = ""
    """Folder with tokenizer.safetensors."""
    output_path: str = "runs/codes"
    """Folder that receives Parquet codes."""
    views: Literal["center", "center_flip", "ten_crop"] = "center_flip"
    """What is stored of an image: its centre; the centre and its mirror image (xAR); or centre and corners of the
    picture at crop_scale times the size, and their mirror images (FAR, LlamaGen).
    """
    crop_scale: float = 1.1
    """Side of the picture that "ten_crop" cuts, over the tokenizer's image size. Other views leave it unread."""
    adm_protocol: bool = False
    """Refuse pictures that were reduced, turned or changed when they were sharded: crops are ADM's of originals, or the
    data set's own, alone. Off takes all, and dataset.json of the codes says what they are.
    """
    pool: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        _require(1 <= self.crop_scale <= 2, "crop_scale", self.crop_scale, "must be in [1, 2]")

    @property
    def num_views(self) -> int:
        """Rows of codes per image."""
        return {"center": 1, "center_flip": 2, "ten_crop": 10}[self.views]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRun:
    """What all of `jobs.sample_images`'s runs have; XARSampleRun and FARSampleRun add the sampler."""

    generator_path: str = ""
    """Folder of a finished run, or of an export, of a generator."""
    tokenizer_path: str = ""
    """Folder with tokenizer.safetensors; empty takes the copy in the generator's folder."""
    output_path: str = "runs/samples"
    """Folder that receives samples.npz, samples.parquet and a grid."""
    num_images: int = 50000
    """Images; image i has class i mod num_classes."""
    seed: int = 0
    """Randomness is keyed by (seed, image), so the number of actors changes nothing."""
    pool: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        _require_finite(self)
        _require(self.num_images >= 1, "num_images", self.num_images, "must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class XARSampleRun(SampleRun):
    """All of a sampling of xAR."""

    sampler: FlowSamplerConfig = field(default_factory=FlowSamplerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class FARSampleRun(SampleRun):
    """All of a sampling of FAR, or of LlamaGen's GPT."""

    sampler: TokenSamplerConfig = field(default_factory=TokenSamplerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateRun:
    """All of `jobs.evaluate_images`."""

    tokenizer_path: str = ""
    """Folder with tokenizer.safetensors: reconstructions of data_path are judged. Empty judges samples only."""
    data_path: str = ""
    """Folder of validation shards: the input of reconstructions and the reference of Frechet distances."""
    samples_path: str = ""
    """Folder with samples.npz; empty judges reconstructions only."""
    codes_path: str = ""
    """Training codes, from which the two baselines of the samples are drawn; empty computes none."""
    output_path: str = "runs/evaluation"
    """Folder that receives metrics.json and grids."""
    num_images: int = 0
    """Images evaluated; 0 takes all."""
    adm_protocol: bool = False
    """Refuse pictures that were reduced, turned or changed when they were sharded: crops are ADM's of originals, or the
    data set's own, alone. Off takes all, and each figure's protocol says what they are.
    """
    feature_size: int = 224
    """Side to which images are resized for the feature network, pixels."""
    uniformity_vectors: int = 10000
    """Latent vectors per uniformity draw (Table 3)."""
    uniformity_repeats: int = 10
    """Draws over which Table 3's metrics are averaged."""
    seed: int = 0
    """Seeds the uniformity draws and the baselines."""
    pool: PoolConfig = field(default_factory=PoolConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRun:
    """All of `jobs.sweep_tokenizer`: short runs of one tokenizer recipe over lambda_hist, bins and alpha, or over the
    rows of the paper's ablations.
    """

    output_path: str = "runs/sweep"
    """Folder that receives results.csv, table.md, and of a search plots and best_recipe.json."""
    inputs: Literal["given", "quickstart"] = "given"
    """"quickstart" makes the quickstart's shards and teacher first, where they are not there yet."""
    rows: tuple[str, ...] = ()
    """Names of `glotok_ray.recipes.tokenizer.ROWS`, trained once each in place of points of the search space; empty
    searches.
    """
    relation_weights: tuple[float, ...] = (0.0, 0.01, 0.1)
    """Values of loss.relation_weight; 0 is the baseline without relation learning."""
    bins: tuple[int, ...] = (20, 40, 80)
    """Values of loss.relation.num_bins."""
    alpha_factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Alpha as multiples of 1 / (2 * bin width^2)."""
    num_trials: int = 12
    """Trials of a search; the baseline first, then points drawn by the seed without repetition."""
    max_concurrent_trials: int = 1
    """Trials that run at once."""
    max_steps: int = 2000
    """Optimizer steps per trial, the same for all."""
    seed: int = 0
    """Seeds the draw of trials; every trial trains with the tokenizer recipe's own seed."""
    retry_failed: bool = False
    """Train again the trials that failed in an earlier run of the same sweep, which are otherwise rows without figures,
    ranked last.
    """
    tokenizer: TokenizerRun = field(default_factory=TokenizerRun)
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)

    def __post_init__(self) -> None:
        _require_finite(self)
        _require(self.num_trials >= 2, "num_trials", self.num_trials, "must be at least 2")
        for name in ("max_concurrent_trials", "max_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        weights, bins, factors = self.relation_weights, self.bins, self.alpha_factors
        _require(min(weights, default=0) >= 0, "relation_weights", weights, "must not be negative")
        _require(min(bins, default=2) >= 2, "bins", bins, "must be at least 2 each")
        _require(min(factors, default=1) > 0, "alpha_factors", factors, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationRun:
    """All of `jobs.sweep_generator`: one xAR recipe trained once per row of xAR's ablations, sampled and judged."""

    output_path: str = "runs/xar_ablations"
    """Folder that receives results.csv, table.md and, under rows/, the parts of every row."""
    inputs: Literal["given", "quickstart"] = "given"
    """"quickstart" makes the quickstart's shards, teacher, tokenizer and codes first, where they are not there yet."""
    rows: tuple[str, ...] = ()
    """Names of `glotok_ray.recipes.generator_ablations.ROWS`; empty takes all."""
    retry_failed: bool = False
    """Train again the rows that failed in an earlier run, which otherwise stay without figures."""
    generator: XARRun = field(default_factory=XARRun)
    samples: XARSampleRun = field(default_factory=XARSampleRun)
    """Sampling of every row; its generator_path and output_path are the row's."""
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)
    """Evaluation of every row's samples; its samples_path and output_path are the row's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartRun:
    """All of `jobs.quickstart`: its stages, their folders chained under output_path."""

    output_path: str = "runs/quickstart"
    """Folder of everything that the pipeline writes."""
    data: ShardRun = field(default_factory=ShardRun)
    teacher: TeacherRun = field(default_factory=TeacherRun)
    tokenizer: TokenizerRun = field(default_factory=TokenizerRun)
    codes: EncodeRun = field(default_factory=EncodeRun)
    generator: XARRun = field(default_factory=XARRun)
    samples: XARSampleRun = field(default_factory=XARSampleRun)
    far: FARRun = field(default_factory=FARRun)
    far_samples: FARSampleRun = field(default_factory=FARSampleRun)
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)
    far_evaluation: EvaluateRun = field(default_factory=EvaluateRun)


# ---------------------------------------------------------------------------------------- tools on configs


def override(config: Config, changes: dict[str, Any]) -> Config:
    """Return a copy with dotted fields replaced, all at once; raises ValueError for an unknown
    field, with the known ones.
    """
    return _override(
        config, {tuple(path.split(".")): value for path, value in changes.items()}, prefix=""
    )


def _override(config: Any, changes: dict[tuple[str, ...], Any], prefix: str) -> Any:
    names = [item.name for item in dataclasses.fields(config)]
    values: dict[str, Any] = {}
    nested: dict[str, dict[tuple[str, ...], Any]] = {}
    for parts, value in changes.items():
        path = prefix + ".".join(parts)
        if parts[0] not in names:
            raise ValueError(
                f"{path}: {type(config).__name__} has no field {parts[0]!r}; it has {', '.join(names)}"
            )
        if len(parts) == 1:
            values[parts[0]] = value
        elif _is_section(getattr(config, parts[0])):
            nested.setdefault(parts[0], {})[parts[1:]] = value
        else:
            raise ValueError(f"{path}: {parts[0]!r} is a value, not a section; set it as a whole")
    for name, inner in nested.items():
        section = values.get(name, getattr(config, name))
        change = _override_items if isinstance(section, tuple) else _override
        values[name] = change(section, inner, f"{prefix}{name}.")
    return dataclasses.replace(config, **values)


def _is_section(value: Any) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    return bool(items) and all(dataclasses.is_dataclass(item) for item in items)


def _override_items(
    items: tuple[Any, ...], changes: dict[tuple[str, ...], Any], prefix: str
) -> tuple[Any, ...]:
    """Change members of a tuple of sections, which are addressed by their place: "model.codebooks.0.size"."""
    nested: dict[int, dict[tuple[str, ...], Any]] = {}
    for parts, value in changes.items():
        if len(parts) < 2 or parts[0] not in {str(place) for place in range(len(items))}:
            raise ValueError(
                f"{prefix}{'.'.join(parts)}: name a field of one of its {len(items)} parts, as in {prefix}0.FIELD"
            )
        nested.setdefault(int(parts[0]), {})[parts[1:]] = value
    return tuple(
        _override(item, nested[place], f"{prefix}{place}.") if place in nested else item
        for place, item in enumerate(items)
    )


def with_absolute_paths(config: Config, root: Path | None = None) -> Config:
    """A copy in which every path that is set is absolute, seen from `root` or else from the present folder; "~" is
    expanded. Paths are the fields named "..._path" and the sources of a ShardRun.

    Raises ValueError for an address of an object store.
    """
    start = (root or Path.cwd()).absolute()
    changes = {
        name: str(absolute_path(name, value, start)) for name, value in _paths(config).items()
    }
    return override(config, changes)


def relative_paths(config: Any) -> dict[str, str]:
    """The paths of a config that are set and not absolute, by dotted name."""
    return {
        name: value
        for name, value in _paths(config).items()
        if not Path(value).is_absolute() and not value.startswith("~")
    }


def absolute_path(name: str, value: str, root: Path) -> Path:
    """`value` seen from `root`, "~" expanded; raises ValueError, in the name of the field, for what is no path."""
    # One slash will do: Path makes one of two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", value):
        raise ValueError(
            f"{name} = {value!r}: object stores are not supported yet; mount it on every node and give that folder"
        )
    try:
        return root / Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} = {value!r}: {error}; write the path out") from None


def _paths(config: Any, prefix: str = "") -> dict[str, str]:
    """Every path that is set, by dotted name."""
    found: dict[str, str] = {}
    for item in dataclasses.fields(config):
        name, value = f"{prefix}{item.name}", getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            found |= _paths(value, f"{name}.")
        elif isinstance(value, tuple) and _is_section(value):
            for place, part in enumerate(value):
                found |= _paths(part, f"{name}.{place}.")
        elif _is_path(config, item.name) and value:
            found[name] = str(value)
    return found


def _is_path(config: Any, name: str) -> bool:
    if isinstance(config, ShardRun) and name == "source":
        return config.source != PHOTOGRAPHS
    return name.endswith("_path") or (isinstance(config, ShardRun) and name == "validation_source")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[Config], values: dict[str, Any]) -> Config:
    """Rebuild a config from `to_dict`; raises ValueError for unknown fields, which a newer or older
    version may have written.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}; it has {', '.join(hints)}")
    return kind(**{name: _from_plain(hints[name], value) for name, value in values.items()})


def _from_plain(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value)
    if typing.get_origin(hint) is tuple:
        return tuple(_from_plain(typing.get_args(hint)[0], item) for item in value)
    if hint is float or (
        isinstance(hint, types.UnionType)
        and float in typing.get_args(hint)
        and isinstance(value, int)
    ):
        return float(value)
    return value
