"""How the generators are sampled.

Read next: glotok_ray/sampling/images.py
"""

from dataclasses import dataclass
from typing import Literal

from glotok_ray.config.rules import require, require_guidance

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
    """Token-by-token sampling of FAR, of LlamaGen's GPT and of RQ-Transformer, which has no guidance."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleSamplerConfig:
    """Scale-by-scale sampling of VAR; where codes have several branches, temperature and filters act on each alone."""

    guidance_scale: float = 1.5
    """VAR's t: logits of scale i of n are (1 + t_i) c - t_i u with t_i = t * i / (n - 1), c with the class and u
    without it; 0 is unguided, and the first scale is so always. The last scale's is t + 1 in the other samplers'
    convention.
    """
    temperature: float = 1.0
    """Divides the logits; below 1 sharpens."""
    top_k: int = 900
    """Draw among the k most likely codes; 0 draws among all."""
    top_p: float = 0.96
    """Then draw among the most likely of these that together reach this probability; 1 draws among all."""
    precision: Precision = "fp32"
    """The network's products; under bf16_autocast the weights and the tokenizer stay in fp32."""
    use_ema: bool = True
    """Sample from the averaged weights, where the run kept an average."""

    def __post_init__(self) -> None:
        scale = self.guidance_scale
        require(scale >= 0, "sampler.guidance_scale", scale, "must be at least 0 (0 is unguided)")
        require(self.temperature > 0, "sampler.temperature", self.temperature, "must be positive")
        require(
            self.top_k >= 0, "sampler.top_k", self.top_k, "must be at least 0 (0 draws among all)"
        )
        require(0 < self.top_p <= 1, "sampler.top_p", self.top_p, "must be in (0, 1]")


SamplerConfig = FlowSamplerConfig | TokenSamplerConfig | ScaleSamplerConfig
"""The sampler of any generator."""
