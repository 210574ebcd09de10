"""VAR's checkpoints: names and totals of the released sizes both ways, the way through a file, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from glotok_ray.interop.var_generator import (
    expected_state,
    export_var,
    import_var,
    our_name,
    peer_name,
)
from glotok_ray.nn.var import VAR
from glotok_ray.recipes.var_generators import RECIPES
from glotok_ray.storage.artefact import ArtefactError
from tests.small_pyramid import TINY_VAR

SHAPES = Path(__file__).parent / "shapes"


@pytest.mark.parametrize("name", RECIPES)
def test_names_shapes_and_totals_are_the_listed_ones(name: str) -> None:
    theirs, config = json.loads((SHAPES / f"{name}.json").read_text()), RECIPES[name]().model
    state = expected_state(config)
    assert sum(value.numel() for value in state.values()) == theirs["total_params"]
    peers = export_var(state, config)
    assert {key: list(value.shape) for key, value in peers.items()} == theirs["shapes"]
    assert {key for key in theirs["shapes"] if our_name(key) is None} == set(
        theirs["buffers_in_state_dict"]
    )
    ours = {our_name(key) for key in theirs["shapes"]} - {None}
    assert ours == state.keys()
    assert all(our_name(peer_name(key) or "") == key for key in state)


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_comes_back(nested: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = VAR(TINY_VAR).state_dict()
    peers = export_var(state, TINY_VAR)
    assert peers["attn_bias_for_masking"][0, 0, 1].isinf().sum() == 39 - 5
    content = {"epoch": 1, "trainer": {"var_wo_ddp": peers, "config": {}}} if nested else peers
    torch.save(content, tmp_path / "var.pth")
    found = import_var(tmp_path / "var.pth", TINY_VAR)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    peers = export_var(VAR(TINY_VAR).state_dict(), TINY_VAR)
    peers["novelty"] = peers.pop("head.bias")
    peers["blocks.0.attn.scale_mul_1H11"] = torch.zeros(1, 4, 1, 1)
    torch.save(peers, tmp_path / "var.pth")
    with pytest.raises(
        ArtefactError, match=r"(?s)1 missing \(output\.bias\).*novelty.*1 misshapen"
    ):
        import_var(tmp_path / "var.pth", TINY_VAR)
