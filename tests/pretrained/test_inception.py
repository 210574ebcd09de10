"""Inception-v3's weights come from files that are what their names say, and nothing else is executed or accepted."""

import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from glotok_ray.pretrained import inception
from glotok_ray.pretrained.inception import empty_network, load_inception, spatial_features
from glotok_ray.storage.artefact import ArtefactError, sha256_of


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Every tensor of the network in half precision, without the counters that pytorch-fid's older files lack."""
    return {
        name: torch.full(value.shape, 0.01, dtype=torch.float16)
        for name, value in empty_network().state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def refused(path: Path | str) -> str:
    with pytest.raises(ArtefactError) as error:
        load_inception(str(path), field="evaluation.inception_path")
    assert str(error.value).startswith("evaluation.inception_path")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read_in_any_precision(
    tensors: dict[str, torch.Tensor], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"inception{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    loaded = load_inception(str(path))
    assert loaded.weights_sha256 == sha256_of(path)
    state = loaded.network.network.state_dict()
    assert len(state) == 566
    assert state["fc.weight"].dtype == torch.float32
    assert torch.equal(state["fc.weight"], tensors["fc.weight"].float())
    assert not any(value.is_meta for value in state.values())
    assert not loaded.network.train().training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    found = loaded.network(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert [tuple(each.shape) for each in found] == [(2, 2048), (2, 1008), (2, 2023)]
    assert {each.dtype for each in found} == {torch.float32}


def test_the_digest_in_a_name_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.save({"fc.weight": torch.zeros(1)}, path)
    text = refused(path)
    assert "begins with 6726825d, but it is " + sha256_of(path) in text
    right = path.with_name(f"weights-{sha256_of(path)[:8]}.pth")
    path.rename(right)
    assert "does not fit" in refused(right)


def test_weights_of_another_network_are_listed(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(2)}, path)
    assert "missing (AvgPool" not in refused(path)
    assert "1 extra (features.0.weight)" in refused(path)
    torch.save(tensors | {"fc.bias": torch.zeros(1000)}, path)
    assert "1 misshapen (fc.bias (1000,) for (1008,))" in refused(path)
    torch.save(tensors | {"fc.bias": torch.zeros(1008, dtype=torch.int8)}, path)
    assert "1 of another kind of number (fc.bias int8 for float32)" in refused(path)
    torch.save(tensors | {"fc.bias": torch.full((1008,), torch.nan)}, path)
    assert "fc.bias (1,008 of 1,008 values)" in refused(path)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"fc.weight": torch.zeros(1), "more": Payload(trace)}, path)
    refused(path)
    assert not trace.exists()


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    assert "no such file; bring" in refused(tmp_path / "missing.pth")
    path = tmp_path / "weights.pth"
    torch.save([torch.zeros(1)], path)
    assert "holds a list, not a state dict" in refused(path)
    path.write_bytes(b"no weights")
    with pytest.raises(ArtefactError, match="not readable as Inception-v3's weights"):
        load_inception(str(path))


def test_a_download_that_fails_says_what_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, target: str, **settings: object) -> None:
        assert settings["hash_prefix"] == inception.PUBLISHED_SHA256
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    assert "is empty, and the published weights" in refused("")
    # A damaged file in the cache is found out as well.
    path = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    path.write_bytes(b"half a file")
    with pytest.raises(ArtefactError, match="torch-fidelity's download: its name promises"):
        load_inception("")


def test_spatial_features_are_seven_channels_with_channels_last() -> None:
    numbers = torch.arange(2 * 9 * 3 * 2).reshape(2, 9, 3, 2)
    found = spatial_features(numbers)
    assert found.shape == (2, 3 * 2 * 7)
    expected = [numbers[1, c, y, x].item() for y in range(3) for x in range(2) for c in range(7)]
    assert found[1].tolist() == expected
