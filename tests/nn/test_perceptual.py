"""The embedded network sees what is in a photograph; L_P follows its formula and stays frozen."""

import copy
import socket
import warnings
from pathlib import Path
from urllib.error import URLError

import lpips
import pytest
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG16_Weights

from glotok_ray.config import TokenizerLossConfig
from glotok_ray.nn.perceptual import (
    LearnedPerceptualDistance,
    NoDistance,
    PerceptualDistance,
)
from glotok_ray.pretrained.feature_networks import EfficientNetLite0
from glotok_ray.pretrained.perceptual import build_perceptual, learned_distance
from glotok_ray.pretrained.perceptual_files import check_perceptual
from glotok_ray.storage.artefact import ArtefactError, sha256_of

CATS = {281, 282, 283, 284, 285}  # ImageNet-1k: tabby, tiger, Persian, Siamese and Egyptian cat


def resize_images(images: Float[Tensor, "b 3 H W"], size: int) -> Float[Tensor, "b 3 size size"]:
    """Bilinear with antialiasing, to a square of side `size`; the aspect ratio is not kept."""
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


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


# Position of every convolution in torchvision's VGG16: the package's slice, channels in and out.
CONVOLUTIONS = {
    0: (1, 3, 64),
    2: (1, 64, 64),
    5: (2, 64, 128),
    7: (2, 128, 128),
    10: (3, 128, 256),
    12: (3, 256, 256),
    14: (3, 256, 256),
    17: (4, 256, 512),
    19: (4, 512, 512),
    21: (4, 512, 512),
    24: (5, 512, 512),
    26: (5, 512, 512),
    28: (5, 512, 512),
}


def trunk(names: str = "torchvision", seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names of torchvision's VGG16 or of the lpips package."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for index, (part, before, after) in CONVOLUTIONS.items():
        place = f"features.{index}" if names == "torchvision" else f"net.slice{part}.{index}"
        scale = (2 / (9 * before)) ** 0.5
        state[f"{place}.weight"] = torch.randn(after, before, 3, 3, generator=generator) * scale
        state[f"{place}.bias"] = torch.randn(after, generator=generator) * 0.1
    return state


def heads() -> dict[str, torch.Tensor]:
    widths = enumerate((64, 128, 256, 512, 512))
    return {f"lin{index}.model.1.weight": torch.rand(1, width, 1, 1) for index, width in widths}


def weights_file(path: Path, state: object) -> TokenizerLossConfig:
    torch.save(state, path)
    return TokenizerLossConfig(perceptual_weights_path=str(path))


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, 3, 32, 32, generator=generator) * 2 - 1
    return x, y


@pytest.fixture(scope="module")
def learned() -> LearnedPerceptualDistance:
    return learned_distance(trunk(), "a test")


@pytest.fixture(scope="module")
def package() -> lpips.LPIPS:
    """The package itself, with the weights of `learned`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    model.load_state_dict(trunk("lpips"), strict=False)
    return model


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(VGG16_Weights, "get_state_dict", refuse)


def test_lpips_vgg_equals_the_package_with_its_own_heads(learned, package, pair):
    assert torch.equal(learned(*pair), package(*pair).mean())
    assert learned(*pair).shape == ()
    assert float(learned(pair[0], pair[0])) == 0


@pytest.mark.parametrize("names", ["torchvision", "lpips"])
def test_weights_are_read_from_a_file_of_either_naming(names, learned, pair, tmp_path):
    same = build_perceptual(weights_file(tmp_path / "same.pth", trunk(names)))
    other = build_perceptual(weights_file(tmp_path / "other.pth", trunk(names, seed=1)))
    assert torch.equal(same(*pair), learned(*pair))
    assert not torch.equal(other(*pair), learned(*pair))


def test_weights_are_read_from_safetensors_in_any_precision(learned, pair, tmp_path):
    path = tmp_path / "vgg.safetensors"
    save_file({name: value.half() for name, value in trunk().items()}, path)
    distance = build_perceptual(TokenizerLossConfig(perceptual_weights_path=str(path)))
    assert {value.dtype for value in distance.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(distance(*pair), learned(*pair), rtol=1e-2, atol=0)


def test_a_whole_state_dict_of_the_package_brings_its_heads(package, learned, pair, tmp_path):
    stored = {**package.state_dict(), **heads()}
    distance = build_perceptual(weights_file(tmp_path / "lpips.pth", stored))
    assert torch.equal(distance.network.lin2.model[1].weight, stored["lin2.model.1.weight"])
    assert not torch.equal(distance(*pair), learned(*pair))


def test_weights_of_torchvision_are_the_default(learned, pair, monkeypatch):
    stored = trunk() | {"classifier.0.weight": torch.zeros(1)}
    monkeypatch.setattr(VGG16_Weights, "get_state_dict", lambda *_, **__: stored)
    assert torch.equal(build_perceptual(TokenizerLossConfig())(*pair), learned(*pair))


def test_building_draws_no_random_numbers_and_prints_nothing(capsys, recwarn):
    weights, before = trunk(), torch.get_rng_state()
    distance = learned_distance(weights, "a test")
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr() == ("", "")
    assert not recwarn.list
    assert not any(value.is_meta for value in distance.state_dict().values())


def test_the_dropout_of_the_heads_never_wakes(learned, pair):
    expected = learned(*pair)
    assert any(isinstance(module, nn.Dropout) for module in learned.modules())
    nn.Sequential(learned).train()
    assert not any(module.training for module in learned.modules())
    assert not any(parameter.requires_grad for parameter in learned.parameters())
    assert torch.equal(learned(*pair), expected)


def test_gradient_of_lpips_reaches_both_images(learned, pair):
    x, y = (images.clone().requires_grad_() for images in pair)
    learned(x, y).backward()
    assert x.grad.abs().sum() > 0
    assert y.grad.abs().sum() > 0


def test_gradient_of_lpips_is_finite_where_all_features_are_zero(pair):
    # The root in the package has an infinite slope there.
    silent = {
        name: value - 100 if name.endswith("bias") else value for name, value in trunk().items()
    }
    x, y = pair[0], pair[1].clone().requires_grad_()
    for precision in (torch.float32, torch.bfloat16):
        distance = learned_distance(silent, "a test").to(precision)
        distance(x, y).backward()
        assert torch.isfinite(y.grad).all()


def test_bf16_weights_still_give_an_fp32_distance(learned, network, cat, pair):
    low = copy.deepcopy(learned).to(torch.bfloat16)
    kinds = {name: value.dtype for name, value in low.state_dict().items()}
    assert {kinds[name] for name in kinds if ".net." in name} == {torch.bfloat16}
    assert {kinds[name] for name in kinds if ".net." not in name} == {torch.float32}
    assert torch.equal(low.network.lin0.model[1].weight, learned.network.lin0.model[1].weight)
    assert low(*pair).dtype == torch.float32
    torch.testing.assert_close(low(*pair), learned(*pair), rtol=3e-2, atol=0)
    embedded = PerceptualDistance(copy.deepcopy(network)).to(torch.bfloat16)
    images = resize_images(cat, 64)
    assert embedded(images, 0.9 * images).dtype == torch.float32


@pytest.mark.parametrize(
    "failure", [URLError("no route"), TimeoutError("silent"), RuntimeError("invalid hash value")]
)
def test_a_failed_download_names_the_file_to_bring(failure, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        assert socket.getdefaulttimeout() == 20
        raise failure

    monkeypatch.setattr(VGG16_Weights, "get_state_dict", fail)
    with pytest.raises(ArtefactError, match=r"vgg16-397923af\.pth.*efficientnet_lite0"):
        build_perceptual(TokenizerLossConfig())
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("act", [check_perceptual, build_perceptual])
def test_a_missing_file_or_wrong_digest_is_refused(act, tmp_path):
    with pytest.raises(
        ArtefactError, match=r"weights_path = .*absent\.pth': is no file.*efficientnet"
    ):
        act(TokenizerLossConfig(perceptual_weights_path=str(tmp_path / "absent.pth")))
    with pytest.raises(ArtefactError, match=r"weights_sha256 = '00': needs .*weights_path"):
        act(TokenizerLossConfig(perceptual_weights_sha256="00"))
    file = tmp_path / "text.pth"
    file.write_text("not weights")
    loss = TokenizerLossConfig(perceptual_weights_path=str(file), perceptual_weights_sha256="00")
    with pytest.raises(ArtefactError, match=rf"sha256 = '00': must be .*{sha256_of(file)}.*bring"):
        act(loss)


def test_the_check_reads_no_weights_and_needs_no_network(tmp_path):
    file = tmp_path / "text.pth"
    file.write_text("not weights")
    check_perceptual(TokenizerLossConfig())
    check_perceptual(
        TokenizerLossConfig(
            perceptual_weights_path=str(file), perceptual_weights_sha256=sha256_of(file)
        )
    )
    check_perceptual(TokenizerLossConfig(perceptual_weight=0.0, perceptual_weights_path="absent"))


def test_foreign_weights_are_refused(tmp_path):
    text, file = tmp_path / "text.pth", tmp_path / "vgg.pth"
    text.write_text("not weights")
    for path in (text, text.rename(tmp_path / "text.safetensors")):
        path.write_text("not weights")
        with pytest.raises(ArtefactError, match=r"weights_path = .*not a plain state dict"):
            build_perceptual(TokenizerLossConfig(perceptual_weights_path=str(path)))
    with pytest.raises(ArtefactError, match="not a plain state dict but a list"):
        build_perceptual(weights_file(file, [1]))
    state = trunk()
    bias = state.pop("features.28.bias")
    with pytest.raises(ArtefactError, match=r"no tensor features\.28\.bias \(or net\.slice5"):
        build_perceptual(weights_file(file, state))
    with pytest.raises(
        ArtefactError, match=r"features\.28\.bias has shape \(9,\), must .*\(512,\)"
    ):
        build_perceptual(weights_file(file, state | {"features.28.bias": bias[:9]}))
    some = {name: value for name, value in heads().items() if not name.startswith("lin4")}
    with pytest.raises(ArtefactError, match=r"no tensor lin4\.model\.1\.weight"):
        build_perceptual(weights_file(file, trunk() | some))


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


def test_weights_of_vgg_that_are_not_finite_are_named(tmp_path):
    state = trunk()
    state["features.2.bias"][0] = torch.inf
    message = r"vgg\.pth.*features\.2\.bias \(1 of 64 values\).*fetch the file again"
    with pytest.raises(ArtefactError, match=message):
        build_perceptual(weights_file(tmp_path / "vgg.pth", state))
