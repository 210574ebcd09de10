"""Tokenizers of other systems in encoding and evaluation: codes, scores per grid, and parts decoded alone."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from glotok_ray.config import EncodeRun, EvaluateRun, override, to_dict
from glotok_ray.config.var import VARConfig
from glotok_ray.data.codes import stored_codes, write_code_dataset, write_code_shard
from glotok_ray.data.pixel_range import to_uint8
from glotok_ray.data.records import decode_image, read_dataset
from glotok_ray.data.transforms import center_crop
from glotok_ray.evaluation.array_names import LABELS
from glotok_ray.evaluation.baseline_images import count_training_codes, read_counts, write_counts
from glotok_ray.evaluation.codebook_metrics import grid_metrics
from glotok_ray.evaluation.generator_loss import LOSS, UNLEARNED, Codes, ScaleLoss
from glotok_ray.evaluation.generator_metrics import loss_metrics
from glotok_ray.evaluation.inputs import check_system
from glotok_ray.evaluation.plan import Block, plan
from glotok_ray.evaluation.retention import decoded_alone, retention_names
from glotok_ray.evaluation.units import build_measurement
from glotok_ray.nn.next_scale import ScaleTokenizer
from glotok_ray.nn.rq_transformer import ResidualTokenizer
from glotok_ray.nn.tokenizer_protocol import grids_of
from glotok_ray.nn.var import VAR
from glotok_ray.pretrained.generator import copy_tokenizer, load_generator, save_generator
from glotok_ray.pretrained.tokenizer import code_layout, empty_tokenizer, read_any_tokenizer
from glotok_ray.recipes.train_generator import far_b, xar_b
from glotok_ray.stages.encode_images import EncodeActor
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.inputs import check_family
from tests.peers.peer_folders import write_peer_folder
from tests.small_data import small_pool, write_shards
from tests.small_residuals import write_generator

COLUMNS = {
    "var_256": {"scale_1x1": (1, 1), "scale_2x2": (2, 2)},
    "rq_vae": {"codes": (1, 1, 4)},
    "titok_s128": {"codes": (5,)},
    "open_magvit2_256": {"codes": (4, 4)},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("systems")
    write_shards(root / "shards")
    for name in COLUMNS:
        write_peer_folder(root / name, name)
    return root


def encode_run(inputs: Path, name: str, output: Path) -> EncodeRun:
    return EncodeRun(
        data_path=str(inputs / "shards"),
        tokenizer_path=str(inputs / name),
        output_path=str(output),
        views="center_flip",
        pool=small_pool(),
    )


def evaluate_run(inputs: Path, name: str, **changes: object) -> EvaluateRun:
    run = EvaluateRun(
        data_path=str(inputs / "shards"),
        tokenizer_path=str(inputs / name),
        pool=small_pool(),
        feature_size=32,
    )
    return override(run, changes)


@pytest.mark.parametrize("name", COLUMNS)
def test_codes_are_the_tokenizers_own(inputs: Path, tmp_path: Path, name: str) -> None:
    actor = EncodeActor(encode_run(inputs, name, tmp_path))
    shard = read_dataset(inputs / "shards").shards[1]
    actor(shard)
    layout = code_layout(inputs / name)
    assert layout.grids == {
        column: tuple(grid.shape)
        for column, grid in zip(
            COLUMNS[name], empty_tokenizer(inputs / name).rate.grids, strict=True
        )
    }
    table = pq.read_table(tmp_path / shard.file)
    assert table.column_names == ["key", "label", "view", *COLUMNS[name]]
    model = actor._tokenizer
    side = model.image_size
    stored = pq.read_table(inputs / "shards" / shard.file)["image"]
    pixels = np.stack([center_crop(decode_image(image.as_py(), ""), side) for image in stored])
    both = np.stack([pixels, pixels[:, :, ::-1]], axis=1).reshape(-1, side, side, 3)
    images = torch.from_numpy(both.copy()).permute(0, 3, 1, 2) / 127.5 - 1
    for column, grid in zip(
        layout.columns, grids_of(model.encode(images), model.rate), strict=True
    ):
        found = np.array(table[column.name].to_pylist())
        assert (found == grid.flatten(1).numpy()).mean() > 0.99


def test_every_grid_is_scored_and_every_scale_decoded_alone(inputs: Path) -> None:
    config = evaluate_run(inputs, "var_256", num_images=6)
    blocks, side = plan(config)
    assert side == 32
    measured = build_measurement(config, image_size=side, folder=inputs)(blocks[:1])
    arrays, pictures = measured[0].arrays, measured[0].pictures
    assert arrays["scale_2x2"].shape == (6, 4)
    assert arrays["scale_2x2"].dtype == np.uint16
    for name in COLUMNS["var_256"]:
        assert np.isfinite(arrays[f"retention_{name}_psnr"]).all()
        assert pictures[f"retention_{name}"].shape == (6, 32, 32, 3)
    codes = {name: [arrays[name]] for name in COLUMNS["var_256"]}
    metrics = grid_metrics(codes, empty_tokenizer(inputs / "var_256").rate)
    used = len(np.unique(arrays["scale_2x2"]))
    assert metrics["scale_2x2_usage"]["value"] == used / 32
    assert metrics["scale_2x2_dead_codes"]["value"] == 32 - used
    assert metrics["scale_1x1_entropy_bits"]["facts"]["tokens"] == 6


def test_the_parts_of_scales_add_up_before_the_decoder(tmp_path: Path) -> None:
    model = write_peer_folder(tmp_path / "var", "var_256")
    codes = model.encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert retention_names(model) == ("scale_1x1", "scale_2x2")
    alone = decoded_alone(model, codes)
    other = (codes[0], (codes[1] + 1) % 32)
    again = decoded_alone(model, other)
    assert torch.equal(alone["scale_1x1"], again["scale_1x1"])
    assert not torch.allclose(alone["scale_2x2"], again["scale_2x2"])
    seen = []
    hook = model.decoder_projection.register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    decoded_alone(model, codes)
    model.decode(codes)
    hook.remove()
    torch.testing.assert_close(seen[0] + seen[1], seen[2])


def test_branches_are_decoded_alone(tmp_path: Path) -> None:
    model = write_peer_folder(tmp_path / "two", "imagefolder_4096")
    names = code_layout(tmp_path / "two").names
    assert names[:2] == ("branch_0_scale_1x1", "branch_0_scale_1x1_2")
    assert (names[9], len(set(names))) == ("branch_0_scale_11x11", 20)
    codes = model.encode(torch.rand(1, 3, 64, 64) * 2 - 1)
    other = (*codes[:10], *((part + 1) % 32 for part in codes[10:]))
    alone, again = decoded_alone(model, codes), decoded_alone(model, other)
    assert torch.equal(alone["branch_0"], again["branch_0"])
    assert not torch.allclose(alone["branch_1"], again["branch_1"])


@pytest.mark.parametrize("name", [*COLUMNS, "ibq_16384", "vqgan_lc_100k", "vqgan_plus_12bit"])
def test_an_encoder_that_diverges_gives_no_codes(tmp_path: Path, name: str) -> None:
    model = write_peer_folder(tmp_path / name, name)
    side = model.image_size
    images = torch.rand(2, 3, side, side) * 2 - 1
    for value in (torch.nan, torch.inf):
        first = next(iter(model.encoder.parameters()))
        first.data.view(-1)[0] = value
        found = grids_of(model.look_up(images), model.rate)
        assert all((grid < 0).any() for grid in found)
        with pytest.raises(ValueError, match="output is not finite, so no code is the nearest"):
            model.encode(images)


def write_codes(folder: Path, inputs: Path, name: str, codes: tuple[torch.Tensor, ...]) -> None:
    """The codes of as many training images, of the classes of the shards."""
    folder.mkdir()
    layout, classes = code_layout(inputs / name), read_dataset(inputs / "shards").classes
    stored = stored_codes([grid.numpy() for grid in codes], layout)
    keys = [str(image) for image in range(len(codes[0]))]
    shard = write_code_shard(
        folder / "part-00000.parquet", keys, np.zeros(len(keys), np.int64), stored, layout
    )
    write_code_dataset(
        folder,
        [shard],
        layout,
        num_views=1,
        classes=classes,
        tokenizer_sha256=artefact.sha256_of(inputs / name / "tokenizer.safetensors"),
        details={},
    )
    artefact.write_manifest(folder, "codes")


@pytest.mark.parametrize("name", ["var_256", "rq_vae"])
def test_baselines_are_drawn_grid_by_grid(inputs: Path, tmp_path: Path, name: str) -> None:
    """Two training images of which every position has one code or the other: the marginal knows no others."""
    model = read_any_tokenizer(inputs / name)
    first = tuple(
        torch.arange(grid.num_indices).view(1, *grid.shape) % (grid.num_codes - 1)
        for grid in model.rate.grids
    )
    codes = tuple(torch.cat([grid, grid + 1]) for grid in first)
    write_codes(tmp_path / "codes", inputs, name, codes)
    config = evaluate_run(inputs, name, codes_path=str(tmp_path / "codes"))
    layout = code_layout(inputs / name)
    write_counts(tmp_path, count_training_codes(config, layout), layout)
    block = Block("baseline_marginal", 0, 5, 0)
    drawn = read_counts(tmp_path, config, layout).draw(block)
    for column, found, grid in zip(layout.columns, drawn, first, strict=True):
        steps = found.astype(np.int64) - grid.flatten(1).numpy()
        assert found.shape == (5, column.num_positions)
        assert set(np.unique(steps)) <= {0, 1}
    assert 0 < np.concatenate([np.ravel(d % 2) for d in drawn]).mean() < 1
    measure = build_measurement(config, image_size=model.image_size, folder=tmp_path)
    pictures = measure([block])[0].pictures["images"]
    grids = [
        torch.from_numpy(found.astype(np.int64)).unflatten(1, column.shape)
        for column, found in zip(layout.columns, drawn, strict=True)
    ]
    decoded = model.decode(tuple(grids) if len(grids) > 1 else grids[0])
    np.testing.assert_array_equal(pictures, to_uint8(decoded))


def write_var(folder: Path, tokenizer: Path, width: int) -> VAR:
    """An untrained VAR on the scales of the small var_256."""
    torch.manual_seed(3)
    sizes = {"width": 16, "depth": 1, "num_heads": 1, "num_codes": 32, "code_width": width}
    classes = list(read_dataset(tokenizer.parent / "shards").classes)
    model = VAR(VARConfig(scale_sides=(1, 2), num_classes=len(classes), **sizes)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    facts = {
        "architecture": "var",
        "model": to_dict(model.config),
        "tokenizer_sha256": artefact.sha256_of(tokenizer / "tokenizer.safetensors"),
        "classes": classes,
    }
    save_generator(folder, model.state_dict(), None, facts)
    copy_tokenizer(tokenizer, folder)
    artefact.write_manifest(folder, "generator")
    return model


@torch.no_grad()
def test_the_loss_of_var_is_of_its_tokenizers_codes(inputs: Path, tmp_path: Path) -> None:
    """With the tokenizer measured beside it, and with the copy in its folder."""
    tokenizer = read_any_tokenizer(inputs / "var_256")
    assert isinstance(tokenizer, ScaleTokenizer)
    model = write_var(tmp_path / "var", inputs / "var_256", tokenizer.code_width)
    changes = {"generator_path": str(tmp_path / "var"), "num_images": 6}
    beside = evaluate_run(inputs, "var_256", **changes)
    arrays = []
    for config in (beside, override(beside, {"tokenizer_path": ""})):
        blocks, side = plan(config)
        measure = build_measurement(config, image_size=side, folder=tmp_path)
        arrays.append(measure(blocks[:1])[0].arrays)
    measured, alone = arrays
    grids = [
        torch.from_numpy(measured[name].astype(np.int64)).unflatten(1, shape)
        for name, shape in code_layout(inputs / "var_256").grids.items()
    ]
    losses = ScaleLoss(model, tokenizer, seed=0)(Codes(grids, measured[LABELS], range(6)))
    for name, values in losses.items():
        np.testing.assert_allclose(measured[name], values, rtol=1e-5)
        np.testing.assert_allclose(alone[name], values, rtol=1e-5)
    assert "scale_1x1" not in alone
    found = loss_metrics(losses, "var", 4, float(losses[UNLEARNED].mean()))[LOSS]
    assert found["value"] == pytest.approx(losses[LOSS].mean())
    assert "every code given those of smaller scales" in found["protocol"]


def test_a_var_of_another_code_width_is_refused_before_anything_starts(
    inputs: Path, tmp_path: Path
) -> None:
    write_var(tmp_path / "var", inputs / "var_256", 7)
    with pytest.raises(ArtefactError, match=r"generator.code_width = 7: the tokenizer has"):
        plan(evaluate_run(inputs, "var_256", generator_path=str(tmp_path / "var")))


RQ_SIZES = {"grid_size": 1, "num_residuals": 4, "num_codes": 32, "code_width": 8}
"""On the small rq_vae."""


@torch.no_grad()
def test_the_loss_of_rq_transformer_is_of_its_tokenizers_codes(
    inputs: Path, tmp_path: Path
) -> None:
    classes = read_dataset(inputs / "shards").classes
    write_generator(tmp_path / "rq", inputs / "rq_vae", classes, **RQ_SIZES)
    config = evaluate_run(
        inputs, "rq_vae", generator_path=str(tmp_path / "rq"), tokenizer_path="", num_images=6
    )
    blocks, side = plan(config)
    arrays = build_measurement(config, image_size=side, folder=tmp_path)(blocks[:1])[0].arrays
    tokenizer = read_any_tokenizer(inputs / "rq_vae")
    assert isinstance(tokenizer, ResidualTokenizer)
    pictures = [
        center_crop(decode_image(row.as_py(), ""), side)
        for row in pq.read_table(inputs / "shards/part-00000.parquet")["image"]
    ]
    images = torch.from_numpy(np.stack(pictures)[:6].copy()).permute(0, 3, 1, 2) / 127.5 - 1
    codes = tokenizer.encode(images)
    assert isinstance(codes, torch.Tensor)
    assert codes.shape == (6, 1, 1, 4)
    model = load_generator(tmp_path / "rq", use_ema=True)
    labels = torch.from_numpy(arrays[LABELS].astype(np.int64))
    logits = model(tokenizer.codebook[codes.flatten(1, 2)], labels).flatten(1, 2)
    chosen = logits.log_softmax(-1).gather(-1, codes.flatten(1).unsqueeze(-1)).squeeze(-1)
    np.testing.assert_allclose(arrays[LOSS], -chosen.mean(dim=1), rtol=1e-4)
    np.testing.assert_allclose(arrays[UNLEARNED], np.log(32), rtol=1e-6)
    protocol = loss_metrics(arrays, "rq", 4, float(arrays[UNLEARNED].mean()))[LOSS]["protocol"]
    assert "every code given those of earlier positions and of smaller depths" in protocol
    write_generator(tmp_path / "other", inputs / "rq_vae", classes, **RQ_SIZES | {"code_width": 5})
    with pytest.raises(ArtefactError, match=r"generator.code_width = 5: the tokenizer has 8"):
        plan(override(config, {"generator_path": str(tmp_path / "other")}))


def test_what_needs_our_code_vectors_is_refused_by_name(inputs: Path) -> None:
    probed = {"training_path": "x", "probe_images": 5}
    with pytest.raises(ArtefactError, match=r"training_path = 'x': .*leave training_path empty"):
        check_system(evaluate_run(inputs, "var_256", **probed))
    check_system(evaluate_run(inputs, "var_256", codes_path="x", generator_path="x"))
    check_system(evaluate_run(inputs, "var_256", training_path="x", probe_images=0))


def test_generators_that_do_not_fit_a_systems_codes_are_refused_by_name(inputs: Path) -> None:
    layout = code_layout(inputs / "var_256")
    for run in (xar_b(), far_b()):
        with pytest.raises(ArtefactError, match="holds a tokenizer of the system var, "):
            check_family(run, layout, inputs / "var_256")
    square = code_layout(inputs / "open_magvit2_256")
    check_family(far_b(), square, inputs)
    with pytest.raises(ArtefactError, match="system open_magvit2, and xAR draws the latents"):
        check_family(xar_b(), square, inputs)
