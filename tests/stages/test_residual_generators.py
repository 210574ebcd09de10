"""RQ-Transformer through the jobs: a released file in, its folder out, the same pictures from any number of actors."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glotok_ray.config import override
from glotok_ray.config.jobs import FARSampleRun
from glotok_ray.config.samplers import TokenSamplerConfig
from glotok_ray.data.pixel_range import to_uint8
from glotok_ray.export import generator as export
from glotok_ray.nn.rq_transformer import RQTransformer
from glotok_ray.peers.rq_vae import RQVAETokenizer
from glotok_ray.pretrained.generator import load_generator
from glotok_ray.pretrained.tokenizer import read_any_tokenizer
from glotok_ray.recipes import (
    encode_images,
    evaluate_images,
    export_generator,
    rq_transformers,
    sample_images,
    sweep_guidance,
    table_2,
)
from glotok_ray.sampling.images import ImageGenerator, default_sampler
from glotok_ray.sampling.residual_codes import sample_residual_codes
from glotok_ray.stages import sample_images as stage
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.weights import stored_shapes
from jobs import export_generator as export_job
from jobs import sample_images as sample_job
from tests.small_data import small_pool
from tests.small_residuals import (
    TINY_RQ,
    import_run,
    write_released,
    write_tokenizer,
)

SAMPLER = TokenSamplerConfig(guidance_scale=1.0, top_p=0.92, temperature=1.5)
LABELS = [0, 3, 3]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders tokenizer and rq, the generator of the file model.pt."""
    folder = tmp_path_factory.mktemp("residuals")
    write_tokenizer(folder / "tokenizer")
    write_released(folder / "model.pt")
    export.run(import_run(folder))
    return folder


@pytest.mark.parametrize("weights", ["model", "ema"])
def test_an_import_holds_the_files_weights_and_its_export_the_files_names(
    inputs: Path, tmp_path: Path, weights: Any
) -> None:
    states = write_released(tmp_path / "model.pt")
    changes = {"weights": weights, "layout": "peer", "output_path": str(tmp_path / "out")}
    assert export_job.describe(import_run(inputs, **changes))["parameters"] == sum(
        value.numel() for value in states["model"].values()
    )
    export.run(import_run(inputs, source_path=str(tmp_path / "model.pt"), **changes))
    again = {
        "source_path": str(tmp_path / "out/generator_peer.safetensors"),
        "output_path": str(tmp_path / "again"),
    }
    export.run(import_run(inputs, **again))
    for name in ("out", "again"):
        found = load_generator(tmp_path / name, use_ema=False).state_dict()
        assert found.keys() == states[weights].keys()
        assert all(torch.equal(found[key], value) for key, value in states[weights].items())
    released = torch.load(tmp_path / "model.pt", weights_only=True)["state_dict"]
    stored = stored_shapes(tmp_path / "out/generator_peer.safetensors")
    assert {name: value.shape for name, value in stored.items()} == {
        name: value.shape for name, value in released.items()
    }


def test_the_card_tells_both_licences_also_after_another_export(
    inputs: Path, tmp_path: Path
) -> None:
    export.run(
        override(
            export_generator.run(),
            {"source_path": str(inputs / "rq"), "output_path": str(tmp_path / "again")},
        )
    )
    for folder in (inputs / "rq", tmp_path / "again"):
        card = (folder / "README.md").read_text()
        assert "Licence of the weights: CC-BY-NC-SA-4.0 (RQ-Transformer): non-commercial" in card
        assert "Licence of the tokenizer: weights CC-BY-NC-SA-4.0" in card
        assert "over the 3 residual codes of each, of 24: 12 codes per image" in card
        assert artefact.read_json(folder / "generator.json")["architecture"] == "rq"


@torch.no_grad()
def test_images_are_those_of_the_drawn_codes(inputs: Path) -> None:
    generator = ImageGenerator.from_pretrained(inputs / "rq")
    model, tokenizer = (
        load_generator(inputs / "rq", use_ema=True),
        read_any_tokenizer(inputs / "tokenizer"),
    )
    assert isinstance(model, RQTransformer)
    assert isinstance(tokenizer, RQVAETokenizer)
    codes = sample_residual_codes(
        model, torch.tensor(LABELS), SAMPLER, tokenizer.codebook, image_ids=range(3), seed=2
    )
    found = generator.generate(LABELS, seed=2, sampler=SAMPLER)
    np.testing.assert_array_equal(found, to_uint8(tokenizer.decode(codes)))
    assert not np.array_equal(found[1], found[2])
    # Without a sampler it is sampled without guidance, which it does not know.
    assert default_sampler(TINY_RQ) == TokenSamplerConfig(guidance_scale=1.0)
    assert generator.generate([1], seed=0).shape == (1, 16, 16, 3)
    rounded = dataclasses.replace(SAMPLER, precision="bf16_autocast")
    assert generator.generate([1], seed=0, sampler=rounded).shape == (1, 16, 16, 3)


def test_a_diverged_generator_draws_no_picture(inputs: Path) -> None:
    generator = ImageGenerator.from_pretrained(inputs / "rq")
    with torch.no_grad():
        generator.generator.class_embedding.weight[3] = torch.nan
    with pytest.raises(ValueError, match=r"logits of image 1 of 3 hold NaN.*sample in fp32"):
        generator.generate(LABELS, seed=2, sampler=SAMPLER)


def test_one_actor_and_two_give_the_same_pictures(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(units, actor_class, arguments, pool, *, stage, sizes):
        actors = [actor_class(**arguments) for _ in range(pool.num_actors)]
        return (actors[place % len(actors)](unit) for place, unit in enumerate(units))

    monkeypatch.setattr("glotok_ray.on_ray.actor_pool.map_shards", here)
    found = []
    for actors, size in ((1, 6), (2, 3), (2, 2)):
        run = FARSampleRun(
            generator_path=str(inputs / "rq"),
            output_path=str(tmp_path / f"{actors}_{size}"),
            num_images=6,
            sampler=SAMPLER,
            pool=dataclasses.replace(small_pool(), num_actors=actors, batch_size=size),
        )
        planned = sample_job.describe(run)
        assert (planned["blocks"], planned["network_evaluations_per_image"]) == (6 // size, 4)
        manifest = stage.run(run)
        assert manifest["architecture"] == "rq"
        found.append(np.load(Path(run.output_path) / "samples.npz")["arr_0"].astype(int))
    assert len({image.tobytes() for image in found[0]}) == 6
    for other in found[1:]:
        assert np.abs(other - found[0]).max() <= 1


def test_guidance_is_refused_before_anything_starts(inputs: Path) -> None:
    run = FARSampleRun(generator_path=str(inputs / "rq"))
    with pytest.raises(ValueError, match=r"guidance_scale = 2\.0: must be 1.*\(RQ-Transformer\)"):
        sample_job.describe(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_residuals": 2}, r"draws 2 x 2 x 2 of 24 codes: the tokenizer decodes 2 x 2 x 3 of"),
        ({"num_codes": 23}, r"draws 2 x 2 x 3 of 23 codes"),
        ({"code_width": 5}, r"generator\.code_width = 5: the tokenizer has 6"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    inputs: Path, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    config = dataclasses.replace(TINY_RQ, **changes)
    write_released(tmp_path / "model.pt", config)
    run = import_run(inputs, source_path=str(tmp_path / "model.pt"), rq=config)
    with pytest.raises(ArtefactError, match=message):
        export.run(override(run, {"output_path": str(tmp_path / "out")}))
    assert not (tmp_path / "out").exists()


def test_recipes_of_every_size_go_together(tmp_path: Path) -> None:
    written = {recipe().output_path: recipe() for recipe in encode_images.RECIPES.values()}
    for name, recipe in rq_transformers.RECIPES.items():
        run, samples = recipe(), sample_images.RECIPES[name]()
        evaluation, model = evaluate_images.RECIPES[name](), run.model
        assert export_generator.RECIPES[name]().model == model
        assert model.num_indices == 256
        codes = written[run.data.train_path]
        assert (codes.tokenizer_path, codes.views) == (run.tokenizer_path, run.data.views)
        assert (evaluation.tokenizer_path, evaluation.codes_path) == (
            run.tokenizer_path,
            run.data.train_path,
        )
        assert samples.generator_path == f"runs/{name}"
        assert samples.output_path == evaluation.samples_path
        for folder in (name, f"{name}_imported"):
            assert table_2.recipe_of(folder, model) == name
        assert table_2.row_of(name) is None
        assert table_2.sampler_of(model, default_sampler(model)) == samples.sampler
        assert name not in sweep_guidance.RECIPES
