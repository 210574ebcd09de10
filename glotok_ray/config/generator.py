"""The generator models, xAR and FAR, with flow matching.

Read next: glotok_ray/config/samplers.py
"""

from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.causal import CausalVariantConfig
from glotok_ray.config.rules import (
    ADDED_LATER,
    gated_hidden,
    require,
    require_distinct,
    require_positive,
    require_probability,
    require_rotary_heads,
)


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
        require_positive("model", self, (*sizes, "num_classes"))
        require(
            self.entity not in ("cell", "subsample") or self.grid_size % self.cell_size == 0,
            "model.cell_size",
            self.cell_size,
            f"must divide grid_size = {self.grid_size}",
        )
        sides = self.sides
        require(
            list(sides) == sorted(set(sides)) and sides[0] >= 1 and sides[-1] == self.grid_size,
            "model.scale_sides",
            self.scale_sides,
            f"must rise from at least 1 to grid_size = {self.grid_size}",
        )
        require_rotary_heads(self.width, self.num_heads)
        require(
            self.depth % 2 == 0 and self.depth >= 2,
            "model.depth",
            self.depth,
            "must be even and at least 2",
        )
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")

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
        return gated_hidden(self.width, self.mlp_multiple)


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
        require_probability("flow.label_dropout", self.label_dropout)


# VQGAN-LC has 100,000 codes, IBQ up to 262,144. Files of codes hold up to 65,536, which the tokenizer's config checks.
_LARGEST_VOCABULARY = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyConfig:
    """The codes of one codebook, as a token generator predicts them."""

    name: str = "visual"
    """Name of the tokenizer's codebook."""
    size: int = 16384
    """Number of codes."""

    def __post_init__(self) -> None:
        require(
            2 <= self.size <= _LARGEST_VOCABULARY,
            "vocabulary.size",
            self.size,
            f"must be in [2, {_LARGEST_VOCABULARY}]",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FARConfig:
    """FAR, a causal transformer over positions with a factorised head over codebooks (FQGAN; defaults are FAR-B).

    With one codebook and no head it is LlamaGen's GPT, and with another `variant` the transformer of IBQ, of
    taming-transformers or of VQGAN-LC.
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
    variant: CausalVariantConfig = field(
        default_factory=CausalVariantConfig, metadata={ADDED_LATER: CausalVariantConfig()}
    )

    def __post_init__(self) -> None:
        require_distinct("model.codebooks", list(self.names))
        sizes = ("grid_size", "width", "depth", "num_heads", "mlp_multiple", "num_classes")
        require_positive("model", self, sizes)
        require(
            (self.head_depth > 0) == (len(self.codebooks) > 1),
            "model.head_depth",
            self.head_depth,
            "must be positive for several codebooks, and 0 for one",
        )
        require_rotary_heads(self.width, self.num_heads)
        for name in ("dropout", "token_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"model.{name}", value, "must be in [0, 1)")
        require(
            self.variant.block != "gpt" or len(self.codebooks) == 1,
            "model.codebooks",
            list(self.names),
            'must hold a single codebook with model.variant.block = "gpt"',
        )
        require(
            self.variant.class_input != "among_codes" or self.num_classes <= self.codebooks[0].size,
            "model.num_classes",
            self.num_classes,
            f"must be at most the {self.codebooks[0].size} codes, whose embeddings the classes share",
        )

    @property
    def num_entries(self) -> tuple[int, ...]:
        """Rows of every codebook's table and output: its codes, and its classes where they lie behind the codes."""
        classes = self.num_classes if self.variant.class_input == "after_codes" else 0
        return tuple(item.size + classes for item in self.codebooks)

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
        """Hidden width of the MLP; `mlp_multiple` is for gated ones alone."""
        if self.variant.block == "gpt":
            return 4 * self.width
        return gated_hidden(self.width, self.mlp_multiple)
