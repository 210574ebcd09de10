"""DINOv2 takes files of timm and of the release; a small transformer stands in for ViT-L/14."""

from pathlib import Path

import pytest
import torch

from glotok_ray.pretrained.dinov2 import (
    DINOv2,
    _empty_transformer,
    _resampled,
    build_dinov2,
    load_dinov2,
)
from glotok_ray.storage.artefact import ArtefactError

TINY = {"embed_dim": 16, "depth": 1, "num_heads": 2}


def release_tensors() -> dict[str, torch.Tensor]:
    """As the release stores them: positions of 37 x 37 patches, and a token for masked ones."""
    generator = torch.Generator().manual_seed(3)
    shapes = {name: value.shape for name, value in _empty_transformer(**TINY).state_dict().items()}
    shapes |= {"pos_embed": (1, 1 + 37 * 37, 16), "mask_token": (1, 16)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def built(tensors: dict[str, torch.Tensor]) -> DINOv2:
    return build_dinov2(tensors, _empty_transformer(**TINY), "a test")


def test_the_class_token_of_normalised_images() -> None:
    network = built(release_tensors())
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    found = network(images)
    assert found.shape == (2, 16)
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    expected = network.transformer((images - mean) / std)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not network.train().training


def test_files_of_timm_and_of_the_release_give_the_same() -> None:
    tensors = release_tensors()
    of_timm = {name: value for name, value in tensors.items() if name != "mask_token"}
    images = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(built(tensors)(images), built(of_timm)(images), rtol=0, atol=0)


def test_positions_are_resampled_by_the_release_s_factor() -> None:
    positions = torch.randn(1, 1 + 37 * 37, 4)
    found = _resampled(positions, 1 + 16 * 16)
    assert found.shape == (1, 257, 4)
    assert torch.equal(found[:, 0], positions[:, 0])
    # A ramp tells where samples are taken: at (i + 0.5) * 37 / 16.1 - 0.5, not at (i + 0.5) * 37 / 16 - 0.5.
    ramp = torch.arange(37.0).repeat(37)[None, :, None]
    along = _resampled(torch.cat([torch.zeros(1, 1, 1), ramp], 1), 257)[0, 1:].view(16, 16)[8, 4:12]
    by_factor, by_size = ((torch.arange(4, 12) + 0.5) * 37 / side - 0.5 for side in (16.1, 16))
    # Bicubic interpolation bends a ramp a little.
    assert (along - by_factor).abs().max() < 0.06
    assert (along - by_size).abs().max() > 0.1
    assert _resampled(positions, 1 + 37 * 37) is positions


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    tensors = release_tensors()
    with pytest.raises(ArtefactError, match=r"a test: does not fit .* 1 missing \(cls_token\)"):
        built({name: value for name, value in tensors.items() if name != "cls_token"})
    with pytest.raises(ArtefactError, match=r"misshapen \(pos_embed \(1, 8, 16\)"):
        built(tensors | {"pos_embed": torch.zeros(1, 8, 16)})
    codes = {"pos_embed": tensors["pos_embed"].to(torch.int8)}
    with pytest.raises(ArtefactError, match=r"of another kind .*pos_embed int8 for float32"):
        built(tensors | codes)
    with pytest.raises(ArtefactError, match="NaN or infinite"):
        built(tensors | {"norm.bias": torch.full((16,), torch.inf)})
    with pytest.raises(ArtefactError, match=r"dinov2_path = '': no such file; bring"):
        load_dinov2("")
    torch.save(tensors, tmp_path / "tiny.pth")
    with pytest.raises(ArtefactError, match="does not fit DINOv2's ViT-L/14"):
        load_dinov2(str(tmp_path / "tiny.pth"))
    torch.save([1], tmp_path / "tiny.pth")
    with pytest.raises(ArtefactError, match="holds a list"):
        load_dinov2(str(tmp_path / "tiny.pth"))
