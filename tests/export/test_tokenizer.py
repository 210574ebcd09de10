"""Exports: of a finished tokenizer, of an unfinished run's newest checkpoint, of a peer's file."""

import json
from pathlib import Path

import pytest
import torch

from glotok_ray import config
from glotok_ray.config import (
    CodebookConfig,
    ExportRun,
)
from glotok_ray.export import tokenizer
from glotok_ray.interop import tokenizer_layouts
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from jobs import export_tokenizer
from tests.small_models import NO_RESIDUAL, tiny_tokenizer

SINGLE = tiny_tokenizer(
    CodebookConfig(name="visual", size=16, width=4),
    channel_multipliers=(1, 1),
    adapter_depth=0,
    residual=NO_RESIDUAL,
)


@pytest.fixture
def model() -> GloTokTokenizer:
    torch.manual_seed(0)
    return GloTokTokenizer(SINGLE).eval()


def saved(folder: Path, model: GloTokTokenizer, kind: str, **facts: object) -> Path:
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    artefact.write_manifest(folder, kind, **facts)
    return folder


def test_a_finished_tokenizer_becomes_a_folder_of_its_own(model, tmp_path):
    source = saved(tmp_path / "mine", model, "tokenizer", step=7, metrics={"eval/psnr": 20.0})
    wanted = ExportRun(source_path=str(source), output_path=str(tmp_path / "out"))
    manifest = tokenizer.run(wanted)
    assert set(manifest["files"]) == {"tokenizer.safetensors", "config.json", "README.md"}
    assert "the run 'mine' after 7 steps" in (tmp_path / "out" / "README.md").read_text()
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    again = GloTokTokenizer.from_pretrained(tmp_path / "out")
    assert torch.equal(again.encode(images), model.encode(images))
    written = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    tokenizer.run(wanted)
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == written


def test_an_unfinished_run_exports_its_newest_checkpoint(model, tmp_path):
    for step in (3, 9):
        folder = tmp_path / "mine" / "checkpoints" / f"step-{step:09d}"
        saved(folder, model, "checkpoint", step=step, world_size=1)
    output = tmp_path / "out"
    artefact.write_json(tmp_path / "mine" / "run.json", {"fingerprint": "", "crops": "CROPS"})
    tokenizer.run(ExportRun(source_path=str(tmp_path / "mine"), output_path=str(output)))
    assert "the run 'mine' after 9 steps on CROPS, with" in (output / "README.md").read_text()


def test_a_folder_with_another_programs_manifest_is_bad_input(tmp_path, caplog):
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "manifest.json").write_text('{"name": "ext", "version": 1}')
    arguments = ["llamagen_vq16", "--source-path", str(tmp_path / "extension")]
    assert export_tokenizer.main([*arguments, "--output-path", str(tmp_path / "out")]) == 2
    assert "manifest.json: is not the manifest of a finished folder" in caplog.text


def test_a_peers_file_is_encoded_with_like_an_own_tokenizer(model, tmp_path):
    levels = len(SINGLE.autoencoder.channel_multipliers)
    inverse = {}
    for peer in peer_names(levels):
        inverse[tokenizer_layouts.rename(peer, "llamagen", levels)] = peer
    state = {inverse[name]: value for name, value in model.state_dict().items()}
    torch.save({"model": state, "steps": 5}, tmp_path / "vq.pt")
    (tmp_path / "recipe.json").write_text(
        json.dumps(config.to_dict(ExportRun(model=SINGLE, output_path=str(tmp_path / "out"))))
    )
    arguments = [str(tmp_path / "recipe.json"), "--source-path", str(tmp_path / "vq.pt")]
    assert export_tokenizer.main(arguments) == 0
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    again = GloTokTokenizer.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(again.reconstruct(images), model.reconstruct(images))


def peer_names(levels: int) -> list[str]:
    """LlamaGen's names of a tokenizer with one residual block per level."""
    with torch.device("meta"):
        ours = GloTokTokenizer(SINGLE).state_dict()
    swaps = [
        ("encoder.levels.", "encoder.conv_blocks."),
        ("decoder.levels.", "decoder.conv_blocks."),
        (".blocks.", ".res."),
        (".attentions.", ".attn."),
        (".shortcut.", ".nin_shortcut."),
        ("encoder.middle.", "encoder.mid."),
        ("decoder.middle.", "decoder.mid."),
        (".query.", ".q."),
        (".key.", ".k."),
        (".value.", ".v."),
        (".projection.weight", ".proj_out.weight"),
        (".projection.bias", ".proj_out.bias"),
        ("encoder.head.norm", "encoder.norm_out"),
        ("encoder.head.conv", "encoder.conv_out"),
        ("branches.visual.proj_out", "quant_conv"),
        ("branches.visual.quantizer.codebook", "quantize.embedding.weight"),
        ("decoder_projection", "post_quant_conv"),
    ]
    names = []
    for name in ours:
        for ours_part, theirs in swaps:
            name = name.replace(ours_part, theirs)
        name = name.replace("encoder.conv_blocks.0.resample", "encoder.conv_blocks.0.downsample")
        names.append(
            name.replace("decoder.conv_blocks.0.resample", "decoder.conv_blocks.0.upsample")
        )
    return names


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match=r"source_path = '': no such run folder"):
        tokenizer.run(ExportRun())
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ArtefactError, match=r"neither a finished tokenizer nor a run with a checkpoint"
    ):
        tokenizer.run(ExportRun(source_path=str(tmp_path / "empty")))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    wanted = ExportRun(source_path=str(tmp_path / "other.pt"), output_path=str(tmp_path / "out"))
    with pytest.raises(ArtefactError, match=r"other\.pt"):
        tokenizer.run(wanted)
    assert not (tmp_path / "out").exists()


def test_a_peers_file_that_is_not_finite_ends_in_one_line_and_exit_code_2(model, tmp_path, caplog):
    levels = len(SINGLE.autoencoder.channel_multipliers)
    inverse = {
        tokenizer_layouts.rename(peer, "llamagen", levels): peer for peer in peer_names(levels)
    }
    state = {inverse[name]: value.clone() for name, value in model.state_dict().items()}
    state["encoder.conv_in.weight"][0, 0, 0, 0] = torch.nan
    torch.save({"model": state}, tmp_path / "vq.pt")
    recipe = ExportRun(model=SINGLE, output_path=str(tmp_path / "out"))
    (tmp_path / "recipe.json").write_text(json.dumps(config.to_dict(recipe)))
    arguments = [str(tmp_path / "recipe.json"), "--source-path", str(tmp_path / "vq.pt")]
    assert export_tokenizer.main(arguments) == 2
    told = caplog.records[-1].getMessage()
    assert "vq.pt: 1 of its tensors hold NaN" in told
    assert "encoder.conv_in.weight (1 of 216 values)" in told
    assert "\n" not in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("run", "run"),
        ("run", "."),
        ("run", "run/exported"),
        ("run", "run/checkpoints"),
        ("run", "link"),
        ("link", "run"),
        ("run/checkpoints/step-000000009", "run"),
        ("run/checkpoints/step-000000009", "run/checkpoints/step-000000009"),
    ],
)
def test_a_run_is_never_exported_into_itself(model, tmp_path, source, output, fresh):
    folder = tmp_path / "run"
    saved(folder / "checkpoints" / "step-000000009", model, "checkpoint", step=9, world_size=1)
    for begun in (folder, tmp_path):
        (begun / ".begun.json").write_text(json.dumps({"token": "", "fingerprint": "of a run"}))
    (tmp_path / "link").symlink_to(folder)
    before = sorted(tmp_path.rglob("*"))
    wanted = ExportRun(source_path=str(tmp_path / source), output_path=str(tmp_path / output))
    with pytest.raises(ArtefactError, match=r"^output_path = \S+ (is|holds|lies in) the input "):
        tokenizer.run(wanted, fresh=fresh)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_finished_run_is_not_moved_away_by_its_own_export(model, tmp_path):
    source = saved(tmp_path / "mine", model, "tokenizer", step=7)
    with pytest.raises(ArtefactError, match="is the input"):
        tokenizer.run(ExportRun(source_path=str(source), output_path=str(source)), fresh=True)
    assert not (tmp_path / "mine.previous").exists()


def test_a_run_that_cannot_be_read_leaves_the_output_as_it_is(model, tmp_path):
    source = saved(tmp_path / "mine", model, "tokenizer", step=7)
    (source / "config.json").write_text('{"model": {"adapter": {"depth": 3}}}')
    artefact.write_manifest(source, "tokenizer", step=7)
    with pytest.raises(ArtefactError, match="do not fit the config"):
        tokenizer.run(ExportRun(source_path=str(source), output_path=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_discriminator_of_a_run_is_exported_where_its_manifest_lists_it(model, tmp_path):
    source = saved(tmp_path / "mine", model, "tokenizer", step=7)
    (source / "discriminator.safetensors").write_bytes(b"of another run")
    wanted = ExportRun(source_path=str(source), output_path=str(tmp_path / "out"))
    with pytest.raises(ArtefactError, match=r"discriminator\.safetensors: is not listed .*away$"):
        tokenizer.run(wanted)
    artefact.write_manifest(source, "tokenizer", step=7)
    assert "discriminator.safetensors" in tokenizer.run(wanted)["files"]
