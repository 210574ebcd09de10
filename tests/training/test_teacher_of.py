"""The teacher of a training run: projected where asked for, checked before anything starts."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_tokenizer import MODEL

from glotok_ray import artefact
from glotok_ray.artefact import ArtefactError
from glotok_ray.config import RelationConfig, TokenizerLossConfig, TokenizerRun
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.teacher.histogram import build_histogram, load_teacher, save_teacher
from glotok_ray.training.tokenizer_run import check_guides, teacher_of


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
        check_guides(run)
    assert "--loss.relation.project-teacher" in caplog.text
    caplog.clear()
    projected = with_relation(run, RelationConfig(project_teacher=True))
    with caplog.at_level(logging.WARNING):
        check_guides(projected)
    assert not caplog.records
    assert teacher_of(run).centroids.shape == (200, 64)
    assert teacher_of(projected).centroids.shape == (200, run.model.codebook("semantic").width)


def test_without_weight_nothing_is_warned_about(
    run: TokenizerRun, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_guides(
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
        check_guides(with_relation(run, RelationConfig(alpha=2000.0)))


def test_initial_weights_that_are_not_finite_are_refused_before_workers_start(tmp_path):
    model = GloTokTokenizer(MODEL)
    model.save_pretrained(tmp_path)
    run = TokenizerRun(
        model=MODEL,
        initial_path=str(tmp_path),
        loss=TokenizerLossConfig(relation_weight=0.0, perceptual_weight=0.0),
    )
    check_guides(run)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["decoder.conv_out.bias"][2] = torch.nan
    save_file(state, tmp_path / "tokenizer.safetensors")
    with pytest.raises(ArtefactError, match=r"decoder\.conv_out\.bias \(1 of 3 values\)"):
        check_guides(run)


def test_a_teacher_that_is_not_finite_is_refused(tmp_path):
    codes = torch.randn(40, 8)
    save_teacher(tmp_path, build_histogram(codes, fine_bins=2048, provenance={}))
    codes[3, 2] = torch.inf
    save_file({"centroids": codes}, tmp_path / "teacher.safetensors")
    artefact.write_manifest(tmp_path, "teacher")
    with pytest.raises(ArtefactError, match=r"teacher\.safetensors.*centroids \(1 of 320 values\)"):
        load_teacher(tmp_path)
