"""The report of the paper's tables: its files, its page, and its answers to bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glotok_ray.config.report import ReportRun
from glotok_ray.report.paper_page import MOST_BYTES
from glotok_ray.stages import report_results
from jobs import report_results as job
from tests.report.page_reader import PageReader
from tests.report.written_evaluations import entry, write_evaluation, write_runs


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one evaluation; its folder."""
    root = tmp_path_factory.mktemp("report")
    (evaluation,) = write_runs(root)
    config = ReportRun(evaluations=(str(evaluation),), output_path=str(root / "report"))
    manifest = report_results.run(config)
    assert manifest["rows"] == {
        "Table 1": 1,
        "Table 2": 1,
        "Table 3": 1,
        "Table 4": 0,
        "Table 5": 1,
        "Table 6": 0,
    }
    assert report_results.run(config) == manifest
    return root / "report"


def test_the_folder_has_a_page_tables_and_figures(written: Path) -> None:
    files = json.loads((written / "manifest.json").read_text())["files"]
    assert set(files) == {
        "index.html",
        "tables.csv",
        "tables.md",
        "figures/figure_1.png",
        "figures/01_evaluation_reconstructions.png",
        "figures/01_evaluation_retention.png",
        "figures/01_evaluation_samples.png",
    }
    assert np.asarray(Image.open(written / "figures" / "figure_1.png")).std() > 0


def test_the_page_needs_nothing_else_and_escapes_all_text(written: Path) -> None:
    page = (written / "index.html").read_text(encoding="utf-8")
    assert len(page.encode()) < MOST_BYTES
    reader = PageReader(page)
    assert all(load.startswith(("data:image/", "#")) for load in reader.loads)
    assert not reader.all("script")
    assert "<i>how</i>" in reader.text
    assert "<b>cats</b>" in reader.text
    images = reader.all("img")
    # Six samples; six crops, reconstructions and differences; inputs, all codes and one codebook of each.
    assert len(images) == 6 + 18 + 18
    assert all(image["alt"] for image in images)
    assert [*reader.sections] == [
        "bars",
        *(f"table-{number}" for number in range(1, 7)),
        "samples",
        "retention",
        "reconstructions",
    ]


def test_the_page_says_which_two_numbers_were_met(written: Path) -> None:
    text = PageReader((written / "index.html").read_text(encoding="utf-8")).text
    assert "not comparable: FD-EffNet of 6 images against FID of 50,000 images" in text
    assert "No run of ours is in this table" in text
    assert "No run kept" not in text


def test_figures_without_images_name_the_command_that_makes_them(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "bare", {"samples_fd_effnet": entry(3.0)})
    config = ReportRun(evaluations=(str(folder),), output_path=str(tmp_path / "report"))
    report_results.run(config)
    text = PageReader((tmp_path / "report" / "index.html").read_text(encoding="utf-8")).text
    for said in ("No run has samples", "No run kept reconstructions", "No run kept images of one"):
        assert said in text
    assert text.count("python -m jobs.evaluate_images glotok_16k") >= 2


def call(*arguments: str, caplog: Any) -> str:
    caplog.clear()
    assert job.main(list(arguments)) == 2
    (message,) = caplog.messages
    assert "\n" not in message
    return message


def test_bad_input_is_one_line(tmp_path: Path, caplog: Any) -> None:
    (folder,) = write_runs(tmp_path)
    root = ("--storage-root", str(tmp_path))
    said = call(str(folder), "evaluation", *root, caplog=caplog)
    assert "evaluation: is given twice; name each evaluation once" in said
    assert "holds no metrics.json" in call("tokenizer", *root, caplog=caplog)
    assert "no such folder" in call("nowhere", *root, caplog=caplog)
    assert "must be one recipe (paper, quickstart) or folders" in call(
        "paper", "evaluation", *root, caplog=caplog
    )
    metrics = folder / "metrics.json"
    metrics.write_text(metrics.read_text() + " ")
    assert "metrics.json: differs from its sha256" in call("evaluation", *root, caplog=caplog)
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_what_would_be_reported_and_writes_nothing(
    tmp_path: Path, capsys: Any
) -> None:
    (folder,) = write_runs(tmp_path)
    assert job.main(["evaluation", "--dry-run", "--storage-root", str(tmp_path)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["evaluations"] == [str(folder)]
    assert answer["rows"]["Table 2"] == 1
    assert answer["output_path"] == str(tmp_path / "runs" / "report")
    assert answer["missing"] == []
    assert not (tmp_path / "runs").exists()


def test_recipes_name_folders_below_the_storage_root(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_runs(tmp_path / "runs" / "quickstart")
    # Folders of the same names in the directory of the call are not the recipe's.
    here = tmp_path / "here"
    for name in ("quickstart", "xar_h_evaluation"):
        write_runs(here / "runs" / name)
    monkeypatch.chdir(here)
    for recipe, output in (("quickstart", "quickstart_report"), ("paper", "report")):
        if recipe == "paper":
            (tmp_path / "runs" / "quickstart" / "evaluation").rename(
                tmp_path / "runs" / "xar_h_evaluation"
            )
        flags = [recipe, "--dry-run", "--storage-root", str(tmp_path)]
        assert job.main(flags) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["output_path"] == str(tmp_path / "runs" / output)
        (found,) = answer["evaluations"]
        assert Path(found).is_relative_to(tmp_path / "runs")


def test_a_report_of_other_evaluations_is_not_overwritten(tmp_path: Path) -> None:
    (folder,) = write_runs(tmp_path)
    config = ReportRun(evaluations=(str(folder),), output_path=str(tmp_path / "report"))
    report_results.run(config)
    other = write_evaluation(tmp_path / "other", {"reconstruction_psnr": entry(1.0)})
    changed = ReportRun(evaluations=(str(other),), output_path=str(tmp_path / "report"))
    with pytest.raises(ValueError, match="made by other settings or inputs"):
        report_results.run(changed)
    report_results.run(changed, fresh=True)
    assert (tmp_path / "report.previous" / "index.html").is_file()
