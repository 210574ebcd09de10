"""Released files of other systems: read by name, exported and loaded again; what does not fit is listed."""

import argparse
from pathlib import Path

import pytest
import torch

from glotok_ray.interop.peer_tokenizers import import_peer
from glotok_ray.nn.tokenizer_protocol import Tokenizer, grids_of
from glotok_ray.peers.released import rename
from glotok_ray.peers.systems import SYSTEMS, released
from glotok_ray.pretrained.tokenizer import load_tokenizer, tokenizer_config
from glotok_ray.recipes.export_tokenizer import PEERS
from glotok_ray.storage.artefact import ArtefactError
from jobs import export_tokenizer
from tests.peers.small_systems import SMALL, released_tensors, saved, small_model


def test_every_released_tokenizer_is_a_recipe_of_the_export() -> None:
    names = [name for name, _, _ in PEERS]
    assert sorted(names) == sorted(name for entry in SYSTEMS.values() for name in entry.released)
    assert set(names) <= set(export_tokenizer.RECIPES)
    assert all(export_tokenizer.RECIPES[name]().peer == name for name in names)


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_a_model_needs_lies_in_its_state(system: str) -> None:
    entry = SYSTEMS[system]
    for file in entry.released.values():
        with torch.device("meta"):
            model = entry.tokenizer(file.config)
        assert {name for name, _ in model.named_buffers()} <= model.state_dict().keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_released_file_is_exported_and_loaded_again(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = small_model(name, monkeypatch)
    # As Lightning and argparse leave them: objects beside the tensors.
    file = saved(tmp_path / "released.ckpt", name, model, args=argparse.Namespace(a=1), epoch=3)
    folder = tmp_path / "out"
    arguments = ["--source-path", str(file), "--output-path", str(folder), "--weights", "model"]
    assert export_tokenizer.main([name, *arguments]) == 0
    again = load_tokenizer(folder)
    assert isinstance(again, Tokenizer)
    assert type(again) is type(model)
    images = torch.rand(1, 3, model.image_size, model.image_size) * 2 - 1
    for found, expected in zip(
        grids_of(again.encode(images), again.rate),
        grids_of(model.encode(images), model.rate),
        strict=True,
    ):
        assert torch.equal(found, expected)
    torch.testing.assert_close(
        again.reconstruct(images), model.reconstruct(images), atol=1e-4, rtol=1e-4
    )
    card = (folder / "README.md").read_text()
    assert SYSTEMS[SMALL[name][0]].licence in card
    assert "rFID 1.5, PSNR 20 dB (SOURCE)" in card
    assert f"{model.rate.num_indices} indices" in card
    with pytest.raises(ArtefactError, match=f"of the system {SMALL[name][0]}, and this job takes"):
        tokenizer_config(folder)


@pytest.mark.parametrize("name", SMALL)
def test_all_that_does_not_fit_is_listed_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tensors = released_tensors(name, small_model(name, monkeypatch))
    system, _, config = SMALL[name]
    table = SYSTEMS[system].names(config)
    missing = next(peer for peer in tensors if peer.startswith("encoder.") and rename(peer, table))
    misshapen = [
        peer for peer in tensors if peer.startswith("decoder.") and peer.endswith(".bias")
    ][-1]
    del tensors[missing]
    length = len(tensors[misshapen])
    tensors[misshapen] = torch.zeros(length + 1)
    tensors["encoder.foreign"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "broken.pth")
    with pytest.raises(ArtefactError) as raised:
        import_peer(tmp_path / "broken.pth", name, weights="model")
    message = str(raised.value)
    assert f"1 missing ({rename(missing, table)})" in message
    assert "1 extra (encoder.foreign)" in message
    assert f"1 misshapen ({rename(misshapen, table)} ({length + 1},) for ({length},))" in message
    assert "\n" not in message


def test_whole_numbers_are_no_codebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tensors = released_tensors("ibq_16384", small_model("ibq_16384", monkeypatch))
    tensors["quantize.embedding.weight"] = torch.ones(32, 8, dtype=torch.int64)
    torch.save({"state_dict": tensors}, tmp_path / "whole.ckpt")
    with pytest.raises(ArtefactError, match=r"of another kind .*codebook int64 for float32"):
        import_peer(tmp_path / "whole.ckpt", "ibq_16384", weights="model")


def test_an_average_among_the_weights_is_found_without_its_dots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = small_model("ibq_16384", monkeypatch)
    live = released_tensors("ibq_16384", model)
    averages = {f"model_ema.{name.replace('.', '')}": value + 1 for name, value in live.items()}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    state = {**live, **averages, **counters, "loss.perceptual_loss.lin": torch.zeros(3)}
    torch.save({"state_dict": state}, tmp_path / "both.ckpt")
    for weights, added in (("model", 0), ("ema", 1)):
        found = import_peer(tmp_path / "both.ckpt", "ibq_16384", weights=weights).model
        torch.testing.assert_close(
            found.get_parameter("codebook"), model.get_parameter("codebook") + added
        )


def test_a_training_file_of_imagefolder_gives_its_weights_or_their_average_without_the_teacher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = small_model("imagefolder_4096", monkeypatch)
    live = released_tensors("imagefolder_4096", model)
    live |= {
        "semantic_model.blocks.0.norm1.weight": torch.ones(3),
        "sem_linear.weight": torch.ones(2),
    }
    content = {
        "model": live,
        "ema": {name: value + 1 for name, value in live.items()},
        "args": argparse.Namespace(vq_model="VQ-16"),
        "steps": 7,
    }
    torch.save(content, tmp_path / "best_ckpt.pt")
    expected = model.get_parameter("encoder.latent_tokens")
    for weights, added in (("model", 0), ("ema", 1)):
        found = import_peer(tmp_path / "best_ckpt.pt", "imagefolder_4096", weights=weights)
        tokens = found.model.get_parameter("encoder.latent_tokens")
        torch.testing.assert_close(tokens, expected + added)
        assert {"sem_linear.weight", "encoder.lvl1LC"} <= set(found.left_out)


def test_a_file_without_the_average_that_is_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = saved(tmp_path / "raw.ckpt", "var_256", small_model("var_256", monkeypatch))
    with pytest.raises(ArtefactError, match="holds no moving average"):
        import_peer(file, "var_256", weights="ema")


def test_an_unknown_name_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="peer = 'ibq': no such released tokenizer; there is ibq_1024"
    ):
        released("ibq")
    assert export_tokenizer.main(["ibq_16384", "--source-path", str(tmp_path / "no.ckpt")]) == 2
