"""Exports of generators: a run's average or raw weights, a peer's file with its tokenizer, and what is refused."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from glotok_ray import config
from glotok_ray.config import (
    CodebookConfig,
    ExportGeneratorRun,
    FARConfig,
    FARSampleRun,
    FlowConfig,
    FlowSamplerConfig,
    VocabularyConfig,
    XARConfig,
    XARSampleRun,
)
from glotok_ray.export import generator as export
from glotok_ray.interop.generators import (
    XAR_LATENT_SCALE,
    export_generator,
    import_generator,
)
from glotok_ray.nn.far import FAR
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.generator import load_generator, read_facts, save_generator
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.stages import sample_images
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from jobs import export_generator as job
from tests.small_models import NO_RESIDUAL, tiny_tokenizer

TOKENIZER = tiny_tokenizer(
    CodebookConfig(name="visual", size=16, width=4),
    CodebookConfig(name="semantic", size=16, width=2),
    image_size=8,
    channel_multipliers=(1, 1),
    adapter_depth=0,
    residual=NO_RESIDUAL,
)
CELLS = XARConfig(
    grid_size=4, cell_size=2, channels=6, width=16, depth=2, num_heads=2, num_classes=3
)
TOKENS = FARConfig(
    grid_size=4,
    codebooks=(
        VocabularyConfig(name="visual", size=16),
        VocabularyConfig(name="semantic", size=16),
    ),
    width=16,
    depth=1,
    head_depth=1,
    num_heads=2,
    mlp_multiple=8,
    num_classes=3,
)
SAMPLER = FlowSamplerConfig(num_steps=2)
LABELS = [2, 0]


def random_model(model: nn.Module, seed: int) -> Any:
    """Random weights, since outputs of a FAR begin at zero, where every code is equally likely."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tokenizer; a finished run "mine" of an xAR with an average; a peer's far.pt and xar.pt."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    for name in ("tokenizer", "mine/tokenizer"):
        GloTokTokenizer(TOKENIZER).save_pretrained(folder / name)
        artefact.write_manifest(folder / name, "tokenizer")
    raw, averaged = (random_model(XAR(CELLS), seed) for seed in (1, 2))
    for model in (raw, averaged):
        model.latent_scale.copy_(torch.arange(1.0, 7.0))
    facts = {
        "architecture": "xar",
        "model": config.to_dict(CELLS),
        "flow": config.to_dict(FlowConfig()),
        "tokenizer_sha256": artefact.sha256_of(folder / "mine/tokenizer/tokenizer.safetensors"),
        "classes": ["cat", "dog", "eel"],
    }
    save_generator(folder / "mine", raw.state_dict(), averaged.state_dict(), facts)
    metrics = {"train/flow_matching": 1.25, "train/learning_rate": 1e-3, "time/images_per_s": 9.0}
    artefact.write_manifest(folder / "mine", "generator", step=7, metrics=metrics)
    for name, model in (("xar", XAR(CELLS)), ("far", FAR(TOKENS))):
        state = export_generator(random_model(model, 3).state_dict(), model.config)
        torch.save({"model": state}, folder / f"{name}.pt")
    return folder


def wanted(inputs: Path, output: Path, source: str = "mine", **changes: Any) -> ExportGeneratorRun:
    return ExportGeneratorRun(
        source_path=str(inputs / source), output_path=str(output / "out"), **changes
    )


def of_far(inputs: Path, output: Path, **changes: Any) -> ExportGeneratorRun:
    settings = {"weights": "model", "architecture": "far", "far": TOKENS} | changes
    return wanted(inputs, output, "far.pt", **settings)


def test_a_runs_export_draws_what_its_average_draws(inputs: Path, tmp_path: Path) -> None:
    manifest = export.run(wanted(inputs, tmp_path))
    assert set(manifest["files"]) == {
        "generator.safetensors",
        "generator.json",
        "README.md",
        "tokenizer/tokenizer.safetensors",
        "tokenizer/config.json",
    }
    assert manifest["parameters"] == sum(parameter.numel() for parameter in XAR(CELLS).parameters())
    images = {
        name: ImageGenerator.from_pretrained(folder, use_ema=use_ema).generate(
            LABELS, seed=0, sampler=SAMPLER
        )
        for name, folder, use_ema in (
            ("export", tmp_path / "out", True),
            ("average", inputs / "mine", True),
            ("raw", inputs / "mine", False),
        )
    }
    np.testing.assert_array_equal(images["export"], images["average"])
    assert not np.array_equal(images["export"], images["raw"])


def keep_best(run: Path, source: Path) -> None:
    """The best checkpoint of an unfinished run as its evaluation keeps it: averaged weights alone."""
    place = run / "best" / "step-000000005"
    shutil.copytree(source, place)
    (place / "generator.safetensors").unlink()
    artefact.write_manifest(place, "generator", step=5)
    best = {"step": 5, "metric": "samples_fd_effnet", "value": 12.5, "folder": place.name}
    artefact.write_json(run / "best" / "best.json", best)
    (run / "metrics.jsonl").write_text('{"step": 5, "train/flow_matching": 0.75}\n')


def test_the_best_checkpoint_is_exported_from_an_unfinished_run(
    inputs: Path, tmp_path: Path
) -> None:
    keep_best(tmp_path / "mine", inputs / "mine")
    config = wanted(tmp_path, tmp_path, checkpoint="best")
    export.run(config)
    found = load_file(tmp_path / "out" / "generator.safetensors")
    averaged = load_generator(inputs / "mine", use_ema=True).state_dict()
    assert all(torch.equal(found[name], value) for name, value in averaged.items())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "run 'mine', after 5 steps (averaged over the steps), the best of its evaluated" in card
    assert "samples_fd_effnet = 12.5" in card
    assert "| flow_matching | 0.75 |" in card
    with pytest.raises(ArtefactError, match="holds averaged weights alone"):
        export.run(wanted(tmp_path, tmp_path, checkpoint="best", weights="model"))
    with pytest.raises(ArtefactError, match="mine: holds no best checkpoint; train with"):
        export.run(wanted(inputs, tmp_path, checkpoint="best"))


def test_a_finished_export_is_recognised_and_other_settings_are_refused(
    inputs: Path, tmp_path: Path
) -> None:
    export.run(wanted(inputs, tmp_path))
    written = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    export.run(wanted(inputs, tmp_path))
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == written
    with pytest.raises(ArtefactError, match="made by other settings"):
        export.run(wanted(inputs, tmp_path, weights="model"))
    export.run(wanted(inputs, tmp_path, weights="model"), fresh=True)
    raw = load_generator(inputs / "mine", use_ema=False).state_dict()
    found = load_file(tmp_path / "out" / "generator.safetensors")
    assert all(torch.equal(found[name], value) for name, value in raw.items())


def test_sampling_accepts_an_export_with_its_copy_of_the_tokenizer(
    inputs: Path, tmp_path: Path
) -> None:
    export.run(wanted(inputs, tmp_path))
    facts = sample_images.check_inputs(
        XARSampleRun(generator_path=str(tmp_path / "out"), sampler=SAMPLER, tokenizer_path="")
    )
    assert facts["classes"] == ["cat", "dog", "eel"]
    with pytest.raises(ArtefactError, match="was trained on codes of the tokenizer"):
        sample_images.check_inputs(
            XARSampleRun(
                generator_path=str(tmp_path / "out"), tokenizer_path=str(inputs / "tokenizer")
            )
        )


def test_the_card_names_the_run_and_its_example_runs(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.run(wanted(inputs, tmp_path))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "the run 'mine', after 7 steps (averaged over the steps)" in card
    assert "labels from 0 in the order cat, dog, eel" in card
    assert "| flow_matching | 1.25 |" in card
    assert "images_per_s" not in card
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code
    found: dict[str, Any] = {}
    exec(code[1], found)
    assert found["images"].shape == (2, 8, 8, 3)


def test_the_peers_layout_adds_a_file_that_imports_as_the_same_weights(
    inputs: Path, tmp_path: Path
) -> None:
    export.run(wanted(inputs, tmp_path, layout="peer"))
    state = load_generator(tmp_path / "out", use_ema=True).state_dict()
    again = import_generator(tmp_path / "out" / "generator_peer.safetensors", CELLS).tensors
    assert again.keys() == state.keys()
    for name in state.keys() - {"latent_scale"}:
        assert torch.equal(again[name], state[name])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "generator_peer.safetensors holds the same weights" in card
    assert "0.2325" in card
    # The card does not promise that released code with fixed sizes runs it unchanged.
    assert "grid_size = 4 (there 16), channels = 6 (there 16)." in card
    assert "learning_rate" not in card


def test_a_peers_far_draws_its_codes_for_the_tokenizer_that_is_given(
    inputs: Path, tmp_path: Path
) -> None:
    export.run(of_far(inputs, tmp_path, tokenizer_path=str(inputs / "tokenizer")))
    found = ImageGenerator.from_pretrained(tmp_path / "out").generate(LABELS, seed=5)
    model = random_model(FAR(TOKENS), 3).requires_grad_(False)
    tokenizer = GloTokTokenizer.from_pretrained(inputs / "tokenizer")
    expected = ImageGenerator(model, tokenizer).generate(LABELS, seed=5)
    np.testing.assert_array_equal(found, expected)
    sample_images.check_inputs(
        FARSampleRun(generator_path=str(tmp_path / "out"), tokenizer_path=str(inputs / "tokenizer"))
    )


def test_a_peers_xar_has_no_tokenizer_and_says_so(inputs: Path, tmp_path: Path) -> None:
    settings = {"weights": "model", "architecture": "xar", "xar": CELLS}
    export.run(wanted(inputs, tmp_path, "xar.pt", **settings))
    assert not (tmp_path / "out" / "tokenizer").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "holds no tokenizer" in card
    assert "KL-16" in card
    model = load_generator(tmp_path / "out", use_ema=True)
    assert isinstance(model, XAR)
    assert torch.equal(model.latent_scale, torch.full((6,), XAR_LATENT_SCALE))
    with pytest.raises(ArtefactError, match=r"imported without a tokenizer.*sample_latents"):
        ImageGenerator.from_pretrained(tmp_path / "out")
    # An import may be exported again, such as in the peer's layout.
    again = wanted(inputs, tmp_path / "again", weights="model", layout="peer")
    export.run(dataclasses.replace(again, source_path=str(tmp_path / "out")))
    assert (tmp_path / "again" / "out" / "generator_peer.safetensors").is_file()
    given = settings | {"tokenizer_path": str(inputs / "tokenizer")}
    with pytest.raises(ArtefactError, match=r"tokenizer_path = .*KL-16.*leave it empty"):
        export.run(wanted(inputs, tmp_path / "other", "xar.pt", **given))


def test_a_peers_thousand_classes_have_the_names_of_imagenets_folders() -> None:
    names = export.class_names(1000)
    assert (len(names), names[0], names[207]) == (1000, "n01440764", "n02099601")
    assert export.class_names(3) == ["0", "1", "2"]


def test_what_cannot_be_exported_is_refused_and_leaves_nothing_behind(
    inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtefactError, match=r"source_path = '': no such run folder"):
        export.run(ExportGeneratorRun(output_path=str(tmp_path / "out")))
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(ArtefactError, match="holds no finished generator"):
        export.run(wanted(tmp_path, tmp_path, "unfinished"))
    same = str(inputs / "mine")
    with pytest.raises(ArtefactError, match="is the input"):
        export.run(ExportGeneratorRun(source_path=same, output_path=same), fresh=True)
    other = config.override(TOKENS, {"codebooks.0.size": 32})
    with pytest.raises(ArtefactError, match="bring the tokenizer of the generator's codes"):
        export.run(of_far(inputs, tmp_path, far=other, tokenizer_path=str(inputs / "tokenizer")))
    with pytest.raises(ArtefactError, match=r"far\.pt: .*choose the recipe that fits"):
        export.run(of_far(inputs, tmp_path, far=other))
    assert not (tmp_path / "out").exists()
    assert read_facts(inputs / "mine")["classes"] == ["cat", "dog", "eel"]


def test_the_command_exports_and_describes(inputs: Path, tmp_path: Path) -> None:
    arguments = ["run", "--source-path", str(inputs / "mine"), "--output-path", str(tmp_path / "o")]
    assert job.main([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "o").exists()
    assert job.main(arguments) == 0
    assert artefact.read_manifest(tmp_path / "o", "generator")["parameters"] > 0
