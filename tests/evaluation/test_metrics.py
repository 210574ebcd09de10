"""Named metrics: values agree with the metrics, protocols state counts, undefined ones are null."""

import json

import numpy as np
import pytest

from glotok_ray.evaluation.codebook_metrics import codebook_metrics
from glotok_ray.evaluation.distances import DISTANCES, frechet_metric
from glotok_ray.evaluation.entries import metric_entry, with_crops
from glotok_ray.evaluation.extractors import Network
from glotok_ray.evaluation.metrics import reconstruction_metrics
from glotok_ray.evaluation.uniformity_metrics import uniformity_metrics
from glotok_ray.metrics.frechet import summarize
from glotok_ray.metrics.uniformity import Uniformity


def test_reconstruction_figures_leave_identical_pairs_out() -> None:
    scores = {"psnr": np.array([20.0, 22.0, np.inf]), "ssim": np.array([0.5, 0.7, 1.0])}
    metrics = reconstruction_metrics(scores, 64)
    assert metrics["reconstruction_psnr"]["value"] == pytest.approx(21)
    assert metrics["reconstruction_psnr"]["std"] == pytest.approx(1)
    assert "1 identical pairs" in metrics["reconstruction_psnr"]["protocol"]
    assert "3 validation crops of 64 x 64" in metrics["reconstruction_ssim"]["protocol"]


def test_every_protocol_says_what_the_crops_are() -> None:
    metrics = {
        "a": metric_entry("A", 1.0, "Mean.", 0.5),
        "b": metric_entry("B", None, "Undefined."),
    }
    assert with_crops(metrics, "ADM's") == {
        "a": {
            "label": "A",
            "value": 1.0,
            "std": 0.5,
            "protocol": "Mean. The validation crops are ADM's.",
        },
        "b": {
            "label": "B",
            "value": None,
            "protocol": "Undefined. The validation crops are ADM's.",
        },
    }


def test_frechet_figure_names_its_network_and_counts() -> None:
    features = np.random.default_rng(0).normal(size=(5, 4))
    network = Network("effnet", "EfficientNet-Lite0", {"pooled": 4}, "128 x 128", "a" * 64)
    facts = {"label": "FD-EffNet", "network": network}
    distance = DISTANCES["effnet"][0]
    entry = frechet_metric(
        distance,
        summarize([features + 2]),
        summarize([features]),
        what="samples of the generator",
        **facts,
    )
    assert entry["value"] == pytest.approx(16)
    for part in ("EfficientNet-Lite0", "5 samples of the generator", "5 validation", "128 x 128"):
        assert part in entry["protocol"]
    alone = frechet_metric(
        distance, summarize([features[:1]]), summarize([features]), what="samples", **facts
    )
    assert alone["value"] is None


def test_codebook_figures_keep_branches_apart() -> None:
    vectors = np.random.default_rng(1).normal(size=(8, 3))
    metrics = codebook_metrics("visual", np.full(8, 4), vectors, "cosine")
    assert metrics["visual_usage"]["value"] == 1
    assert metrics["visual_perplexity"]["value"] == pytest.approx(8)
    assert "32 visual tokens" in metrics["visual_usage"]["protocol"]
    assert metrics["visual_count_density_cv"]["value"] > 0
    assert metrics["visual_duplicates"]["value"] == 0


@pytest.mark.parametrize(
    ("lookup", "text"), [("cosine", "a cosine of at least 0.99"), ("euclidean", "at most 0.02 ")]
)
def test_duplicates_are_counted_among_all_codes(lookup, text) -> None:
    vectors = np.concatenate([np.eye(6), np.eye(6)[:2] + 1e-4])
    counts = np.where(np.arange(8) < 6, 5, 0)  # the two that lie beside others are not used
    entry = codebook_metrics("semantic", counts, vectors, lookup)["semantic_duplicates"]
    assert entry["value"] == 0.5
    assert text in entry["protocol"]
    assert "all 8 semantic codes" in entry["protocol"]


def test_uniformity_is_averaged_over_draws_and_null_after_collapse() -> None:
    draws = [Uniformity(0.2, 0.99, 0.1), Uniformity(0.3, 0.97, 0.2)]
    metrics = uniformity_metrics("semantic", draws, 600, "cosine")
    assert metrics["semantic_tsne_density_cv"]["value"] == pytest.approx(0.25)
    assert metrics["semantic_tsne_density_cv"]["std"] == pytest.approx(0.1 / np.sqrt(2))
    protocol = metrics["semantic_tsne_gini"]["protocol"]
    assert "600 quantized semantic vectors (the codes' unit vectors" in protocol
    collapsed = uniformity_metrics("semantic", [draws[0], "only 3 distinct"], 600, "euclidean")
    assert collapsed["semantic_tsne_gini"]["value"] is None
    protocol = collapsed["semantic_tsne_gini"]["protocol"]
    assert "undefined here (only 3 distinct, in 1 of 2 draws)" in protocol
    assert "rows as they are, which Euclidean look-up compares" in protocol


def test_values_that_are_not_finite_become_null() -> None:
    entry = metric_entry("PSNR", float("nan"), "none", 1.0)
    assert json.dumps(entry, allow_nan=False)
    assert entry["value"] is None
    assert "std" not in entry
    assert entry["protocol"] == "Undefined here (the value is nan). none"


def test_a_row_of_zeros_in_use_gives_a_reason_where_directions_count() -> None:
    vectors = np.random.default_rng(1).normal(size=(8, 3))
    vectors[5] = 0
    for counts, lookup, reason in (
        (np.full(8, 4), "cosine", "the row of code 5, one of 1 such codes in use, is zero"),
        (np.where(np.arange(8) == 5, 0, 4), "cosine", ""),
        (np.full(8, 4), "euclidean", ""),
    ):
        entry = codebook_metrics("visual", counts, vectors, lookup)["visual_count_density_cv"]
        assert (entry["value"] is None) == bool(reason)
        assert reason in entry["protocol"]


@pytest.mark.parametrize("lookup", ["cosine", "euclidean"])
def test_a_collapsed_codebook_has_no_evenness_from_counts(lookup) -> None:
    vectors = np.random.default_rng(1).normal(size=(8, 3))
    metrics = codebook_metrics("visual", np.where(np.arange(8) == 3, 512, 0), vectors, lookup)
    for name in ("density_cv", "normalized_entropy", "gini"):
        assert metrics[f"visual_count_{name}"]["value"] is None
        assert "undefined here (the vectors of all" in metrics[f"visual_count_{name}"]["protocol"]


def test_vectors_that_are_not_finite_are_an_error_and_no_missing_figure() -> None:
    vectors = np.random.default_rng(1).normal(size=(8, 3))
    vectors[5, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 8 code vectors hold NaN"):
        codebook_metrics("visual", np.full(8, 4), vectors, "cosine")
