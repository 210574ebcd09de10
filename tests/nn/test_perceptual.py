"""The embedded network sees what is in a photograph; L_P follows its formula and stays frozen."""

import pytest
import torch
from skimage import data
from torch import nn
from torch.nn import functional as F

from glotok_ray.artefact import ArtefactError
from glotok_ray.config import TokenizerLossConfig
from glotok_ray.nn.perceptual import (
    EfficientNetLite0,
    LearnedPerceptualDistance,
    NoDistance,
    PerceptualDistance,
    build_perceptual,
    resize_images,
)

CATS = {281, 282, 283, 284, 285}  # ImageNet-1k: tabby, tiger, Persian, Siamese and Egyptian cat


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def cat() -> torch.Tensor:
    pixels = torch.from_numpy(data.chelsea()[:, 75:375].copy()).permute(2, 0, 1)[None]
    return pixels / 127.5 - 1


def test_a_photograph_of_a_cat_is_classified_as_a_cat(network, cat):
    best = network.logits(resize_images(cat, 224)).topk(5).indices[0].tolist()
    assert CATS & set(best[:2])
    assert len(CATS & set(best)) >= 3


def test_shapes_of_the_features_at_any_size(network):
    images = torch.zeros(2, 3, 64, 96)
    shapes = [tuple(stage.shape) for stage in network.features(images)]
    assert shapes == [
        (2, 16, 32, 48),
        (2, 24, 16, 24),
        (2, 40, 8, 12),
        (2, 112, 4, 6),
        (2, 320, 2, 3),
    ]
    assert network.spatial(images).shape == (2, 1280, 2, 3)
    assert network.pooled(images).shape == (2, 1280)


def test_batch_statistics_and_parameters_stay_frozen(network, cat):
    images = resize_images(cat, 64)
    before = network.pooled(images)
    distance = PerceptualDistance(network)
    distance.train()
    assert not any(module.training for module in distance.modules())
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    network.pooled(torch.randn(4, 3, 64, 64))
    assert torch.equal(network.pooled(images), before)


def test_distance_is_zero_for_equal_images_and_grows_with_noise(network, cat):
    distance, images = PerceptualDistance(network), resize_images(cat, 64)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    values = [float(distance(images, images + scale * noise)) for scale in (0.0, 0.05, 0.2)]
    assert values[0] == 0
    assert 0 < values[1] < values[2]
    assert float(distance(images + 0.2 * noise, images)) == pytest.approx(values[2], rel=1e-5)


def test_distance_gradient_reaches_both_images_and_points_uphill(network, cat):
    distance, images = PerceptualDistance(network), resize_images(cat, 64)
    x, y = images.clone().requires_grad_(), (0.5 * images).requires_grad_()
    value = distance(x, y)
    value.backward()
    assert x.grad.abs().sum() > 0
    step = y.detach() - 1e-2 * y.grad / y.grad.norm()
    assert distance(images, step) < value


class Doubled(nn.Module):
    """A feature network whose distance can be computed by hand."""

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images, 2 * images[:, :, :1]]


def test_distance_formula():
    x, y = torch.zeros(1, 3, 2, 1), torch.zeros(1, 3, 2, 1)
    x[:, 0], y[:, 0] = 3.0, 5.0  # same direction: no distance
    y[:, :, 1] = torch.tensor([0.0, 4.0, 0.0])[None, :, None]  # a right angle: 1 + 1
    assert float(PerceptualDistance(Doubled())(x, y)) == pytest.approx((0 + 2) / 2 + 0)


def test_distance_has_a_finite_gradient_where_all_features_are_zero():
    x, y = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2, requires_grad=True)
    PerceptualDistance(Doubled())(x + 1, y).backward()
    assert torch.isfinite(y.grad).all()


def vgg_state(names: str) -> dict[str, torch.Tensor]:
    """Random weights under the names of torchvision's VGG16 or of the lpips package."""
    generator = torch.Generator().manual_seed(0)
    model = LearnedPerceptualDistance()
    state = {}
    for index, layer in enumerate(model.network.layers):
        if isinstance(layer, nn.Conv2d):
            place = f"features.{index}" if names == "torchvision" else f"net.slice1.{index}"
            fan_in = layer.weight[0].numel()
            state[f"{place}.weight"] = (
                torch.randn(layer.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
            )
            state[f"{place}.bias"] = torch.randn(layer.bias.shape, generator=generator) * 0.1
    for index, head in enumerate(model.heads):
        state[f"lin{index}.model.1.weight"] = torch.rand(head.weight.shape, generator=generator)
    return state


def lpips_by_hand(state: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    def taps(images: torch.Tensor) -> list[torch.Tensor]:
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        z, found, index = (images - shift[:, None, None]) / scale[:, None, None], [], 0
        for stage in (2, 2, 3, 3, 3):
            for _ in range(stage):
                weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
                z = F.relu(F.conv2d(z, weight, bias, padding=1))
                index += 2
            found.append(z / z.norm(dim=1, keepdim=True).clamp_min(1e-10))
            z, index = F.max_pool2d(z, 2), index + 1
        return found

    heads = [state[f"lin{index}.model.1.weight"] for index in range(5)]
    parts = zip(heads, taps(x), taps(y), strict=True)
    return sum(F.conv2d((a - b) ** 2, head).mean(dim=(2, 3)) for head, a, b in parts).mean()


def test_lpips_vgg_equals_its_definition(tmp_path):
    torch.manual_seed(0)
    x, y = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    expected = lpips_by_hand(vgg_state("torchvision"), x, y)
    path = tmp_path / "lpips_vgg.pth"
    torch.save(vgg_state("lpips") | {"scaling_layer.shift": torch.zeros(1)}, path)
    distance = build_perceptual(TokenizerLossConfig(perceptual_weights_path=str(path)))
    torch.testing.assert_close(distance(x, y), expected, rtol=1e-4, atol=1e-5)
    distance.train()
    assert torch.equal(distance(x, y), distance(x, y))
    leaf = y.clone().requires_grad_()
    distance(x, leaf).backward()
    assert leaf.grad.abs().sum() > 0


def test_missing_weights_name_the_file_to_bring(tmp_path):
    with pytest.raises(
        ArtefactError, match=r"perceptual_weights_path is empty.*lin0\.model\.1\.weight"
    ):
        build_perceptual(TokenizerLossConfig())
    with pytest.raises(ArtefactError, match=r"absent\.pth' is no file.*efficientnet_lite0"):
        build_perceptual(TokenizerLossConfig(perceptual_weights_path=str(tmp_path / "absent.pth")))


def test_foreign_weights_are_refused(tmp_path):
    heads_only, text = tmp_path / "vgg.pth", tmp_path / "text.pth"
    state = vgg_state("torchvision")
    torch.save({name: value for name, value in state.items() if name.startswith("lin")}, heads_only)
    with pytest.raises(ArtefactError, match=r"nothing in it gives network\.layers\.0\.weight"):
        build_perceptual(TokenizerLossConfig(perceptual_weights_path=str(heads_only)))
    text.write_text("not weights")
    with pytest.raises(ArtefactError, match="not a plain state dict"):
        build_perceptual(TokenizerLossConfig(perceptual_weights_path=str(text)))
    state["features.0.weight"] = torch.zeros(1)
    torch.save(state, heads_only)
    with pytest.raises(ArtefactError, match="size mismatch"):
        build_perceptual(TokenizerLossConfig(perceptual_weights_path=str(heads_only)))


def test_a_weight_of_zero_needs_no_file_and_costs_nothing():
    distance = build_perceptual(TokenizerLossConfig(perceptual_weight=0.0))
    assert isinstance(distance, NoDistance)
    assert float(distance(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))) == 0


def test_embedded_network_is_chosen_by_the_config():
    loss = TokenizerLossConfig(perceptual_network="efficientnet_lite0")
    assert isinstance(build_perceptual(loss).network, EfficientNetLite0)


def test_resizing_is_antialiased_and_keeps_a_fitting_size():
    stripes = torch.tensor([1.0, -1.0]).repeat(32).expand(1, 3, 64, 64)
    assert float(resize_images(stripes, 16)[..., 2:-2].abs().max()) < 0.05
    assert resize_images(stripes, 64) is stripes
    assert resize_images(torch.zeros(1, 3, 20, 30), 24).shape == (1, 3, 24, 24)
