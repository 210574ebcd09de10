"""VAR from codes of several scales to images: trained without Ray, loaded, sampled, exported; and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from glotok_ray.config import CodebookConfig, ExportGeneratorRun, override
from glotok_ray.config.jobs import VARSampleRun
from glotok_ray.config.runs import VARRun
from glotok_ray.config.samplers import ScaleSamplerConfig
from glotok_ray.config.scales import GloTokScalesConfig
from glotok_ray.config.var import VARConfig
from glotok_ray.export import generator as export
from glotok_ray.nn.tokenizer_protocol import grids_of
from glotok_ray.peers.glotok_scales import GloTokScales
from glotok_ray.pretrained.generator import load_generator
from glotok_ray.pretrained.peer_tokenizers import write_peer
from glotok_ray.recipes.train_generator import quickstart_var
from glotok_ray.sampling.images import ImageGenerator, network_evaluations
from glotok_ray.sampling.scales import sample_scales
from glotok_ray.stages import sample_images, train_generator
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.inputs import check_inputs
from glotok_ray.training.metrics_file import last_metrics
from tests.small_codes import write_codes
from tests.small_data import small_pool
from tests.small_models import tiny_tokenizer

SIDES, NUM_CODES, STEPS = (1, 2, 4), 24, 120
SAMPLER = ScaleSamplerConfig(top_k=4, top_p=1.0)


def small_scales() -> GloTokScales:
    torch.manual_seed(0)
    books = [CodebookConfig(name=name, size=16, width=4) for name in ("visual", "semantic")]
    config = GloTokScalesConfig(
        tokenizer=tiny_tokenizer(*books, adapter_depth=0), num_codes=NUM_CODES, sides=SIDES
    )
    model = GloTokScales(config).requires_grad_(False).eval()
    model.codebook.copy_(0.5 * torch.randn(model.codebook.shape))
    return model


def class_images() -> Tensor:
    """16 images, each its class's colour."""
    shade = torch.where(torch.arange(16) % 2 == 0, -0.7, 0.7)
    return shade.view(-1, 1, 1, 1).expand(16, 3, 16, 16).clone()


def write_parts(folder: Path) -> GloTokScales:
    """A tokenizer of three scales, and codes of 16 images."""
    model = small_scales()
    write_peer(folder / "tokenizer", model, "glotok_scales", {})
    artefact.write_manifest(folder / "tokenizer", "tokenizer")
    grids = grids_of(model.encode(class_images()), model.rate)
    write_codes(folder, [grid.numpy() for grid in grids])
    return model


def small_run(folder: Path) -> VARRun:
    changes = {
        "output_path": str(folder),
        "tokenizer_path": str(folder / "tokenizer"),
        "launcher": "local",
        "model.scale_sides": SIDES,
        "model.num_codes": NUM_CODES,
        "model.code_width": 8,
        "model.num_classes": 2,
        "model.width": 32,
        "model.depth": 2,
        "model.num_heads": 2,
        "data.train_path": str(folder / "codes"),
        "data.num_train_images": 16,
        "schedule.epochs": STEPS,
        "schedule.log_every_steps": STEPS,
        "scaling.num_workers": 1,
        "scaling.engine": "torch",
        "ema_decay": 0.0,
    }
    return override(quickstart_var(), changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scales")
    write_parts(folder)
    assert train_generator.run(small_run(folder))["step"] == STEPS
    return folder


def test_it_learns_its_classes_and_draws_images_of_them(trained: Path) -> None:
    logged = last_metrics(trained / "var", STEPS)
    assert logged["train/cross_entropy"] < 0.5 * np.log(NUM_CODES)
    assert "train/last_scale_cross_entropy" in logged
    generator = ImageGenerator.from_pretrained(trained / "var")
    images = generator.generate([0, 1, 1], seed=0, sampler=SAMPLER)
    assert images.shape == (3, 16, 16, 3)
    again = generator.generate([1], seed=0, image_ids=[1], sampler=SAMPLER)
    assert np.abs(images[1:2].astype(int) - again).max() <= 1


def test_without_chance_it_draws_the_codes_of_its_class(trained: Path) -> None:
    tokenizer = small_scales()
    greedy = ScaleSamplerConfig(guidance_scale=0.0, top_k=1)
    drawn = sample_scales(
        load_generator(trained / "var", use_ema=True),  # type: ignore[arg-type]
        torch.tensor([0, 1]),
        greedy,
        tokenizer.contribution,
        image_ids=[0, 1],
        seed=0,
    )
    grids = grids_of(tokenizer.encode(class_images()[:2]), tokenizer.rate)
    expected = torch.cat([grid.flatten(1) for grid in grids], dim=1)
    assert not torch.equal(expected[0], expected[1])
    assert (torch.cat(drawn.codes, dim=1) == expected).double().mean() > 0.9


def test_decoded_latents_equal_decoded_codes(trained: Path) -> None:
    tokenizer = small_scales()
    drawn = sample_scales(
        load_generator(trained / "var", use_ema=True),  # type: ignore[arg-type]
        torch.tensor([0, 1]),
        SAMPLER,
        tokenizer.contribution,
        image_ids=[0, 1],
        seed=3,
    )
    grids = tuple(
        codes.unflatten(1, (side, side)) for codes, side in zip(drawn.codes, SIDES, strict=True)
    )
    torch.testing.assert_close(tokenizer.decode(grids), tokenizer.decode_latents(drawn.latents))


def test_jobs_know_what_they_sample(trained: Path) -> None:
    config = VARSampleRun(generator_path=str(trained / "var"), sampler=SAMPLER)
    assert sample_images.check_inputs(config)["architecture"] == "var"
    model = load_generator(trained / "var", use_ema=True).config
    assert network_evaluations(model, SAMPLER) == 6
    assert network_evaluations(model, dataclasses.replace(SAMPLER, guidance_scale=0.0)) == 3


def test_blocks_of_any_size_give_the_same_pictures(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(units, actor_class, arguments, pool, *, stage, sizes):
        # As an actor each: every unit by a generator of its own.
        return (actor_class(**arguments)(unit) for unit in units)

    monkeypatch.setattr("glotok_ray.on_ray.actor_pool.map_shards", here)
    found, sampler = [], ScaleSamplerConfig(guidance_scale=0.5, temperature=5.0, top_k=0)
    for size in (1, 4, 6):
        run = VARSampleRun(
            generator_path=str(trained / "var"),
            output_path=str(tmp_path / str(size)),
            num_images=6,
            sampler=sampler,
            pool=dataclasses.replace(small_pool(), batch_size=size),
        )
        sample_images.run(run)
        found.append(np.load(tmp_path / f"{size}/samples.npz")["arr_0"].astype(int))
    assert len({image.tobytes() for image in found[0]}) > 2
    for other in found[1:]:
        assert np.abs(other - found[0]).max() <= 1


def test_an_export_and_its_import_are_the_same_weights(trained: Path) -> None:
    run = ExportGeneratorRun(
        source_path=str(trained / "var"), output_path=str(trained / "exported"), layout="peer"
    )
    export.run(run)
    card = (trained / "exported/README.md").read_text()
    assert "VAR, a transformer over scales of 1, 2, 4" in card
    assert "VAR's code loads" in card
    model = load_generator(trained / "exported", use_ema=True).config
    assert isinstance(model, VARConfig)
    peer = ExportGeneratorRun(
        source_path=str(trained / "exported/generator_peer.safetensors"),
        output_path=str(trained / "imported"),
        tokenizer_path=str(trained / "tokenizer"),
        weights="model",
        architecture="var",
        var=model,
    )
    export.run(peer)
    states = [
        load_generator(trained / name, use_ema=False).state_dict() for name in ("var", "imported")
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert "MIT (VAR)" in (trained / "imported/README.md").read_text()
    ours, theirs = (
        ImageGenerator.from_pretrained(trained / name).generate([0, 1], seed=1, sampler=SAMPLER)
        for name in ("var", "imported")
    )
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.num_codes": 23}, r"draws 1 x 1 of 23 codes.*decodes 1 x 1 of 24"),
        ({"model.scale_sides": (1, 4)}, r"draws 1 x 1 of 24 codes, 4 x 4.*decodes 1 x 1 of 24"),
        ({"model.code_width": 9}, r"model\.code_width = 9: .* a map of 8 channels"),
        ({"model.num_classes": 3}, r"model\.num_classes = 3: .*--model\.num-classes 2"),
        ({"data.views": "ten_crop"}, r"data\.views = 'ten_crop'"),
    ],
)
def test_codes_that_do_not_fit_are_refused(
    trained: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ArtefactError, match=message):
        check_inputs(override(small_run(trained), changes))


def test_an_image_of_broken_logits_is_refused(trained: Path) -> None:
    generator = ImageGenerator.from_pretrained(trained / "var")
    with torch.no_grad():
        generator.generator.output.bias[0] = torch.inf  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="NaN or infinite"):
        generator.generate([0], seed=0, sampler=SAMPLER)
