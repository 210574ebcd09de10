"""Centroids from files: matrices, peers' checkpoints, and what is refused."""

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.weights import save_weights
from glotok_ray.teacher.centroids import SEMANTIC_CODEBOOKS, from_centroids, read_centroids
from tests.small_models import tiny_tokenizer


def matrix(rows: int = 20, width: int = 8) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) + 0.2


def test_a_matrix_alone_in_every_kind_of_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", matrix().double().numpy())
    torch.save(matrix(), tmp_path / "a.pt")
    save_file({"centroids": matrix(), "scale": torch.ones(1)}, str(tmp_path / "a.safetensors"))
    for name, key in (("a.npy", ""), ("a.pt", "matrix"), ("a.safetensors", "centroids")):
        found = read_centroids(tmp_path / name)
        torch.testing.assert_close(found.vectors, matrix())
        assert found.vectors.dtype == torch.float32
        assert (found.key, found.sha256) == (key, artefact.sha256_of(tmp_path / name))


@pytest.mark.parametrize("key", SEMANTIC_CODEBOOKS)
@pytest.mark.parametrize("nest", ["model", "state_dict", "module", "ema", ""])
def test_the_semantic_codebook_of_a_peers_checkpoint(tmp_path: Path, key: str, nest: str) -> None:
    tensors = OrderedDict(
        {
            "encoder.conv_in.weight": torch.ones(4, 3, 3, 3),
            "decoder.linear.weight": torch.ones(6, 6),
            "quantize_vis.embedding.weight": torch.ones(20, 8),
            key: matrix(),
        }
    )
    whole: dict[str, Any] = {nest: tensors} if nest else dict(tensors)
    if nest:
        whole |= {"steps": 7, "args": argparse.Namespace(lr=1e-4), "optimizer": {"state": {}}}
    torch.save(whole, tmp_path / "checkpoint.pt")
    found = read_centroids(tmp_path / "checkpoint.pt")
    assert found.key == key
    torch.testing.assert_close(found.vectors, matrix())


def test_raw_weights_come_before_their_average(tmp_path: Path) -> None:
    both = {"ema": {"w": torch.ones(3, 2)}, "model": {"w": -torch.ones(3, 2)}}
    torch.save(both, tmp_path / "both.pt")
    assert float(read_centroids(tmp_path / "both.pt").vectors.sum()) == -6


def test_a_key_chooses_and_an_unknown_one_is_answered_with_near_names(tmp_path: Path) -> None:
    tensors = {"quantize_vis.embedding.weight": matrix(), "other.weight": torch.ones(2, 2)}
    save_file(tensors, str(tmp_path / "two.safetensors"))
    found = read_centroids(tmp_path / "two.safetensors", "quantize_vis.embedding.weight")
    torch.testing.assert_close(found.vectors, matrix())
    with pytest.raises(ArtefactError, match=r"centroids_key.*near names: quantize_vis\.embedding"):
        read_centroids(tmp_path / "two.safetensors", "quantize.embedding.weight")
    with pytest.raises(ArtefactError, match=r"2 matrices.*other\.weight.*--centroids-key"):
        read_centroids(tmp_path / "two.safetensors")


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (open, ("harm.txt", "w"))  # type: ignore[return-value]


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"w": matrix()}, "extra": Harmful()}, tmp_path / "harmful.pt")
    torch.testing.assert_close(read_centroids(tmp_path / "harmful.pt").vectors, matrix())
    np.save(tmp_path / "objects.npy", np.array([Harmful()], dtype=object), allow_pickle=True)
    with pytest.raises(ArtefactError, match="not readable"):
        read_centroids(tmp_path / "objects.npy")
    assert not (tmp_path / "harm.txt").exists()


def test_what_is_no_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no such centroid file"):
        read_centroids(tmp_path / "absent.npy")
    for name in ("broken.safetensors", "broken.pt", "broken.npy"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(ArtefactError, match=f"{name}: not readable"):
            read_centroids(tmp_path / name)
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    with pytest.raises(ArtefactError, match=r"\(2, 2, 2\).*matrix of real numbers"):
        read_centroids(tmp_path / "cube.npy", "matrix")
    for number, dtype in enumerate((torch.int64, torch.uint8, torch.bool, torch.complex64)):
        torch.save({"codes": torch.ones(3, 2, dtype=dtype)}, tmp_path / f"{number}.pt")
        with pytest.raises(
            ArtefactError, match=rf"{number}\.pt: 'codes' is {dtype}.*--centroids-key"
        ):
            read_centroids(tmp_path / f"{number}.pt")
    for dtype in ("int64", "uint8", "bool", "complex64", "complex128", "<U3", "datetime64[s]"):
        np.save(tmp_path / "kind.npy", np.ones((3, 2)).astype(dtype))
        with pytest.raises(
            ArtefactError, match=r"kind\.npy: holds .*; centroids are a matrix of real"
        ):
            read_centroids(tmp_path / "kind.npy")
    np.savez(tmp_path / "several.npz", a=np.ones((3, 2)))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    with pytest.raises(ArtefactError, match=r"several\.npy: holds NpzFile"):
        read_centroids(tmp_path / "several.npy")


def test_a_matrix_of_whole_numbers_beside_the_centroids_is_passed_over(tmp_path: Path) -> None:
    both = {"codes": torch.ones(3, 2, dtype=torch.int64), "centroids": matrix()}
    torch.save(both, tmp_path / "both.pt")
    assert read_centroids(tmp_path / "both.pt").key == "centroids"


def test_a_row_of_zeros_is_named(tmp_path: Path) -> None:
    vectors = matrix()
    vectors[[3, 7]] = 0
    torch.save(vectors, tmp_path / "zero.pt")
    with pytest.raises(
        ArtefactError, match=r"zero\.pt: 'matrix': 2 of 20 rows are zero, row 3 first"
    ):
        read_centroids(tmp_path / "zero.pt")


def test_a_teacher_of_a_file_tells_where_it_comes_from(tmp_path: Path) -> None:
    torch.save({"model": {"quantize_sem.embedding.weight": matrix(40)}}, tmp_path / "fqgan.pt")
    teacher = from_centroids(tmp_path / "fqgan.pt", fine_bins=4096)
    assert teacher.provenance == {
        "source": "centroids",
        "file": "fqgan.pt",
        "key": "quantize_sem.embedding.weight",
        "sha256": artefact.sha256_of(tmp_path / "fqgan.pt"),
    }
    torch.testing.assert_close(teacher.centroids, matrix(40))
    narrow = from_centroids(tmp_path / "fqgan.pt", project_width=3, fine_bins=4096)
    assert narrow.centroids.shape == (40, 3)
    assert narrow.provenance["projected_to"] == 3


@pytest.mark.parametrize(
    ("vectors", "width", "complaint"),
    [
        (torch.eye(3)[:, :2], 0, "a vector is zero"),
        (torch.full((3, 2), torch.nan), 0, r"matrix \(6 of 6 values\); weights must be finite"),
        (torch.full((3, 2), 1e300, dtype=torch.float64), 0, "infinite"),
        (torch.ones(1, 2), 0, "at least 2"),
        (torch.eye(3), 4, "project_width = 4"),
    ],
)
def test_a_refused_matrix_is_named_with_its_file(
    vectors: torch.Tensor, width: int, complaint: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "bad.npy", vectors.numpy())
    with pytest.raises(ArtefactError, match=rf"bad\.npy.*{complaint}"):
        from_centroids(tmp_path / "bad.npy", project_width=width, fine_bins=1024)


def test_the_first_known_name_is_this_packages_own(tmp_path: Path) -> None:
    model = GloTokTokenizer(tiny_tokenizer())
    save_weights(tmp_path / "tokenizer.safetensors", model.state_dict())
    found = read_centroids(tmp_path / "tokenizer.safetensors")
    assert found.key == SEMANTIC_CODEBOOKS[0]
    assert torch.equal(found.vectors, model.quantizer("semantic").codebook.detach())
