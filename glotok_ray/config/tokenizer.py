"""The tokenizer model: encoder and decoder, adapters, codebooks, residual predictors; and its discriminator."""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.rules import require, require_code_count, require_distinct


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
        require(
            len(self.channel_multipliers) >= 1,
            "autoencoder.channel_multipliers",
            self.channel_multipliers,
            "needs at least one level",
        )
        require(
            self.image_size % self.downsample_factor == 0,
            "autoencoder.image_size",
            self.image_size,
            f"must be a multiple of {self.downsample_factor} (2 ** (levels - 1))",
        )
        for multiplier in self.channel_multipliers:
            require(
                (self.base_channels * multiplier) % self.norm_groups == 0,
                "autoencoder.base_channels",
                self.base_channels,
                f"times multiplier {multiplier} must be a multiple of norm_groups = {self.norm_groups}",
            )
        require(0 <= self.dropout < 1, "autoencoder.dropout", self.dropout, "must be in [0, 1)")

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
        require(
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
        require(
            self.name.isidentifier(),
            "codebook.name",
            self.name,
            "must be a name of letters, digits and underscores that starts with no digit",
        )
        require_code_count("codebook.size", self.size)
        require(
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
        require(
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
        require(
            self.adapter.depth == 0 or self.autoencoder.top_channels % self.adapter.num_heads == 0,
            "adapter.num_heads",
            self.adapter.num_heads,
            f"must divide the trunk's top width {self.autoencoder.top_channels}",
        )
        require_distinct("codebooks", list(self.names))

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
