"""RQ-Transformer's checkpoints: names and total of a released size both ways, the way through a file, refusals."""

import json
from pathlib import Path

import pytest
import torch

from glotok_ray.interop.rq_generator import (
    expected_state,
    export_rq,
    import_rq,
    our_name,
    peer_name,
)
from glotok_ray.nn.rq_transformer import RQTransformer
from glotok_ray.recipes.rq_transformers import rq_480m
from glotok_ray.storage.artefact import ArtefactError
from tests.nn.test_rq_transformer import TINY

SHAPES = Path(__file__).parent / "shapes/rqtransformer_in256_480m.json"


def test_names_shapes_and_total_are_the_listed_ones() -> None:
    theirs, config = json.loads(SHAPES.read_text()), rq_480m().model
    state = expected_state(config)
    assert sum(value.numel() for value in state.values()) == theirs["total_params"]
    peers = export_rq(state, config)
    assert {key: list(value.shape) for key, value in peers.items()} == theirs["shapes"]
    assert {our_name(key) for key in theirs["shapes"]} == state.keys()
    assert all(our_name(peer_name(key) or "") == key for key in state)


def test_a_file_comes_back_raw_or_averaged(tmp_path: Path) -> None:
    states = [RQTransformer(TINY).state_dict() for _ in range(2)]
    raw, average = (export_rq(state, TINY) for state in states)
    content = {"epoch": 1, "state_dict": raw, "state_dict_ema": average}
    torch.save(content, tmp_path / "model.pt")
    for weights, state in zip(("model", "ema"), states, strict=True):
        found = import_rq(tmp_path / "model.pt", TINY, weights=weights)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], value) for name, value in state.items())
    torch.save({"state_dict": raw}, tmp_path / "raw.pt")
    with pytest.raises(ArtefactError, match="has no state_dict_ema entry"):
        import_rq(tmp_path / "raw.pt", TINY, weights="ema")


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    peers = export_rq(RQTransformer(TINY).state_dict(), TINY)
    peers["novelty"] = peers.pop("classifier.linear.bias")
    peers["pos_emb_d"] = torch.zeros(1, 4, 16)
    torch.save({"state_dict": peers}, tmp_path / "model.pt")
    with pytest.raises(
        ArtefactError, match=r"(?s)1 missing \(output\.bias\).*novelty.*1 misshapen"
    ):
        import_rq(tmp_path / "model.pt", TINY)


def test_two_tensors_of_a_file_do_not_become_one(tmp_path: Path) -> None:
    peers = export_rq(RQTransformer(TINY).state_dict(), TINY)
    # Our own name beside the peer's.
    peers["norm.weight"] = torch.zeros_like(peers["classifier.layer_norm.weight"])
    torch.save({"state_dict": peers}, tmp_path / "model.pt")
    with pytest.raises(ArtefactError, match=r"norm\.weight from norm\.weight"):
        import_rq(tmp_path / "model.pt", TINY)
