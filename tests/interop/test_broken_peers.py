"""A hand-broken folder of each system's tokenizer ends in one clear line, which names what is broken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glotok_ray.peers.systems import SYSTEMS
from glotok_ray.pretrained.tokenizer import check_stored_tokenizer, load_tokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.weights import check_stored
from jobs import encode_images, evaluate_tokenizers
from tests.peers.peer_folders import write_peer_folder
from tests.peers.small_systems import SMALL
from tests.small_data import write_shards

WEIGHTS = "tokenizer.safetensors"
State = dict[str, Tensor]


def rewritten(folder: Path, change: Callable[[State, str], None]) -> str:
    """Change the tensors of a folder; returns the name of the one that is changed."""
    state = load_file(folder / WEIGHTS)
    name = max((key for key in state if state[key].ndim), key=lambda key: state[key].numel())
    change(state, name)
    save_file(state, folder / WEIGHTS)
    return name


def drop(state: State, name: str) -> None:
    del state[name]


def error_of(folder: Path, find: Callable[[Path], object]) -> str:
    artefact.write_manifest(folder, "tokenizer")
    with pytest.raises(ArtefactError) as raised:
        find(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", SMALL)
def test_every_damage_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    write_peer_folder(folder, name)
    whole, config = (folder / WEIGHTS).read_bytes(), (folder / "config.json").read_text()

    def broken(change: Callable[[State, str], None]) -> str:
        (folder / WEIGHTS).write_bytes(whole)
        return rewritten(folder, change)

    gone = broken(drop)
    for find in (load_tokenizer, check_stored_tokenizer):
        assert f"1 missing ({gone})" in error_of(folder, find)
    odd = broken(lambda state, key: state.update({key: torch.zeros(3)}))
    for find in (load_tokenizer, check_stored_tokenizer):
        assert f"1 misshapen ({odd} (3,) for" in error_of(folder, find)

    def spoil(state: State, key: str) -> None:
        state[key].view(-1)[0] = torch.nan

    spoilt = broken(spoil)
    for find in (load_tokenizer, lambda place: check_stored(place / WEIGHTS)):
        message = error_of(folder, find)
        assert f"1 of its tensors hold NaN or infinite values: {spoilt} (1 of" in message
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    for find in (load_tokenizer, check_stored_tokenizer):
        assert f"{WEIGHTS}: not readable as safetensors" in error_of(folder, find)
    (folder / WEIGHTS).write_bytes(whole)
    stored = json.loads(config)
    others = [system for system in SYSTEMS if system != SMALL[name][0]]
    wrong = json.dumps({**stored, "system": others[0]})
    (folder / "config.json").write_text(wrong)
    message = error_of(folder, check_stored_tokenizer)
    assert f"config.json: its model section is no {others[0]}" in message or "do not fit" in message
    (folder / "config.json").write_text(json.dumps({**stored, "system": "nobody"}))
    assert "system = 'nobody': this version knows" in error_of(folder, load_tokenizer)
    (folder / "config.json").write_text(config)
    artefact.write_manifest(folder, "tokenizer")
    load_tokenizer(folder)


def test_jobs_end_with_one_line_before_anything_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shards(tmp_path / "shards")
    write_peer_folder(tmp_path / "peer", "rq_vae")
    rewritten(tmp_path / "peer", drop)
    artefact.write_manifest(tmp_path / "peer", "tokenizer")
    common = ["--data-path", str(tmp_path / "shards"), "--output-path", str(tmp_path / "out")]
    for start in (
        lambda: evaluate_tokenizers.main([str(tmp_path / "peer"), *common, "--no-use-gpu"]),
        lambda: encode_images.main(
            ["quickstart", "--tokenizer-path", str(tmp_path / "peer"), *common]
        ),
    ):
        caplog.clear()
        assert start() == 2
        assert "tokenizer.safetensors: its tensors do not fit the config" in caplog.text
        assert "Traceback" not in caplog.text
        assert not (tmp_path / "out").exists()
