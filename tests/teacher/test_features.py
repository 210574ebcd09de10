"""Feature networks: exported programs, their errors, and the seeded draw of vectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from glotok_ray.artefact import ArtefactError
from glotok_ray.config import TeacherRun
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.teacher import features

CPU = torch.device("cpu")


class Maps(nn.Module):
    """Returns (b, 5, 2, 2) for 8-pixel images."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images)


class Tokens(Maps):
    """The same features as tokens, the first `dropped` of them left out."""

    def __init__(self, dropped: int = 0) -> None:
        super().__init__()
        self.dropped = dropped

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).flatten(2).transpose(1, 2)[:, self.dropped :]


def export(network: nn.Module, path: Path) -> TeacherRun:
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(
        network.eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(batch,)
    )
    torch.export.save(program, path)
    return TeacherRun(network="dinov2_vitb14_reg", weights_path=str(path), input_size=8)


@pytest.mark.parametrize("kind", [Maps, Tokens])
def test_exported_network_gives_maps_of_normalised_images(tmp_path: Path, kind: type[Maps]) -> None:
    network = kind()
    config = export(network, tmp_path / "network.pt2")
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    mean, std = (
        torch.tensor(value).view(1, 3, 1, 1) for value in features.NORMALIZATIONS[config.network]
    )
    expected = network.convolution(((images + 1) / 2 - mean) / std)
    torch.testing.assert_close(
        features.build_feature_network(config, CPU).spatial(images), expected
    )


def test_one_image_is_a_batch_too(tmp_path: Path) -> None:
    config = export(Maps(), tmp_path / "network.pt2")
    assert features.build_feature_network(config, CPU).spatial(torch.zeros(1, 3, 8, 8)).shape == (
        1,
        5,
        2,
        2,
    )


def test_exported_network_names_the_side_it_wants(tmp_path: Path) -> None:
    network = features.build_feature_network(export(Maps(), tmp_path / "network.pt2"), CPU)
    with pytest.raises(ArtefactError, match="set input_size"):
        network.spatial(torch.zeros(1, 3, 16, 16))


def test_exported_tokens_must_be_a_square_grid(tmp_path: Path) -> None:
    network = features.build_feature_network(
        export(Tokens(dropped=1), tmp_path / "network.pt2"), CPU
    )
    with pytest.raises(ArtefactError, match="square number"):
        network.spatial(torch.zeros(2, 3, 8, 8))


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt2"
    path.write_bytes(b"not a program")
    with pytest.raises(ArtefactError, match=r"weights\.pt2.*torch\.export\.save"):
        features.build_feature_network(TeacherRun(weights_path=str(path)), CPU)


@pytest.mark.parametrize("path", ["", "absent.pt2"])
def test_missing_weights_name_the_file_to_bring(path: str) -> None:
    config = TeacherRun(network="clip_vitl14", weights_path=path)
    with pytest.raises(ArtefactError, match=r"weights_path.*Bring clip_vitl14_224\.pt2"):
        features.build_feature_network(config, CPU)


def test_embedded_network_is_frozen_and_digested() -> None:
    config = TeacherRun(network="efficientnet_lite0")
    network = features.build_feature_network(config, CPU)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    maps = network.spatial(images)
    assert maps.shape == (2, 1280, 2, 2)
    assert not maps.requires_grad
    # In evaluation mode an image does not depend on its batch.
    torch.testing.assert_close(network.spatial(images[:1]), maps[:1], rtol=1e-4, atol=1e-4)
    assert features.weights_digest(config) == features.weights_digest(config)
    assert len(features.weights_digest(config)) == 64


def test_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt2"
    path.write_bytes(b"abc")
    digest = features.weights_digest(TeacherRun(weights_path=str(path)))
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_drawn_vectors_are_different_positions_and_follow_the_key() -> None:
    feature_map = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4)
    draw = [
        features.draw_vectors(feature_map, 5, seeded_generator("vectors", 0, key))
        for key in ("a", "a", "b")
    ]
    torch.testing.assert_close(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    positions = draw[0][:, 0].long()
    assert len(set(positions.tolist())) == 5
    torch.testing.assert_close(draw[0], feature_map.flatten(1).T[positions])


def test_all_vectors_of_a_small_map_are_drawn() -> None:
    drawn = features.draw_vectors(torch.arange(4.0).reshape(1, 2, 2), 16, np.random.default_rng(0))
    assert sorted(drawn[:, 0].tolist()) == [0, 1, 2, 3]
