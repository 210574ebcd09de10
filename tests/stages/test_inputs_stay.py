"""No job writes over what it reads: an output folder that is an input, or holds one, is refused before it is begun."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glotok_ray.config import EncodeRun, EvaluateRun, ShardRun, TeacherRun
from glotok_ray.config.scales import ScalesRun
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.stages import (
    build_scales,
    build_teacher,
    compare_samples,
    encode_images,
    evaluate_images,
    shard_images,
)
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from tests.small_data import class_tree, write_shards
from tests.small_models import NO_RESIDUAL, tiny_tokenizer

TOKENIZER = tiny_tokenizer(image_size=32, channel_multipliers=(1, 1, 2), residual=NO_RESIDUAL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Finished shards and a finished tokenizer, and files of others in folders that unfinished jobs began."""
    write_shards(tmp_path / "shards")
    GloTokTokenizer(TOKENIZER).save_pretrained(tmp_path / "tokenizer")
    artefact.write_manifest(tmp_path / "tokenizer", "tokenizer", step=1)
    class_tree(tmp_path / "data" / "train", cat=2, dog=2)
    np.save(tmp_path / "centroids.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "samples.npz").touch()
    for folder in (tmp_path, tmp_path / "data" / "train"):
        (folder / ".begun.json").write_text('{"token": "", "fingerprint": "of a job"}')
    return tmp_path


def _encode(root: Path, output: str) -> EncodeRun:
    return EncodeRun(
        data_path=str(root / "shards"),
        tokenizer_path=str(root / "tokenizer"),
        output_path=str(root / output),
    )


def _scales(root: Path, output: str) -> ScalesRun:
    return ScalesRun(
        data_path=str(root / "shards"),
        tokenizer_path=str(root / "tokenizer"),
        output_path=str(root / output),
        sides=(1, 2, 4, 8),
    )


def _shards(root: Path, output: str) -> ShardRun:
    return ShardRun(source=str(root / "data" / "train"), output_path=str(root / output))


def _teacher(root: Path, output: str) -> TeacherRun:
    return TeacherRun(data_path=str(root / "centroids.npy"), output_path=str(root / output))


def _evaluation(root: Path, output: str) -> EvaluateRun:
    return EvaluateRun(
        samples_path=str(root / "samples.npz"),
        data_path=str(root / "shards"),
        output_path=str(root / output),
    )


def _comparison(root: Path, output: str) -> EvaluateRun:
    given = (str(root / "samples.npz"), str(root / "others.npz"))
    return EvaluateRun(
        samples_paths=given, data_path=str(root / "shards"), output_path=str(root / output)
    )


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("stage", "config", "output"),
    [
        (encode_images, _encode, "shards"),
        (encode_images, _encode, "tokenizer"),
        (encode_images, _encode, "."),
        (build_scales, _scales, "shards"),
        (build_scales, _scales, "tokenizer"),
        (build_scales, _scales, "."),
        (shard_images, _shards, "data"),
        (build_teacher, _teacher, "."),
        (evaluate_images, _evaluation, "shards"),
        (evaluate_images, _evaluation, "."),
        (compare_samples, _comparison, "shards"),
        (compare_samples, _comparison, "."),
    ],
)
def test_an_output_folder_that_is_an_input_or_holds_one_is_refused(
    stage: Any, config: Callable[[Path, str], Any], output: str, fresh: bool, root: Path
) -> None:
    before = sorted(root.parent.rglob("*"))
    with pytest.raises(ArtefactError, match=r"^output_path = \S+ (is|holds) the input "):
        stage.run(config(root, output), fresh=fresh)
    assert sorted(root.parent.rglob("*")) == before
