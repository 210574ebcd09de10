"""Kept statistics come back for the same images, network and crop alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from glotok_ray.evaluation.features import POOLED, SPATIAL
from glotok_ray.evaluation.statistics_cache import (
    StatisticsKey,
    ids_sha256,
    read_statistics,
    statistics_path,
    write_statistics,
)
from glotok_ray.metrics.frechet import FeatureMoments
from glotok_ray.storage.artefact import ArtefactError
from tests.evaluation.test_reference import Extractor

IDS = [f"image-{number}" for number in range(9)]
KEY = StatisticsKey.of(Extractor(), crop="ADM's crop, 16 pixels", image_ids=IDS, dataset="shards")
FEATURES = np.random.default_rng(0).normal(size=(9, 6))
MOMENTS = {POOLED: FeatureMoments.of(FEATURES), SPATIAL: FeatureMoments.of(FEATURES[:, :4])}


def test_what_was_kept_comes_back_to_the_digit(tmp_path: Path) -> None:
    assert read_statistics(tmp_path / "cache", KEY) is None
    path = write_statistics(tmp_path / "cache", KEY, MOMENTS)
    assert path == statistics_path(tmp_path / "cache", KEY)
    found = read_statistics(tmp_path / "cache", KEY)
    assert found is not None
    assert found.keys() == MOMENTS.keys()
    for name, moments in MOMENTS.items():
        assert found[name].count == 9
        np.testing.assert_array_equal(found[name].mean, moments.mean)
        np.testing.assert_array_equal(found[name].scatter, moments.scatter)
    assert list((tmp_path / "cache").iterdir()) == [path]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extractor", "DINOv2"),
        ("weights_sha256", "1" * 64),
        ("outputs", {POOLED: 6}),
        ("input_contract", "another resize"),
        ("crop", "the whole image"),
        ("num_images", 8),
        ("image_ids_sha256", ids_sha256(IDS[:8])),
        ("dataset", "others"),
    ],
)
def test_another_value_is_another_file_and_a_foreign_file_is_refused(
    tmp_path: Path, field: str, value: object
) -> None:
    other = dataclasses.replace(KEY, **{field: value})
    path = write_statistics(tmp_path, KEY, MOMENTS)
    assert read_statistics(tmp_path, other) is None
    path.rename(statistics_path(tmp_path, other))
    with pytest.raises(ArtefactError, match=f"holds statistics of {field} .*remove the file"):
        read_statistics(tmp_path, other)


def test_names_have_one_digest_per_list() -> None:
    assert ids_sha256(["ab", "c"]) != ids_sha256(["a", "bc"])
    assert ids_sha256(IDS) != ids_sha256(reversed(IDS))
    assert ids_sha256(iter(IDS)) == KEY.image_ids_sha256
    assert KEY.num_images == 9


def test_moments_that_the_key_does_not_promise_are_not_kept(tmp_path: Path) -> None:
    for moments in (
        {POOLED: MOMENTS[POOLED]},
        {POOLED: MOMENTS[SPATIAL], SPATIAL: MOMENTS[SPATIAL]},
        {POOLED: FeatureMoments.of(FEATURES[:8]), SPATIAL: MOMENTS[SPATIAL]},
    ):
        with pytest.raises(ValueError, match="must be of 9 images and of width"):
            write_statistics(tmp_path, KEY, moments)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write_statistics(tmp_path, KEY, MOMENTS)
    whole = dict(np.load(path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArtefactError, match="not readable as kept statistics"):
        read_statistics(tmp_path, KEY)
    for name, value in (
        ("pooled_mean", np.full(6, np.nan)),
        ("pooled_scatter", whole["pooled_scatter"][:3]),
        ("spatial_count", np.array(8)),
        ("spatial_mean", whole["spatial_mean"].astype(np.float32)),
    ):
        np.savez(path, **{**whole, name: value})
        with pytest.raises(ArtefactError, match="moments are not finite float64 of 9 images"):
            read_statistics(tmp_path, KEY)
