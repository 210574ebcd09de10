"""report.html: self-contained, escaped, complete, and honest about what is missing."""

import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest

from glotok_ray.report import relation_section
from glotok_ray.report.inputs import collect
from glotok_ray.report.page import MOST_BYTES, render, write_report
from glotok_ray.report.sections import SECTIONS
from tests.report.page_reader import PageReader
from tests.report.written_run import HOSTILE, write_run, write_samples, write_training


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    inputs = collect(folder)
    assert inputs.missing == []
    write_report(folder / "report.html", inputs)
    assert 0 < (folder / "report.png").stat().st_size < 300_000
    return (folder / "report.html").read_text(encoding="utf-8")


def _page_of(folder: Path) -> PageReader:
    return PageReader(render(collect(folder)))


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    reader = PageReader(page)
    assert len(reader.loads) > 20
    assert all(load.startswith(("data:image/", "#")) for load in reader.loads)
    assert not re.search(r"url\(|@import|<link|<iframe|http", page)


def test_user_text_is_never_markup(page: str) -> None:
    reader = PageReader(page)
    assert not reader.all("script")
    assert "<script" not in page
    # Class name, metric label and protocol, stage, config and version show it as text.
    assert reader.text.count(HOSTILE) >= 5


def test_every_section_is_there_and_filled(page: str) -> None:
    reader = PageReader(page)
    assert reader.sections == list(SECTIONS)
    assert {f"#{name}" for name in SECTIONS} <= set(reader.loads)
    assert "Missing from this run" not in page
    assert 'class="missing"' not in page
    # Three and four rows of six crops, four real crops and three samples of two classes, two baselines.
    assert page.count("data:image/png") == 3 * 6 + 4 * 6 + 2 * 4 + 6 + 6 + 2 * 6
    # Histograms, four curves in front, three of each of four trainings, code use.
    assert page.count("<svg") == 1 + 4 + 3 * 4 + 1


def test_pictures_come_before_numbers_and_details_are_folded(page: str) -> None:
    reader = PageReader(page)
    assert list(SECTIONS)[:3] == ["reconstructions", "samples", "retention"]
    assert page.index("<img") < page.index("<table")
    folded = [name for name, section in SECTIONS.items() if section.is_folded]
    assert {"metrics", "stages", "config", "versions"} <= set(folded)
    assert all(f'<section id="{name}"><details><summary>' in page for name in folded)
    assert not any("open" in values for values in reader.all("details"))


def test_every_image_says_what_it_shows(page: str) -> None:
    reader = PageReader(page)
    assert all(values["alt"] for values in reader.all("img"))
    assert all(values["role"] == "img" and values["aria-label"] for values in reader.all("svg"))
    assert "Samples of xAR: plain, 1" in {values["alt"] for values in reader.all("img")}


def test_light_and_dark_and_narrow_are_styled(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert '<meta name="color-scheme" content="light dark">' in page
    assert "@media (max-width:" in page
    # No colour outside the style sheet: charts follow it.
    assert not re.search(r"(fill|stroke)=\"", page)


def test_the_summary_speaks_of_the_figures(page: str) -> None:
    text = PageReader(page).text
    assert "21.50 dB PSNR and 0.610 SSIM" in text
    assert "from 0.5 to 0.001" in text
    assert (
        "Samples of xAR lie at FD-EffNet 30.0 from the validation crops, closer than both" in text
    )
    assert "Samples of FAR lie at FD-EffNet 70.0 from the validation crops, not closer" in text
    assert "1.0 minutes" in text
    assert "undefined" in text


def test_the_header_has_the_numbers_of_the_run(page: str) -> None:
    header = PageReader(page[page.index("<header>") : page.index("</header>")]).text
    assert "On 10 images of 16 \u00d7 16 pixels in 2 classes" in header
    assert "21.5 dB" in header
    assert "70 % \u00b7 60 %of the samples of xAR and FAR" in header
    assert "(chance: 50 %)" in header
    assert "400\u00d7closer" in header
    assert "1.0 minfor the 1 stages" in header


def test_what_each_codebook_holds_is_told_by_frequency_and_colour(page: str) -> None:
    section = page[page.index('id="retention"') : page.index('id="relation"')]
    assert "The same by frequency and colour" in section
    dashes = '<td class="number">\u2013</td>'
    assert f'<tr><td>All codes</td>{4 * dashes}<td class="number">26.2</td>' in section
    assert f'<tr><td>Visual only</td>{6 * dashes}<td class="number">31.5</td></tr>' in section
    assert f'<tr><td>Mid-grey</td>{4 * dashes}<td class="number">24.8</td>' in section


def test_the_twins_stand_side_by_side(page: str) -> None:
    relation = page[page.index('id="relation"') : page.index('id="curves"')]
    text = PageReader(relation).text
    assert "lies 400 times closer to the teacher's" in text
    assert "without the relation loss" in text
    assert '<td class="number better">3.000<small>\u00b1 0.5</small></td>' in relation
    assert '<td class="number">9.000<small>\u00b1 0.5</small></td>' in relation


@pytest.mark.parametrize(
    ("path", "note"),
    [
        ("tokenizer/relation.json", "This run has no relation histograms."),
        ("twin/relation.json", "This run has no tokenizer without the relation loss."),
        ("evaluation/retention.npz", "This run kept no images decoded from one codebook alone."),
        ("evaluation/reconstructions.npz", "This run kept no reconstructions."),
        ("evaluation/metrics.json", "This run has no metrics."),
        ("evaluation/code_counts.npz", "This run has no code counts."),
        ("samples/samples.npz", ""),
        ("far_samples/samples.npz", ""),
        ("data/train/dataset.json", ""),
        ("far/metrics.jsonl", "This run has no metrics.jsonl of its training: FAR."),
        ("twin/metrics.jsonl", "This run has no metrics.jsonl of its training: Tokenizer without"),
        ("stages.json", "This run kept no stage times."),
        ("config.json", "This run kept no config."),
        ("versions.json", "This run kept no versions."),
    ],
)
def test_a_part_that_is_missing_is_named_and_the_others_stay(
    path: str, note: str, tmp_path: Path
) -> None:
    write_run(tmp_path)
    (tmp_path / path).unlink()
    reader = _page_of(tmp_path)
    assert reader.sections == list(SECTIONS)
    assert path.removesuffix("/dataset.json") in reader.text
    assert note in reader.text


def test_missing_parts_are_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "tokenizer" / "relation.json").unlink()
    (tmp_path / "samples" / "samples.npz").write_bytes(b"not an archive")
    inputs = collect(tmp_path)
    assert inputs.relation is None
    assert inputs.samples is None
    text = _page_of(tmp_path).text
    assert "tokenizer/relation.json: no such file" in text
    assert "samples/samples.npz" in text
    assert "This run has no relation histograms." in text


def test_an_empty_folder_still_gives_every_section(tmp_path: Path) -> None:
    reader = _page_of(tmp_path)
    assert reader.sections == list(SECTIONS)
    assert reader.text.count("This run") >= len(SECTIONS)
    write_report(tmp_path / "report.html", collect(tmp_path))
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "report.png").exists()


def test_a_page_that_was_cut_off_while_it_was_written_is_not_there(tmp_path: Path) -> None:
    write_run(tmp_path)
    for path in tmp_path.rglob("*.npz"):
        path.unlink()  # no picture then, and the page alone meets the limit
    inputs = collect(tmp_path)
    size = len(render(inputs).encode())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_report(tmp_path / "report.html", inputs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in tmp_path.iterdir() if "report" in path.name]


def test_the_page_is_the_last_file_of_a_report(tmp_path: Path) -> None:
    write_run(tmp_path)
    inputs = collect(tmp_path)
    (tmp_path / "report.png").mkdir()  # so that the picture cannot be written
    with pytest.raises(OSError, match=r"report\.png"):
        write_report(tmp_path / "report.html", inputs)
    assert not (tmp_path / "report.html").exists()


def test_many_classes_are_cut_and_the_page_stays_small(tmp_path: Path) -> None:
    write_run(tmp_path)
    classes = [f"class_{number}" for number in range(30)]
    labels = sorted(range(30)) * 8
    write_training(tmp_path, classes, side=64)
    (tmp_path / "data/train/dataset.json").write_text(json.dumps({"classes": classes}))
    for name in ("samples", "far_samples"):
        write_samples(tmp_path / name, labels, side=64)
    page = render(collect(tmp_path))
    reader = PageReader(page)
    assert "24 of 30 classes" in reader.text
    assert "class 23" in reader.text
    assert "class 24" not in reader.text
    assert 3_000_000 < len(page.encode()) <= MOST_BYTES < 5_000_000
    assert "data:image/jpeg" in page


def test_large_images_are_kept_no_larger_than_the_page_shows_them(tmp_path: Path) -> None:
    write_run(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, size=(2, 256, 256, 3), dtype=np.uint8)
    np.savez(tmp_path / "evaluation/reconstructions.npz", inputs=images, reconstructions=images)
    assert len(render(collect(tmp_path)).encode()) < 1_000_000


@pytest.mark.parametrize(("deviation", "side"), [(0.2, True), (2.0, None), (None, None)])
def test_of_one_crop_no_side_is_the_better_one(deviation: float | None, side: bool | None) -> None:
    (psnr,) = (item for item in relation_section._MEASURES if item.metric == "reconstruction_psnr")
    values = (relation_section._Value(mean, deviation) for mean in (23.0, 22.0))
    assert relation_section._better(relation_section._Row(psnr, *values)) is side


@pytest.mark.parametrize(("first", "second", "side"), [(0.996, 1.0, None), (0.98, 1.0, False)])
def test_equal_numbers_as_shown_have_no_better_side(
    first: float, second: float, side: bool | None
) -> None:
    (usage,) = (item for item in relation_section._MEASURES if item.metric == "semantic_usage")
    values = (relation_section._Value(mean) for mean in (first, second))
    assert relation_section._better(relation_section._Row(usage, *values)) is side


def test_near_duplicates_are_those_of_the_evaluation(tmp_path: Path) -> None:
    """The log's last value that is finite may be one of before."""
    write_run(tmp_path)
    for name, value in (("evaluation", 0.25), ("twin_evaluation", None)):
        path = tmp_path / name / "metrics.json"
        found = {"label": "Near duplicates", "value": value, "protocol": "p"}
        path.write_text(json.dumps({**json.loads(path.read_text()), "semantic_duplicates": found}))
    for name in ("tokenizer", "twin"):
        lines = [{"step": 1, "eval/semantic_duplicates": 0.5}, {"step": 2}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    page = render(collect(tmp_path))
    section = page[page.index('id="relation"') : page.index('id="curves"')]
    row = section[section.index("Near duplicates") :]
    assert PageReader(row[: row.index("</tr>")]).text.endswith("25.0 %\u2013")
