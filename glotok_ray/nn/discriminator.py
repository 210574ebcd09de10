"""PatchGAN, the patch discriminator of the adversarial loss (paper section 3.1; Isola et al. 2017).

It measures overlapping patches, one logit each. BatchNorm uses the statistics of the batch at hand on one worker.
Read next: glotok_ray/losses/adversarial.py
"""

from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.tokenizer import DiscriminatorConfig

_LARGEST_FACTOR = 8
_SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """4x4 convolutions: strided ones that double the channels, one more of stride 1, and the
    logits.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        base = config.base_channels
        layers: list[nn.Module] = [
            nn.Conv2d(3, base, 4, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE, inplace=True),
        ]
        channels = base
        for depth in range(1, config.num_layers + 1):
            entering, channels = channels, base * min(2**depth, _LARGEST_FACTOR)
            stride = 2 if depth < config.num_layers else 1
            layers += [
                nn.Conv2d(entering, channels, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.LeakyReLU(_SLOPE, inplace=True),
            ]
        layers.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 1 h w"]:
        """One logit per patch, positive for real; images are in [-1, 1] and at least 24 pixels wide
        at the defaults.
        """
        return self.layers(images.to(next(self.parameters()).dtype))


def _initialize(module: nn.Module) -> None:
    # The variances of the pix2pix paper, kept by VQGAN and its successors.
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
