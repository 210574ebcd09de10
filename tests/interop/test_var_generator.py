"""VAR's and ImageFolder's checkpoints: names and totals of the released sizes both ways, the way through a file, and
what is refused.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from glotok_ray.config.var import VARConfig
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
from tests.small_pyramid import TINY_BRANCHES, TINY_VAR

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


@pytest.mark.parametrize("config", [TINY_VAR, TINY_BRANCHES], ids=["var", "imagefolder"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_file_comes_back(nested: bool, config: VARConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = VAR(config).state_dict()
    peers = export_var(state, config)
    # The first token beyond the first scale sees all of the scales up to its own.
    seen = sum(config.scale_lengths[:2])
    mask = peers["attn_bias_for_masking"][0, 0]
    assert mask[1].isinf().sum() == config.num_tokens - seen
    if config is TINY_BRANCHES:
        assert peers["empty_emb.weight"].shape == (1, 32)
        assert peers["head.weight"].shape == (2 * 24, 32)
        # As it is where xformers could be imported: padded to a multiple of eight.
        peers["attn_bias_for_masking"] = torch.zeros(1, 1, 56, 56)
    content = {"epoch": 1, "trainer": {"var_wo_ddp": peers, "config": {}}} if nested else peers
    torch.save(content, tmp_path / "var.pth")
    found = import_var(tmp_path / "var.pth", config)
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


def test_one_branch_more_or_an_unexpected_mask_vector_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(
        export_var(VAR(TINY_BRANCHES).state_dict(), TINY_BRANCHES), tmp_path / "branches.pth"
    )
    plain = dataclasses.replace(TINY_BRANCHES, input_masking=0.0)
    with pytest.raises(ArtefactError, match=r"1 extra \(masked_input\); choose .*input_masking"):
        import_var(tmp_path / "branches.pth", plain)
    one = dataclasses.replace(TINY_BRANCHES, num_branches=1)
    with pytest.raises(ArtefactError, match=r"output\.weight \(48, 32\) for \(24, 32\)"):
        import_var(tmp_path / "branches.pth", one)


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    peers = export_var(VAR(TINY_BRANCHES).state_dict(), TINY_BRANCHES)
    peers["blocks.1.ffn.fc2.bias"][3] = torch.nan
    torch.save({"trainer": {"var_wo_ddp": peers}}, tmp_path / "broken.pth")
    message = r"1 of its tensors hold NaN or infinite values: blocks\.1\.ffn\.fc2\.bias"
    with pytest.raises(ArtefactError, match=message):
        import_var(tmp_path / "broken.pth", TINY_BRANCHES)


def test_other_scales_of_as_many_positions_are_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_VAR, scale_sides=(1, 5, 5))
    torch.save(export_var(VAR(config).state_dict(), config), tmp_path / "var.pth")
    other = dataclasses.replace(TINY_VAR, scale_sides=(1, 1, 7))
    message = r"lvl_1L states scales of 1, 25, 25 positions, .*= \(1, 1, 7\) give 1, 1, 49; correct"
    with pytest.raises(ArtefactError, match=message):
        import_var(tmp_path / "var.pth", other)
    peers = export_var(VAR(config).state_dict(), config)
    del peers["lvl_1L"]
    torch.save(peers, tmp_path / "without.pth")
    assert import_var(tmp_path / "without.pth", config)
