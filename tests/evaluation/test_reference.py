"""Reference statistics in the three layouts that others write; other files are refused in one line each."""

import pickle
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glotok_ray.evaluation.features import POOLED, SPATIAL
from glotok_ray.evaluation.reference import read_reference
from glotok_ray.evaluation.sample_files import image_blocks
from glotok_ray.storage.artefact import ArtefactError, sha256_of


class Extractor:
    """What is asked of one here."""

    name, key, input_contract, weights_sha256 = "Inception-v3", "inception", "none", "0" * 64
    outputs = types.MappingProxyType({POOLED: 6, SPATIAL: 4})
    device = torch.device("cpu")

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        raise AssertionError("nothing is computed here")


def gaussian(width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(width, width))
    return generator.normal(size=width), factor @ factor.T


MEAN, COVARIANCE = gaussian(6)
SPATIAL_MEAN, SPATIAL_COVARIANCE = gaussian(4, 1)
IMAGES = np.random.default_rng(2).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
ADM: dict[str, Any] = {
    "arr_0": IMAGES,
    "mu": MEAN.astype(np.float32),
    "sigma": COVARIANCE,
    "mu_s": SPATIAL_MEAN,
    "sigma_s": SPATIAL_COVARIANCE,
    "arr_1": np.arange(5),
}


def read(path: Path, **arrays: Any):
    np.savez(path, **arrays)
    return read_reference(path, Extractor())


def refused(path: Path) -> str:
    with pytest.raises(ArtefactError) as error:
        read_reference(path, Extractor())
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def refused_arrays(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return refused(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reference.npz"


def test_adm_s_file_has_it_all(path: Path) -> None:
    found = read(path, **ADM)
    assert found.sha256 == sha256_of(path)
    pooled, spatial = found.gaussian(POOLED), found.gaussian(SPATIAL)
    # A mean in fp32 counts in float64.
    assert pooled.mean.dtype == pooled.covariance.dtype == np.float64
    np.testing.assert_array_equal(pooled.mean, MEAN.astype(np.float32))
    np.testing.assert_array_equal(pooled.covariance, COVARIANCE)
    np.testing.assert_array_equal(spatial.mean, SPATIAL_MEAN)
    np.testing.assert_array_equal(spatial.covariance, SPATIAL_COVARIANCE)
    assert found.num_images == 5
    np.testing.assert_array_equal(np.concatenate(list(image_blocks(path, 2))), IMAGES)


def test_pytorch_fid_s_file_has_pooled_features_alone(path: Path) -> None:
    found = read(path, mu=MEAN, sigma=COVARIANCE)
    np.testing.assert_array_equal(found.gaussian(POOLED).covariance, COVARIANCE)
    assert found.num_images == 0
    with pytest.raises(ArtefactError, match="holds no mu_s and sigma_s, the statistics of spatial"):
        found.gaussian(SPATIAL)


def test_images_alone_are_a_reference_whose_statistics_are_to_be_computed(path: Path) -> None:
    found = read(path, arr_0=IMAGES)
    assert found.num_images == 5
    with pytest.raises(ArtefactError, match="holds no mu and sigma"):
        found.gaussian(POOLED)


def old_numpy(data: bytes) -> bytes:
    """As a pickle of numpy 1 names the module."""
    return data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.parametrize("as_tensors", [False, True])
def test_torch_fidelity_s_cache(tmp_path: Path, as_tensors: bool) -> None:
    path = tmp_path / "name-inception-v3-compat-stat-fid-2048.pt"
    convert = torch.from_numpy if as_tensors else np.asarray
    torch.save({"mu": convert(MEAN.astype(np.float32)), "sigma": convert(COVARIANCE)}, path)
    found = read_reference(path, Extractor()).gaussian(POOLED)
    np.testing.assert_array_equal(found.mean, MEAN.astype(np.float32))
    np.testing.assert_array_equal(found.covariance, COVARIANCE)


def test_caches_written_with_numpy_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old.pt"

    class OldPickle(types.ModuleType):
        """A pickle module whose files name numpy's module as numpy 1 did."""

        class Pickler:
            def __init__(self, stream: Any, protocol: int) -> None:
                self.stream, self.protocol = stream, protocol

            def dump(self, value: object) -> None:
                self.stream.write(old_numpy(pickle.dumps(value, protocol=self.protocol)))

    torch.save({"mu": MEAN, "sigma": COVARIANCE}, path, pickle_module=OldPickle("old"))
    assert b"numpy.core.multiarray" in path.read_bytes()
    np.testing.assert_array_equal(
        read_reference(path, Extractor()).gaussian(POOLED).covariance, COVARIANCE
    )


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "trace",)

    path = tmp_path / "cache.pt"
    torch.save({"mu": MEAN, "sigma": Payload()}, path)
    assert "not readable" in refused(path)
    path = tmp_path / "cache.npz"
    assert "not readable as npz" in refused_arrays(
        path, mu=np.array([Payload()], dtype=object), sigma=COVARIANCE
    )
    assert not (tmp_path / "trace").exists()


def test_files_of_other_kinds_are_refused(path: Path) -> None:
    assert "no such file" in refused(path)
    path.write_bytes(b"neither")
    assert "not readable as npz or as torch-fidelity's cache" in refused(path)
    assert "holds mean, cov, but no mu and sigma; bring ADM's npz" in refused_arrays(
        path, mean=MEAN, cov=COVARIANCE
    )
    assert "holds mu, but no sigma" in refused_arrays(path, mu=MEAN)
    assert "holds sigma, but no mu" in refused_arrays(path, sigma=COVARIANCE)
    torch.save([1], path.with_suffix(".pt"))
    assert "holds a list, not a dictionary" in refused(path.with_suffix(".pt"))
    torch.save({"features": torch.zeros(2, 2)}, path.with_suffix(".pt"))
    assert "holds features, but no mu and sigma" in refused(path.with_suffix(".pt"))


def test_arrays_that_are_no_statistics_are_refused(path: Path) -> None:
    assert "mu has shape (5,) and sigma (6, 6)" in refused_arrays(
        path, mu=MEAN[:5], sigma=COVARIANCE
    )
    assert "mu has shape (1, 6)" in refused_arrays(path, mu=MEAN[None], sigma=COVARIANCE)
    assert "mu is int64; must be an array of floats" in refused_arrays(
        path, mu=MEAN.astype(int), sigma=COVARIANCE
    )
    broken = COVARIANCE.copy()
    broken[1, 2] = np.nan
    assert "sigma holds values that are not finite" in refused_arrays(path, mu=MEAN, sigma=broken)
    broken[1, 2] = 50
    assert "sigma is not symmetric" in refused_arrays(path, mu=MEAN, sigma=broken)
    broken = COVARIANCE - 2 * COVARIANCE[3, 3] * np.eye(6)
    assert "sigma has negative variances" in refused_arrays(path, mu=MEAN, sigma=broken)
    # What fp32 arithmetic leaves is no asymmetry.
    noise = 1e-6 * np.random.default_rng(0).normal(size=(6, 6))
    read(path, mu=MEAN, sigma=COVARIANCE + noise)


def test_images_must_be_uint8(path: Path) -> None:
    text = refused_arrays(path, **{**ADM, "arr_0": IMAGES / 255})
    assert "arr_0 is float64; images must be uint8" in text


def test_features_of_another_network_are_refused(path: Path) -> None:
    mean, covariance = gaussian(7)
    assert "its pooled features have 7 numbers, and Inception-v3 gives 6" in refused_arrays(
        path, mu=mean, sigma=covariance
    )
    assert "its spatial features have 7 numbers, and Inception-v3 gives 4" in refused_arrays(
        path, **{**ADM, "mu_s": mean, "sigma_s": covariance}
    )
