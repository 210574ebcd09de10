"""The teacher's histogram: re-binning against the literal equations, round trips, and what a narrow
student can reach.
"""

import json
import logging
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glotok_ray.config import RelationConfig
from glotok_ray.losses import relation as relation_loss
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.teacher import histogram
from glotok_ray.teacher.histogram import TeacherHistogram


def centroids(count: int = 60, width: int = 5, shift: float = 0.3) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0)) + shift


def teacher(codes: Tensor, fine_bins: int = 8192) -> TeacherHistogram:
    return histogram.build_histogram(codes, fine_bins=fine_bins, provenance={"source": "test"})


def literal(codes: Tensor, relation: RelationConfig) -> Tensor:
    """Eqs. 4-6 written out in fp64: every pair, every bin."""
    unit = codes.double() / codes.double().norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(
        len(unit), len(unit), offset=0 if relation.include_diagonal else 1
    )
    cosines = (unit[first] * unit[second]).sum(1)
    bins = torch.linspace(-1, 1, relation.num_bins, dtype=torch.float64)
    counts = torch.exp(-relation.sharpness * (cosines[:, None] - bins).square()).sum(0)
    return counts / (counts.sum() if relation.normalization == "sum" else counts.norm())


@pytest.mark.parametrize("alpha", ["bin_width", 20.0, 400.0])
@pytest.mark.parametrize("num_bins", [7, 40, 128])
@pytest.mark.parametrize("include_diagonal", [False, True])
def test_rebinned_equals_the_literal_histogram(
    num_bins: int, alpha: float | Literal["bin_width"], include_diagonal: bool
) -> None:
    relation = RelationConfig(num_bins=num_bins, alpha=alpha, include_diagonal=include_diagonal)
    codes = centroids()
    expected = literal(codes, relation)
    # The linear split's error is at most delta^2 * alpha / 4 of the kernel (delta = 2 / fine_bins),
    # plus fp32 rounding of the nodes.
    bound = 1e-6 + relation.sharpness * (2 / 8192) ** 2
    error = (teacher(codes).distribution(relation).double() - expected).norm() / expected.norm()
    assert error < bound


def test_algorithm_1_norm_is_available() -> None:
    relation = RelationConfig(normalization="l2")
    distribution = teacher(centroids()).distribution(relation)
    assert float(distribution.norm()) == pytest.approx(1, rel=1e-6)
    torch.testing.assert_close(
        distribution.double(), literal(centroids(), relation), rtol=1e-4, atol=1e-6
    )


def test_distribution_is_what_the_student_with_these_codes_has() -> None:
    relation = RelationConfig()
    student = relation_loss.codebook_histogram(centroids(), relation)
    torch.testing.assert_close(
        teacher(centroids()).distribution(relation), student.float(), rtol=1e-4, atol=1e-7
    )


def test_too_few_nodes_are_refused_with_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"alpha = 190.1 \(40 bins\): the teacher's 100 stored.*--fine-bins 1379"
    ):
        teacher(centroids(), fine_bins=100).distribution(RelationConfig())


def test_counts_are_the_pairs() -> None:
    assert float(teacher(centroids(60)).fine_histogram.sum()) == pytest.approx(
        60 * 59 / 2, rel=1e-6
    )


def test_round_trip(tmp_path: Path) -> None:
    saved = teacher(centroids())
    histogram.save_teacher(tmp_path, saved)
    artefact.write_manifest(tmp_path, "teacher")
    loaded = histogram.load_teacher(tmp_path)
    assert torch.equal(loaded.centroids, saved.centroids)
    assert torch.equal(loaded.fine_histogram, saved.fine_histogram)
    assert loaded.provenance == {"source": "test"}
    facts = artefact.read_json(tmp_path / "teacher.json")
    assert (facts["num_clusters"], facts["width"], facts["fine_bins"]) == (60, 5, 8192)
    assert [check["width"] for check in facts["floor_checks"]] == [4, 8, 16, 32, 64]
    assert facts["versions"]["torch"] == artefact.versions()["torch"]
    assert facts["similarity_std"] == pytest.approx(saved.similarity().std)


def test_a_damaged_teacher_is_refused(tmp_path: Path) -> None:
    histogram.save_teacher(tmp_path, teacher(centroids()))
    artefact.write_manifest(tmp_path, "teacher")
    (tmp_path / "teacher.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"teacher\.json"):
        histogram.load_teacher(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_clusters": 61}, r"num_clusters = 61, but there are 60"),
        ({"width": 6}, r"width = 6, but there are 5"),
        ({"fine_bins": 100}, r"fine_bins = 100, but there are 8192"),
        ({"fine_histogram": [0.0] * 8192 + [1.0]}, r"counts 1 pairs, and 60 centroids have 1770"),
        (
            {"fine_histogram": [0.0] * 8192 + [1770.0]},
            r"mean cosine 1\.0000, and the centroids have",
        ),
        ({"fine_histogram": [float("nan")] * 8193}, r"fine_histogram \(8,193 of 8,193 values\)"),
    ],
)
def test_files_of_different_teachers_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    histogram.save_teacher(tmp_path, teacher(centroids()))
    facts = {**artefact.read_json(tmp_path / "teacher.json"), **change}
    (tmp_path / "teacher.json").write_text(json.dumps(facts))
    artefact.write_manifest(tmp_path, "teacher")
    with pytest.raises(ArtefactError, match=message):
        histogram.load_teacher(tmp_path)


@pytest.mark.parametrize(
    "field", ["fine_bins", "fine_histogram", "num_clusters", "width", "provenance"]
)
def test_a_field_that_is_missing_or_of_another_type_is_named(tmp_path: Path, field: str) -> None:
    histogram.save_teacher(tmp_path, teacher(centroids()))
    path = tmp_path / "teacher.json"
    facts = artefact.read_json(path)
    kept = facts.pop(field)
    others = (f"lacks the field '{field}'", facts), (f"{field} is of type str", {field: "7"})
    for said, change in others:
        path.write_text(json.dumps({**facts, **change}))
        artefact.write_manifest(tmp_path, "teacher")
        with pytest.raises(ArtefactError, match=rf"teacher\.json: {said}.*--fresh"):
            histogram.load_teacher(tmp_path)
    path.write_text(json.dumps({**facts, field: kept}))
    artefact.write_manifest(tmp_path, "teacher")
    histogram.load_teacher(tmp_path)


@pytest.mark.parametrize("content", [[], {"fine_histogram": ["a"]}, {"fine_histogram": [[1.0]]}])
def test_facts_of_another_kind_are_refused(tmp_path: Path, content: object) -> None:
    histogram.save_teacher(tmp_path, teacher(centroids()))
    path = tmp_path / "teacher.json"
    if isinstance(content, dict):
        content = {**artefact.read_json(path), **content}
    path.write_text(json.dumps(content))
    artefact.write_manifest(tmp_path, "teacher")
    with pytest.raises(
        ArtefactError, match=r"teacher\.json: .*(JSON object|than numbers).*--fresh"
    ):
        histogram.load_teacher(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"codes": torch.ones(60, 5)}, "no tensor 'centroids'"),
        ({"centroids": torch.ones(300)}, r"shape \(300,\)"),
        ({"centroids": torch.ones(60, 5, dtype=torch.int64)}, "int64"),
        (None, "no tensor 'centroids'"),
    ],
)
def test_a_file_without_centroids_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor] | None, message: str
) -> None:
    histogram.save_teacher(tmp_path, teacher(centroids()))
    path = tmp_path / "teacher.safetensors"
    if tensors is None:
        path.write_bytes(b"no tensors")
    else:
        save_file(tensors, path)
    artefact.write_manifest(tmp_path, "teacher")
    with pytest.raises(ArtefactError, match=rf"teacher\.safetensors: .*{message}.*--fresh"):
        histogram.load_teacher(tmp_path)


def test_similarity_is_that_of_the_pairs() -> None:
    unit = torch.nn.functional.normalize(centroids().double(), dim=1)
    first, second = torch.triu_indices(60, 60, offset=1)
    cosines = (unit[first] * unit[second]).sum(1)
    facts = teacher(centroids()).similarity()
    assert facts.mean == pytest.approx(float(cosines.mean()), rel=1e-9)
    assert facts.std == pytest.approx(float(cosines.std(correction=0)), rel=1e-9)


def test_narrowest_std_is_attained_by_orthogonal_and_opposite_axes() -> None:
    # An orthonormal basis: every pair has cosine 0.
    assert histogram.narrowest_std(0.0, width=8, size=8) == pytest.approx(0, abs=1e-12)
    # The basis and its negative: tight, so the bound is attained.
    codes = torch.cat([torch.eye(8), -torch.eye(8)])
    facts = histogram.similarity_facts(codes)
    assert histogram.narrowest_std(facts.mean, width=8, size=16) == pytest.approx(
        facts.std, rel=1e-9
    )


def test_narrowest_std_is_attained_by_a_cone() -> None:
    # One shared axis and an orthogonal tight frame: eigenvalues of the Gram matrix are s*m once,
    # equal otherwise.
    shared = math.sqrt(0.4)
    frame = torch.cat([torch.eye(7), -torch.eye(7)]).double() * math.sqrt(1 - 0.4)
    codes = torch.cat([torch.full((14, 1), shared, dtype=torch.float64), frame], dim=1)
    facts = histogram.similarity_facts(codes)
    assert histogram.narrowest_std(facts.mean, width=8, size=14) == pytest.approx(
        facts.std, rel=1e-9
    )


@pytest.mark.parametrize(("mean", "expected"), [(0.0, 0.354), (0.3, 0.265), (0.5, 0.189)])
def test_narrowest_std_of_a_large_codebook(mean: float, expected: float) -> None:
    assert histogram.narrowest_std(mean, width=8, size=10**6) == pytest.approx(expected, abs=6e-4)


def test_a_wide_narrow_teacher_is_out_of_reach(caplog: pytest.LogCaptureFixture) -> None:
    wide = teacher(centroids(300, 256, shift=0.0))
    with caplog.at_level(logging.WARNING):
        assert not wide.reachable(width=8, size=4096)
    assert "--project-width 8" in caplog.text
    assert wide.reachable(width=256, size=300)


def test_floor_check_tells_the_numbers() -> None:
    wide = teacher(centroids(300, 256, shift=0.0))
    check = wide.floor_check(width=8, size=4096)
    assert (check.width, check.size, check.reachable) == (8, 4096, False)
    assert check.smallest_std == histogram.narrowest_std(check.mean, width=8, size=4096)
    assert (check.mean, check.std) == wide.similarity()


def test_a_teacher_that_attains_the_bound_is_reachable() -> None:
    # Opposite axes: 28 * 4 pairs of cosine 0 and 8 of -1, so mean -1/15 and second moment 1/15.
    check = teacher(torch.cat([torch.eye(8), -torch.eye(8)])).floor_check(width=8, size=16)
    assert check.mean == pytest.approx(-1 / 15)
    assert check.smallest_std == pytest.approx(math.sqrt(1 / 15 - 1 / 225), rel=1e-9)
    assert check.reachable
    # One dimension less, with a mean below 1/7, needs a second moment (16/7 - 1) / 15.
    narrow = teacher(torch.cat([torch.eye(8), -torch.eye(8)])).floor_check(width=7, size=16)
    assert narrow.smallest_std == pytest.approx(math.sqrt(9 / 105 - 1 / 225), rel=1e-9)
    assert not narrow.reachable


def test_projection_goes_by_directions_not_by_lengths() -> None:
    # Three directions near axis 0 and a long one on axis 1: by length, axis 1 would come first.
    codes = torch.tensor([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [0.1, 100.0]])
    one_axis = teacher(codes).projected(1).centroids[:, 0]
    assert bool((one_axis[:3].abs() > 0.9).all())
    assert float(one_axis.abs().max()) <= 1


def test_projection_keeps_the_cosines_of_a_teacher_that_lies_in_few_dimensions() -> None:
    axes = torch.linalg.qr(torch.randn(40, 5, generator=torch.Generator().manual_seed(1)))[0]
    flat = centroids(60, 5)
    wide = teacher(flat @ axes.T)
    projected = wide.projected(5)
    assert projected.centroids.shape == (60, 5)
    assert projected.provenance["projected_to"] == 5
    assert projected.provenance["projection_kept_share"] == pytest.approx(1, abs=1e-5)
    assert projected.similarity().std == pytest.approx(wide.similarity().std, rel=1e-4)
    relation = RelationConfig()
    torch.testing.assert_close(
        projected.distribution(relation), teacher(flat).distribution(relation), rtol=1e-3, atol=1e-6
    )


def test_projection_brings_a_wide_teacher_within_reach() -> None:
    wide = teacher(centroids(300, 256, shift=0.0))
    assert not wide.floor_check(width=8, size=300).reachable
    assert wide.projected(8).floor_check(width=8, size=300).reachable
    with pytest.raises(ValueError, match="project_width = 300"):
        wide.projected(300)


@pytest.mark.parametrize(
    "codes",
    [torch.ones(1, 3), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.full((2, 2), torch.nan)],
)
def test_bad_centroids_are_refused(codes: Tensor) -> None:
    with pytest.raises(ValueError, match="centroids"):
        teacher(codes)
