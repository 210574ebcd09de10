"""The losses of a tokenizer: the relation loss (paper Eqs. 4-7) and the weights of all terms (Eqs. 3 and 13)."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from glotok_ray.config.rules import ADDED_LATER, require

KERNEL_REACH = 45.0
"""The kernel of Eq. 6 counts as 0 where its exponent is below minus this: exp(-45) = 3e-20, far below an empty bin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RelationConfig:
    """Histogram relation learning (paper section 3.3, Eqs. 4-7, Algorithm 1)."""

    codebook: str = "semantic"
    """Name of the codebook whose cosines follow the teacher's histogram."""
    num_bins: int = 40
    """N bins from -1 to 1 (paper section 4.1)."""
    alpha: float | Literal["bin_width"] = "bin_width"
    """Kernel sharpness of Eq. 6; "bin_width" is 1 / (2 * width^2), 190 at 40 bins: one bin is one
    standard deviation. At most 45 (N - 1)^2, 68445 at 40 bins: above, no bin counts a cosine half way between two.
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
        require(self.num_bins >= 2, "relation.num_bins", self.num_bins, "must be at least 2")
        if self.alpha != "bin_width":
            require(
                self.alpha > 0, "relation.alpha", self.alpha, 'must be positive, or "bin_width"'
            )
            # Half way between two bins a cosine is 1 / (N - 1) from both. A histogram that counts none is 0 / 0.
            most = KERNEL_REACH * (self.num_bins - 1) ** 2
            require(
                self.alpha <= most,
                "relation.alpha",
                self.alpha,
                f"must be at most {KERNEL_REACH:g} * (num_bins - 1)^2 = {most:.0f} at {self.num_bins} bins: so sharp a "
                'kernel reaches no bin from half way between two; lower it, take more bins, or "bin_width"',
            )
        require(
            1e-7 <= self.tolerance <= 1e-2,
            "relation.tolerance",
            self.tolerance,
            "must lie in [1e-7, 0.01]",
        )
        require(
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
    entropy_epsilon: float = field(default=1e-20, metadata={ADDED_LATER: 1e-20})
    """Keeps the logarithm of a code's mean probability finite in the entropy term; FQGAN and LlamaGen have 1e-5."""
    entropy_epsilon_placing: Literal["floor", "added"] = field(
        default="floor", metadata={ADDED_LATER: "floor"}
    )
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
    discriminator_loss_scale: float = field(default=1.0, metadata={ADDED_LATER: 1.0})
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
                require(
                    getattr(self, item.name) >= 0,
                    f"loss.{item.name}",
                    getattr(self, item.name),
                    "must not be negative; 0 switches the term off",
                )
        require(
            self.adversarial_start_step >= 0,
            "loss.adversarial_start_step",
            self.adversarial_start_step,
            "must not be negative",
        )
        require(
            0 < self.entropy_epsilon < 1,
            "loss.entropy_epsilon",
            self.entropy_epsilon,
            "must lie in (0, 1), such as 1e-20 or FQGAN's 1e-5",
        )
        require(
            0 < self.discriminator_loss_scale < math.inf,
            "loss.discriminator_loss_scale",
            self.discriminator_loss_scale,
            "must be positive and finite; adversarial_weight = 0 switches the game off",
        )
