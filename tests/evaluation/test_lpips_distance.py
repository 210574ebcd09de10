"""LPIPS per pair of images is what the package computes with the same weights."""

import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch

from glotok_ray.evaluation.lpips_distance import LPIPSDistance
from glotok_ray.storage.artefact import ArtefactError, sha256_of

CPU = torch.device("cpu")
SHAPES = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}


def trunk() -> dict[str, torch.Tensor]:
    """AlexNet's convolutions under torchvision's names."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for layer, shape in SHAPES.items():
        scale = (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        found[f"features.{layer}.weight"] = torch.randn(shape, generator=generator) * scale
        found[f"features.{layer}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    torch.save(trunk() | {"classifier.6.weight": torch.zeros(1)}, path)
    return path


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    first = generator.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    second = generator.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    second[1] = first[1]
    return first, second


def test_distances_are_the_package_s(file: Path, images: tuple[np.ndarray, np.ndarray]) -> None:
    distance = LPIPSDistance("alex", str(file), device=CPU)
    assert distance.name == "LPIPS (AlexNet)"
    assert distance.weights_sha256 == sha256_of(file)
    found = distance(*images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    names = {
        name: f"features.{name.split('.')[2]}.{name.split('.')[3]}"
        for name in package.state_dict()
        if name.startswith("net.")
    }
    weights = trunk()
    package.load_state_dict({name: weights[alias] for name, alias in names.items()}, strict=False)
    pair = [torch.from_numpy(each).permute(0, 3, 1, 2) / 127.5 - 1 for each in images]
    with torch.inference_mode():
        expected = package(*pair).flatten().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert found.dtype == np.float64
    assert found[1] == 0
    assert found[0] > 1e-3
    # Symmetric, and of each pair alone.
    np.testing.assert_allclose(distance(*images[::-1]), found, rtol=1e-5)
    np.testing.assert_allclose(distance(images[0][2:], images[1][2:]), found[2:], rtol=1e-5)


def test_files_that_are_not_the_backbone_s_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ArtefactError, match=r"lpips_path = '.*features\.0\.weight has shape .*vgg16-397923af"
    ):
        LPIPSDistance("vgg", str(file), device=CPU)
    codes = {"features.3.bias": torch.ones(192, dtype=torch.int8)}
    torch.save(trunk() | codes, tmp_path / "codes.pth")
    with pytest.raises(ArtefactError, match=r"features\.3\.bias holds torch\.int8, must be float"):
        LPIPSDistance("alex", str(tmp_path / "codes.pth"), device=CPU)
    with pytest.raises(ArtefactError, match="is no file; bring torchvision's alexnet-owt-7be5be79"):
        LPIPSDistance("alex", "", device=CPU, field="evaluation.lpips_path")
    with pytest.raises(ValueError, match="backbone = 'squeeze': must be one of alex, vgg"):
        LPIPSDistance("squeeze", str(file), device=CPU)  # type: ignore[arg-type]
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ArtefactError, match="not a plain state dict but a list"):
        LPIPSDistance("alex", str(tmp_path / "list.pth"), device=CPU)


def test_pairs_of_other_shapes_are_refused(
    file: Path, images: tuple[np.ndarray, np.ndarray]
) -> None:
    distance = LPIPSDistance("alex", str(file), device=CPU)
    with pytest.raises(ValueError, match="need equal"):
        distance(images[0], images[1][:2])
    with pytest.raises(ValueError, match=r"dtype torch\.float32"):
        distance(images[0].astype(np.float32), images[1])  # type: ignore[arg-type]
