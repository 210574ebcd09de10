"""Fingerprints of settings, as commit 346b769 computed them: folders of before are recognised."""

from pathlib import Path
from typing import Any

import pytest

from glotok_ray.config import ShardRun, bound_settings, override, with_absolute_paths
from glotok_ray.data.sources import ImageSource
from glotok_ray.recipes import (
    build_teacher,
    encode_images,
    evaluate_images,
    export_generator,
    export_tokenizer,
    generator_ablations,
    sample_images,
    shard_images,
    train_generator,
    train_tokenizer,
)
from glotok_ray.stages import train_tokenizer as tokenizer_stage
from glotok_ray.storage import artefact


def first_crops() -> ShardRun:
    """The quickstart's shards as they were: 64 pixels."""
    return override(shard_images.quickstart(), {"image_size": 64})


def settings_of_first_rule(run: ShardRun) -> dict[str, Any]:
    """Without the rule's version, which later rules add so that older shards are not taken for theirs."""
    settings = shard_settings(run)
    assert settings.pop("crop_rule") > 1
    return settings


def shard_settings(run):
    return ImageSource.of(run).bound_settings()


KNOWN = [
    (
        "tokenizer",
        train_tokenizer.glotok_16k,
        tokenizer_stage.bound_settings,
        "20dfc81f97a7b7317fc7183412ada67dd55f828b3da563b50b5b004e6e32879f",
    ),
    (
        "tokenizer",
        train_tokenizer.fqgan_triple,
        tokenizer_stage.bound_settings,
        "2177ef7d3da3cfb340ecc149bef492d64848f44f630eb7763896c3be93a77f06",
    ),
    (
        "generator",
        train_generator.xar_b,
        bound_settings,
        "c4de49c45ba722bc5c7ba853bc817b9cf00d80049acc85317b14eb22242306b5",
    ),
    (
        "generator",
        train_generator.far_b,
        bound_settings,
        "b0f45a21e199ffc4a1e18b8e01b8e9ecd5d189f84aff6f4b1652007f138d1cc9",
    ),
    (
        "codes",
        encode_images.RECIPES["glotok_16k"],
        bound_settings,
        "b702a7917a22dfdfe5decee54c6fca9a9c5478a103963e483b1fccf8f99c8f31",
    ),
    (
        "samples",
        sample_images.xar_b,
        bound_settings,
        "b4d4a1ed9b8cdd105dcb4dbf672438c4334e9c75752cbab51f7f97c095bc693f",
    ),
    (
        "samples",
        sample_images.far_b,
        bound_settings,
        "05780d7ef9ce50fbaed27e131e14b15afa75d7f9b1cdfddab36e2babae591afe",
    ),
    (
        "evaluation",
        evaluate_images.xar_b,
        bound_settings,
        "87a58a5da9701cf93211805f14bc00e1ca42f3f4267596fd297d36c31ccb4658",
    ),
    (
        "teacher",
        build_teacher.dinov2_4096,
        bound_settings,
        "14e72f44d97fca0e40d4c11649a1c2c85bb06aaba6588d14959853e52f72d3f9",
    ),
    (
        "export",
        export_tokenizer.RECIPES["run"],
        bound_settings,
        "d2989299463b9d6cccbed8738f83a8b612ad6d29eddaf7f34b64d79820b48e9e",
    ),
    (
        "export_generator",
        export_generator.RECIPES["run"],
        bound_settings,
        "c6c05643025cb386168c9a72c5639b84057cbc796894aa1860ed012c17784820",
    ),
    (
        "shards",
        first_crops,
        settings_of_first_rule,
        "18bebb7fb00890d15edcb2eea72930da66edde8050e2ba5dba55a8c13cd0e13c",
    ),
    (
        "ablations",
        generator_ablations.ablations,
        bound_settings,
        "54e6ab55faa8099cde18846ff6db529a256569a28d42b3571eeb2db869d61201",
    ),
]


@pytest.mark.parametrize(("kind", "recipe", "settings", "known"), KNOWN)
def test_fingerprints_are_those_of_before(kind, recipe, settings, known) -> None:
    run = with_absolute_paths(recipe(), Path("/data"))
    assert artefact.fingerprint(kind, settings(run)) == known


def test_where_shards_are_written_and_how_long_storage_is_waited_for_is_free() -> None:
    run = shard_images.quickstart()
    patient = override(run, {"storage_retry_minutes": 99.0, "output_path": "/elsewhere"})
    assert shard_settings(patient) == shard_settings(run)
