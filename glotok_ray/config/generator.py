"""The generator models, xAR and FAR, with flow matching, and how they are sampled."""

from dataclasses import dataclass
from typing import Literal

from glotok_ray.config.rules import (
    gated_hidden,
    require,
    require_code_count,
    require_distinct,
    require_guidance,
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


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyConfig:
    """The codes of one codebook, as a token generator predicts them."""

    name: str = "visual"
    """Name of the tokenizer's codebook."""
    size: int = 16384
    """Number of codes."""

    def __post_init__(self) -> None:
        require_code_count("vocabulary.size", self.size)


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
            require(
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
        return gated_hidden(self.width, self.mlp_multiple)


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
        require(self.num_steps >= 2, "sampler.num_steps", self.num_steps, "must be at least 2")
        require(
            self.last_num_steps == 0 or self.last_num_steps >= 2,
            "sampler.last_num_steps",
            self.last_num_steps,
            "must be at least 2, or 0 for as many as in the first entity",
        )
        require(0 < self.final_time < 1, "sampler.final_time", self.final_time, "must be in (0, 1)")
        require_guidance(self.guidance_scale, self.guidance_interval)


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
        require_guidance(self.guidance_scale, self.guidance_interval)
        require(self.temperature > 0, "sampler.temperature", self.temperature, "must be positive")
        require(
            self.top_k >= 0, "sampler.top_k", self.top_k, "must be at least 0 (0 draws among all)"
        )
        require(0 < self.top_p <= 1, "sampler.top_p", self.top_p, "must be in (0, 1]")
