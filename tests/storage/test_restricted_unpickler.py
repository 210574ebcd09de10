"""The unpickler runs nothing, whatever a file asks for, and still finds the tensors."""

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.restricted_unpickler import Blank
from glotok_ray.storage.weights import read_tensors


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


class Filled(collections.UserList):
    """A foreign list."""


def read(path: Path) -> Any:
    return read_tensors(path, purpose="a test", suffixes=(".pt",))


@pytest.mark.parametrize(
    "harm",
    [
        Call(os.system, "touch harm.txt"),
        Call(eval, "open('harm.txt', 'w')"),
        Call(torch.storage._load_from_bytes, b"anything"),
        Call(torch.load, "other.pt"),
    ],
)
def test_calls_become_blanks(harm: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state": {"w": torch.arange(6.0).view(2, 3)}, "harm": harm}, tmp_path / "file.pt")
    found = read(tmp_path / "file.pt")
    assert torch.equal(found["state"]["w"], torch.arange(6.0).view(2, 3))
    assert isinstance(found["harm"], Blank)
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_every_kind_come_back(zipped: bool, tmp_path: Path) -> None:
    state = collections.OrderedDict(
        half=torch.ones(2, dtype=torch.bfloat16),
        whole=torch.arange(4),
        parameter=torch.nn.Parameter(torch.randn(3, 2).T),
        buffer=torch.zeros((), dtype=torch.bool),
    )
    beside = {"foreign": Filled([1, 2]), Filled: 3, "size": torch.Size((1, 2))}
    torch.save(
        {"state": state, **beside}, tmp_path / "file.pt", _use_new_zipfile_serialization=zipped
    )
    found = read(tmp_path / "file.pt")["state"]
    assert list(found) == list(state)
    for name, value in state.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(pickle.dumps(Call(os.system, "touch harm.txt")))
    with pytest.raises(ArtefactError, match=r"file\.pt: not readable as a test"):
        read(tmp_path / "file.pt")
    assert not (tmp_path / "harm.txt").exists()
