"""A generator's folder: what is written comes back, and what is missing or foreign is named."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from glotok_ray.config import FARConfig, FlowConfig, VocabularyConfig, XARConfig, to_dict
from glotok_ray.nn.far import FAR
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained.generator import (
    flow_config,
    load_generator,
    model_config,
    read_facts,
    save_generator,
)
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError

TINY_XAR = XARConfig(
    grid_size=4, cell_size=2, channels=6, width=32, depth=2, num_heads=2, num_classes=3
)
TINY_FAR = FARConfig(
    grid_size=4,
    codebooks=(VocabularyConfig(name="visual", size=32), VocabularyConfig(name="semantic", size=8)),
    width=32,
    depth=1,
    head_depth=1,
    num_heads=2,
    mlp_multiple=8,
    num_classes=3,
)
FLOW = FlowConfig(latent_space="codes_plus_residual")


def facts(architecture: str = "xar", **changes: Any) -> dict[str, Any]:
    model = TINY_XAR if architecture == "xar" else TINY_FAR
    flow = {"flow": to_dict(FLOW)} if architecture == "xar" else {}
    common = {
        "architecture": architecture,
        "tokenizer_sha256": "0" * 64,
        "classes": ["a", "b", "c"],
    }
    return {**common, "model": to_dict(model), **flow, **changes}


@pytest.mark.parametrize(("architecture", "kind"), [("xar", XAR), ("far", FAR)])
def test_both_sets_of_weights_come_back_frozen(
    tmp_path: Path, architecture: str, kind: type
) -> None:
    config = TINY_XAR if architecture == "xar" else TINY_FAR
    raw, averaged = kind(config), kind(config)
    save_generator(tmp_path, raw.state_dict(), averaged.state_dict(), facts(architecture))
    for use_ema, expected in ((False, raw), (True, averaged)):
        found = load_generator(tmp_path, use_ema=use_ema)
        assert isinstance(found, kind)
        assert found.config == config
        assert not found.training
        assert not any(parameter.requires_grad for parameter in found.parameters())
        for name, value in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], value)
    embedding = "class_embedding.weight"
    assert not torch.equal(raw.state_dict()[embedding], averaged.state_dict()[embedding])


def test_without_an_average_the_raw_weights_are_taken(tmp_path: Path) -> None:
    first, second = XAR(TINY_XAR), XAR(TINY_XAR)
    save_generator(tmp_path, first.state_dict(), first.state_dict(), facts())
    # The average of an earlier export must not outlive it.
    save_generator(tmp_path, second.state_dict(), None, facts())
    found = load_generator(tmp_path, use_ema=True)
    assert torch.equal(found.class_embedding.weight, second.class_embedding.weight)


def test_facts_come_back_with_what_else_was_written(tmp_path: Path) -> None:
    written = facts(latent_scale=[2.0] * 6)
    save_generator(tmp_path, XAR(TINY_XAR).state_dict(), None, written)
    assert read_facts(tmp_path) == written
    assert model_config(tmp_path) == TINY_XAR
    assert flow_config(tmp_path) == FLOW


def test_names_and_scale_must_be_those_of_the_model(tmp_path: Path) -> None:
    model = XAR(TINY_XAR)
    model.latent_scale.fill_(2.0)
    save_generator(tmp_path, model.state_dict(), None, facts(latent_scale=[2.0] * 6))
    assert torch.equal(load_generator(tmp_path, use_ema=True).latent_scale, model.latent_scale)
    for scale in ([1.0] + [2.0] * 5,):
        artefact.write_json(tmp_path / "generator.json", facts(latent_scale=scale))
        with pytest.raises(ArtefactError, match=r"safetensors: its latent_scale begins \[2\.0"):
            load_generator(tmp_path, use_ema=True)
    artefact.write_json(tmp_path / "generator.json", facts(classes=["a", "b"]))
    with pytest.raises(ArtefactError, match=r"names 2 classes, and its model\.num_classes = 3"):
        model_config(tmp_path)


def test_a_far_has_no_flow(tmp_path: Path) -> None:
    artefact.write_json(tmp_path / "generator.json", facts("far"))
    assert model_config(tmp_path) == TINY_FAR
    with pytest.raises(ArtefactError, match=r"generator\.json: architecture = 'far': has no flow"):
        flow_config(tmp_path)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([], r"generator\.json: must hold a JSON object; is .* a generator's folder"),
        (
            facts(architecture="far", flow=None) | {"architecture": "gan"},
            "'gan': must be one of xar",
        ),
        (
            facts(architecture="xar", flow=None),
            r"generator\.json: flow = None: must be of type dict",
        ),
        (facts(tokenizer_sha256=7), "tokenizer_sha256 = 7: must be of type str; .* again"),
        ({"model": {}}, "architecture = None: must be of type str; correct the path"),
        (facts(model={"colour": 1}), r"its model section .*no field 'colour'.*train the generator"),
        (facts(model={"depth": 3}), r"its model section .*model\.depth = 3: must be even"),
    ],
)
def test_a_foreign_generator_file_is_named(tmp_path: Path, written: Any, message: str) -> None:
    artefact.write_json(tmp_path / "generator.json", written)
    with pytest.raises(ArtefactError, match=message):
        load_generator(tmp_path, use_ema=True)


def test_missing_and_misfitting_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"generator\.json: no such file; run the job"):
        read_facts(tmp_path)
    artefact.write_json(tmp_path / "generator.json", facts())
    with pytest.raises(ArtefactError, match=r"generator\.safetensors: not readable"):
        load_generator(tmp_path, use_ema=True)
    wider = XAR(dataclasses.replace(TINY_XAR, width=64))
    save_generator(tmp_path, wider.state_dict(), None, facts())
    with pytest.raises(ArtefactError, match=r"generator\.safetensors: its tensors do not fit"):
        load_generator(tmp_path, use_ema=True)


def test_an_average_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    first, second = XAR(TINY_XAR), XAR(TINY_XAR)
    save_generator(tmp_path, first.state_dict(), None, facts(latent_scale=[1.0] * 6))
    save_generator(tmp_path / "other", second.state_dict(), second.state_dict(), facts())
    artefact.write_manifest(tmp_path, "generator", exclude=("other",), step=1)
    name = "generator_ema.safetensors"
    (tmp_path / "other" / name).rename(tmp_path / name)
    with pytest.raises(ArtefactError, match=r"ema\.safetensors: is not listed in .*; move it away"):
        load_generator(tmp_path, use_ema=True)
    assert isinstance(load_generator(tmp_path / "other", use_ema=False), XAR)
    (tmp_path / "manifest.json").unlink()  # an unfinished folder lists nothing
    found = load_generator(tmp_path, use_ema=True)
    assert torch.equal(found.class_embedding.weight, second.class_embedding.weight)


@pytest.mark.parametrize(
    "scale", [None, 1.0, "abc", [["x"]], [True] * 6, [1.0] * 5 + [0.0], [float("inf")] * 6]
)
def test_a_scale_of_the_latents_that_is_none_is_named(tmp_path: Path, scale: object) -> None:
    save_generator(tmp_path, XAR(TINY_XAR).state_dict(), None, facts(latent_scale=scale))
    message = r"generator\.json: latent_scale = .*: must be a list of finite numbers above 0"
    with pytest.raises(ArtefactError, match=message):
        load_generator(tmp_path, use_ema=True)


def test_a_scale_of_another_length_is_named(tmp_path: Path) -> None:
    save_generator(tmp_path, XAR(TINY_XAR).state_dict(), None, facts(latent_scale=[1.0] * 5))
    with pytest.raises(ArtefactError, match=r"latent_scale has 5 numbers, .*channels = 6"):
        load_generator(tmp_path, use_ema=True)
