"""report.html: self-contained, escaped, complete, and honest about what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from glotok_ray.report.inputs import collect
from glotok_ray.report.page import write_report
from glotok_ray.report.sections import SECTIONS
from glotok_ray.storage import artefact

HOSTILE = '<script>alert("x")</script>'


def write_run(folder: Path) -> None:
    """The files of a finished quickstart, tiny, with markup wherever a user's text can appear."""
    generator = np.random.default_rng(0)
    names = ("data/train", "tokenizer", "generator", "samples", "far", "far_samples", "evaluation")
    for name in (*names, "far_evaluation"):
        (folder / name).mkdir(parents=True)
    images = generator.integers(0, 256, size=(6, 16, 16, 3), dtype=np.uint8)
    artefact.write_json(folder / "data/train/dataset.json", {"classes": [HOSTILE, "plain"]})
    labels = pyarrow.table({"key": [str(index) for index in range(6)], "label": [0, 1] * 3})
    for name in ("samples", "far_samples"):
        np.savez(folder / name / "samples.npz", arr_0=images)
        pyarrow.parquet.write_table(labels, folder / name / "samples.parquet")
    np.savez(folder / "evaluation/reconstructions.npz", inputs=images, reconstructions=images)
    np.savez(folder / "evaluation/code_counts.npz", semantic=np.arange(8), visual=np.arange(8))
    for name in ("baseline_uniform", "baseline_marginal"):
        np.savez(folder / f"evaluation/{name}.npz", images=images)
    metric = {"label": HOSTILE, "value": 21.5, "protocol": HOSTILE, "std": 0.5}
    metrics = {
        name: {**metric, "value": value}
        for name, value in {
            "reconstruction_psnr": 21.5,
            "reconstruction_ssim": 0.61,
            "samples_fd_effnet": 30.0,
            "baseline_uniform_fd_effnet": 90.0,
            "baseline_marginal_fd_effnet": 60.0,
            "semantic_tsne_gini": None,
        }.items()
    }
    artefact.write_json(folder / "evaluation/metrics.json", metrics)
    far = {"samples_fd_effnet": {**metric, "value": 70.0}}
    artefact.write_json(folder / "far_evaluation/metrics.json", far)
    lines = [{"step": step, "train/total": 1 / (step + 1), HOSTILE: 1} for step in range(4)]
    lines.append({"step": 4, "eval/psnr": 20.0})
    for name in ("tokenizer", "generator", "far"):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / name / "metrics.jsonl").write_text(text + '{"step": 5, "tr')
    histogram = [0.2, 0.5, 0.3]
    relation = {"bins": [-1, 0, 1], "kl_initial": 0.5, "kl_final": 0.001}
    relation |= dict.fromkeys(("teacher", "student_initial", "student_final"), histogram)
    artefact.write_json(folder / "tokenizer/relation.json", relation)
    stage = {"stage": "data", "summary": HOSTILE, "seconds": 61.0, "status": "made", "folder": "f"}
    artefact.write_json(folder / "stages.json", [stage])
    artefact.write_json(folder / "config.json", {"data": {"source": HOSTILE}})
    artefact.write_json(folder / "versions.json", {"ray": HOSTILE})


class _Reader(HTMLParser):
    """Collects what a browser would load, the tags, the section ids and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.loads += [str(values[name]) for name in ("src", "href", "srcset") if name in values]
        if tag == "section":
            self.sections.append(str(values["id"]))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    inputs = collect(folder)
    assert inputs.missing == []
    write_report(folder / "report.html", inputs)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    reader = _Reader(page)
    assert len(reader.loads) > 20
    assert all(load.startswith(("data:image/", "#")) for load in reader.loads)
    assert not re.search(r"url\(|@import|<link|<iframe", page)


def test_user_text_is_never_markup(page: str) -> None:
    reader = _Reader(page)
    assert "script" not in reader.tags
    # Class name, metric label and protocol, stage, config and version show it as text.
    assert reader.text.count(HOSTILE) >= 5


def test_every_section_is_there_and_filled(page: str) -> None:
    reader = _Reader(page)
    assert reader.sections == list(SECTIONS)
    assert {f"#{name}" for name in SECTIONS} <= set(reader.loads)
    assert "Missing from this run" not in page
    assert 'class="missing"' not in page
    assert page.count("data:image/png") == 6 + 6 + 6 + 2 * 6
    assert page.count("data:image/svg+xml") == 3 * 2 + 1 + 1


def test_the_summary_speaks_of_the_figures(page: str) -> None:
    text = _Reader(page).text
    assert "21.50 dB PSNR and 0.610 SSIM" in text
    assert "from 0.5 to 0.001" in text
    assert (
        "Samples of xAR lie at FD-EffNet 30.0 from the validation crops, closer than both" in text
    )
    assert "Samples of FAR lie at FD-EffNet 70.0 from the validation crops, not closer" in text
    assert "1.0 minutes" in text
    assert "undefined" in text


def test_missing_parts_are_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "tokenizer" / "relation.json").unlink()
    (tmp_path / "samples" / "samples.npz").write_bytes(b"not an archive")
    inputs = collect(tmp_path)
    assert inputs.relation is None
    assert inputs.samples is None
    write_report(tmp_path / "report.html", inputs)
    text = _Reader((tmp_path / "report.html").read_text()).text
    assert "tokenizer/relation.json: no such file" in text
    assert "samples/samples.npz" in text
    assert "This run has no relation histograms." in text


def test_an_empty_folder_still_gives_every_section(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", collect(tmp_path))
    reader = _Reader((tmp_path / "report.html").read_text())
    assert reader.sections == list(SECTIONS)
    assert reader.text.count("This run") >= len(SECTIONS)
