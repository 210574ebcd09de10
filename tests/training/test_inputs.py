"""What a training reads is held against the run before anything starts, and by a dry run where it is there."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_tokenizer import MODEL

from glotok_ray.config import RelationConfig, TokenizerLossConfig, TokenizerRun, override
from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.data.codes import write_code_dataset, write_code_shard
from glotok_ray.data.records import DatasetInfo, Row, encode_png, write_dataset, write_shard
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.recipes.train_generator import xar_b
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.teacher.histogram import build_histogram, load_teacher, save_teacher
from glotok_ray.training.describe import describe_tokenizer
from glotok_ray.training.inputs import check_inputs, fitting_codes, read_counts, teacher_of


@pytest.fixture
def run(tmp_path: Path) -> TokenizerRun:
    codes = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    save_teacher(tmp_path, build_histogram(codes, fine_bins=2048, provenance={}))
    artefact.write_manifest(tmp_path, "teacher")
    loss = TokenizerLossConfig(perceptual_network="efficientnet_lite0")
    return TokenizerRun(teacher_path=str(tmp_path), loss=loss)


def with_relation(run: TokenizerRun, relation: RelationConfig) -> TokenizerRun:
    return dataclasses.replace(
        run, loss=TokenizerLossConfig(perceptual_network="efficientnet_lite0", relation=relation)
    )


def test_a_teacher_out_of_reach_is_warned_about_and_projected_on_request(
    run: TokenizerRun, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_inputs(run)
    assert "--loss.relation.project-teacher" in caplog.text
    caplog.clear()
    projected = with_relation(run, RelationConfig(project_teacher=True))
    with caplog.at_level(logging.WARNING):
        check_inputs(projected)
    assert not caplog.records
    assert teacher_of(run).centroids.shape == (200, 64)
    assert teacher_of(projected).centroids.shape == (200, run.model.codebook("semantic").width)


def test_without_weight_nothing_is_warned_about(
    run: TokenizerRun, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_inputs(
            dataclasses.replace(
                run,
                loss=TokenizerLossConfig(
                    perceptual_network="efficientnet_lite0", relation_weight=0.0
                ),
            )
        )
    assert not caplog.records


def test_a_kernel_too_sharp_for_the_stored_nodes_is_refused_before_training(
    run: TokenizerRun,
) -> None:
    with pytest.raises(ValueError, match=r"relation\.alpha = 2000 \(40 bins\).*--fine-bins 4473"):
        check_inputs(with_relation(run, RelationConfig(alpha=2000.0)))


def write_pictures(folder: Path, *, form: str = "crop", side: int, classes: list[str]) -> str:
    pixels = np.zeros((side, side, 3), np.uint8)
    folder.mkdir()
    shard = write_shard(folder / "a.parquet", [Row("key", encode_png(pixels), 0)])
    write_dataset(folder, classes=classes, form=form, image_size=side, shards=[shard], details={})
    artefact.write_manifest(folder, "shards")
    return str(folder)


def on_pictures(run: TokenizerRun, train: str, validation: str) -> TokenizerRun:
    changes = {
        "data.train_path": train,
        "data.validation_path": validation,
        "model.autoencoder.image_size": 64,
        "schedule.global_batch_size": 1,
        "scaling.num_workers": 1,
    }
    return override(run, changes)


def test_pictures_of_a_smaller_side_are_refused(run: TokenizerRun, tmp_path: Path) -> None:
    fine = write_pictures(tmp_path / "fine", side=64, classes=["a", "b"])
    small = write_pictures(tmp_path / "small", side=32, classes=["a", "b"])
    check_inputs(on_pictures(run, fine, fine))
    for paths in ((small, fine), (fine, small)):
        for check in (check_inputs, describe_tokenizer):
            with pytest.raises(ArtefactError, match=r"small: .*are stored at 32 pixels .*takes 64"):
                check(on_pictures(run, *paths))


def test_other_classes_of_the_validation_pictures_are_warned_about(
    run: TokenizerRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = write_pictures(tmp_path / "train", side=64, classes=["a", "b"])
    validation = write_pictures(tmp_path / "validation", side=64, classes=["b", "a"])
    for check in (check_inputs, describe_tokenizer):
        caplog.clear()
        check(on_pictures(run, train, validation))
        assert f"{train} and {validation}: have different classes" in caplog.text


def test_first_weights_of_another_look_up_are_refused(run: TokenizerRun, tmp_path: Path) -> None:
    folder = tmp_path / "initial"
    folder.mkdir()
    GloTokTokenizer(MODEL).save_pretrained(folder)
    first = dataclasses.replace(run, model=MODEL, initial_path=str(folder))
    check_inputs(first)
    # Neither of these changes what weights mean.
    check_inputs(override(first, {"model.autoencoder.dropout": 0.1}))
    for name, value in (("codebooks.1.lookup", "euclidean"), ("adapter.num_heads", 4)):
        with pytest.raises(
            ArtefactError, match=rf"initial/config\.json: model\.{name} = .*the run has {value!r}"
        ):
            check_inputs(override(first, {f"model.{name}": value}))


def test_counts_must_be_of_the_codes(tmp_path: Path) -> None:
    codes = DatasetInfo(
        "codes", ("a",), 3, 64, (), num_views=2, grid_size=4, code_counts={"visual": 8}
    )
    with pytest.raises(ArtefactError, match=r"counts\.npz: no such file; encode"):
        read_counts(tmp_path, codes)
    fine = np.array([90, 6, 0, 0, 0, 0, 0, 0])
    np.savez(tmp_path / "counts.npz", visual=fine)
    np.testing.assert_array_equal(read_counts(tmp_path, codes)["visual"], fine)
    moved = fine - [0, 0, 0, 1, -1, 0, 0, 0]
    for counts in ({"visual": fine[:7]}, {"visual": fine * 2}, {"visual": moved}, {"other": fine}):
        np.savez(tmp_path / "counts.npz", **counts)
        with pytest.raises(ArtefactError, match=r"counts\.npz: 'visual' counts .*says 96 of 8"):
            read_counts(tmp_path, codes)


def test_initial_weights_that_are_not_finite_are_refused_before_workers_start(tmp_path):
    model = GloTokTokenizer(MODEL)
    model.save_pretrained(tmp_path)
    run = TokenizerRun(
        model=MODEL,
        initial_path=str(tmp_path),
        loss=TokenizerLossConfig(relation_weight=0.0, perceptual_weight=0.0),
    )
    check_inputs(run)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["decoder.conv_out.bias"][2] = torch.nan
    save_file(state, tmp_path / "tokenizer.safetensors")
    with pytest.raises(ArtefactError, match=r"decoder\.conv_out\.bias \(1 of 3 values\)"):
        check_inputs(run)


def test_a_teacher_that_is_not_finite_is_refused(tmp_path):
    codes = torch.randn(40, 8)
    save_teacher(tmp_path, build_histogram(codes, fine_bins=2048, provenance={}))
    codes[3, 2] = torch.inf
    save_file({"centroids": codes}, tmp_path / "teacher.safetensors")
    artefact.write_manifest(tmp_path, "teacher")
    with pytest.raises(ArtefactError, match=r"teacher\.safetensors.*centroids \(1 of 320 values\)"):
        load_teacher(tmp_path)


def test_codes_of_other_views_than_the_recipe_asks_for_are_refused(tmp_path):
    tokenizer, folder = tmp_path / "tokenizer", tmp_path / "codes"
    tokenizer.mkdir()
    folder.mkdir()
    GloTokTokenizer(MODEL).save_pretrained(tokenizer)
    grid = MODEL.autoencoder.grid_size
    codes = {name: np.zeros((4, grid**2), np.uint16) for name in MODEL.names}
    shard = write_code_shard(
        folder / "a.parquet", ["k", "l"], np.zeros(2, np.int64), codes, CodeLayout.glotok(MODEL)
    )
    write_code_dataset(
        folder,
        [shard],
        CodeLayout.glotok(MODEL),
        num_views=2,
        classes=["a"],
        tokenizer_sha256=artefact.sha256_of(tokenizer / "tokenizer.safetensors"),
        details={"views": "center_flip"},
    )
    run = override(
        xar_b(),
        {
            "data.train_path": str(folder),
            "tokenizer_path": str(tokenizer),
            "model.grid_size": grid,
            "model.cell_size": grid // 2,
            "model.num_classes": 1,
            "model.channels": MODEL.latent_width,
        },
    )
    assert fitting_codes(run).views == "center_flip"
    with pytest.raises(
        ArtefactError, match=r"data\.views = 'ten_crop': .*hold the views 'center_flip'"
    ):
        fitting_codes(override(run, {"data.views": "ten_crop"}))
    assert fitting_codes(override(run, {"data.views": ""}))
