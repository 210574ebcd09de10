"""Our rows in the paper's tables: where they stand, what is subtracted, and what is refused by name."""

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest

from glotok_ray.config import override, to_dict
from glotok_ray.pretrained.generator import copy_tokenizer
from glotok_ray.recipes import table_2, train_generator, train_tokenizer
from glotok_ray.report.finished_runs import FinishedRun, evaluation_folders, read_run
from glotok_ray.report.linked_models import LinkedGenerator, LinkedTokenizer, Training
from glotok_ray.report.paper_bars import bar_chart, bars_html
from glotok_ray.report.paper_files import markdown, write_csv
from glotok_ray.report.paper_rows import belongs, row_beside
from glotok_ray.report.paper_tables import PaperTable, paper_tables
from glotok_ray.report.published import published_numbers
from glotok_ray.storage import artefact
from glotok_ray.training.counts import counts_of
from tests.report.written_evaluations import (
    ADM,
    entry,
    write_evaluation,
    write_generator,
    write_runs,
    write_sampled,
    write_tokenizer,
)

NUMBERS = published_numbers()
TRAINING = Training(10, 16, 1)


def tokenizer_of(name: str, teacher: str = "") -> LinkedTokenizer:
    run = train_tokenizer.RECIPES[name]()
    loss = to_dict(run)["loss"]
    return LinkedTokenizer(name, Path(name), run.model, 1, TRAINING, loss, teacher)


def generator_of(architecture: str, parameters: int) -> LinkedGenerator:
    return LinkedGenerator("made", Path("made"), architecture, parameters, 256, TRAINING)


@pytest.fixture
def small(tmp_path: Path) -> FinishedRun:
    return read_run(write_runs(tmp_path)[0])


def ours(table: PaperTable):
    (row,) = [row for row in table.rows if row.run is not None]
    return row


@pytest.mark.parametrize(
    ("recipe", "table", "row"),
    [
        ("glotok_16k", 1, 14),
        ("glotok_2x", 1, 15),
        ("fqgan_dual", 1, 13),
        ("llamagen_vq16", 1, 5),
        ("taming_f16_16384", 1, 1),
        ("relation_only", 1, None),
        ("quickstart", 1, None),
        ("glotok_2x", 3, 3),
        ("fqgan_dual", 3, 2),
        ("llamagen_vq16", 3, 1),
        ("relation_off_40", 4, 1),
        ("relation_01_40", 4, 2),
        ("relation_001_40", 4, 3),
        ("vanilla_dual", 5, 1),
        ("relation_only", 5, 2),
        ("glotok_16k", 5, 3),
    ],
)
def test_tokenizers_stand_beside_the_row_of_their_settings(
    small: FinishedRun, recipe: str, table: int, row: int | None
) -> None:
    run = dataclasses.replace(small, tokenizer=tokenizer_of(recipe))
    assert belongs(run, table)
    assert row_beside(run, table) == row


def test_teachers_stand_beside_theirs(small: FinishedRun) -> None:
    for teacher, row in {"vit_base_dinov2": 3, "fqgan_codebook": 1, "own": None}.items():
        run = dataclasses.replace(small, tokenizer=tokenizer_of("teacher_dinov2", teacher))
        assert belongs(run, 6)
        assert row_beside(run, 6) == row


def test_what_a_table_does_not_compare_is_not_in_it(small: FinishedRun) -> None:
    assert not belongs(dataclasses.replace(small, samples=None), 2)
    assert not belongs(dataclasses.replace(small, tokenizer=tokenizer_of("glotok_16k")), 4)
    assert not belongs(dataclasses.replace(small, tokenizer=tokenizer_of("llamagen_vq16")), 5)
    assert not belongs(dataclasses.replace(small, tokenizer=tokenizer_of("vanilla_dual")), 6)


@pytest.mark.parametrize(
    ("recipe", "architecture", "parameters", "row"),
    [
        ("glotok_16k", "xAR", 172_638_224, 18),
        ("glotok_2x", "xAR", 172_638_224, 19),
        ("glotok_16k", "xAR", 1_186_024_096, 20),
        ("glotok_16k", "xAR", 608_397_968, None),
        ("llamagen_vq16", "xAR", 172_630_000, 17),
        ("glotok_16k", "FAR", 383_550_464, 14),
        ("glotok_2x", "FAR", 417_104_896, 15),
        ("fqgan_dual", "FAR", 417_104_896, 12),
        ("fqgan_dual", "FAR", 901_195_520, 13),
        ("llamagen_vq16", "GPT", 110_888_448, 3),
    ],
)
def test_generators_stand_beside_the_row_of_their_size_and_tokenizer(
    small: FinishedRun, recipe: str, architecture: str, parameters: int, row: int | None
) -> None:
    run = dataclasses.replace(
        small,
        tokenizer=tokenizer_of(recipe),
        generator=generator_of(architecture, parameters),
    )
    assert row_beside(run, 2) == row


@pytest.mark.parametrize(
    ("architecture", "codes", "parameters", "row"),
    [
        ("GPT", 1024, 171_879_936, 1),
        ("GPT", 100_000, 509_422_592, 2),
        ("IBQ", 16384, 342_994_944, 6),
        ("IBQ", 16384, 2_063_331_840, 7),
        ("VAR", 4096, 375_258_593, 8),
        ("VAR", 4096, 310_283_520, 9),
        ("VAR", 4096, 1_033_399_360, 10),
        ("VAR", 4096, 2_010_020_356, 11),
        ("VAR", 4096, 600_000_000, None),
        ("RQ-Transformer", 16384, 480_921_088, None),
    ],
)
def test_generators_of_other_systems_stand_beside_theirs(
    small: FinishedRun, architecture: str, codes: int, parameters: int, row: int | None
) -> None:
    tokenizer = tokenizer_of("llamagen_vq16")._replace(model=None, peer="other", peer_codes=codes)
    run = dataclasses.replace(
        small, tokenizer=tokenizer, generator=generator_of(architecture, parameters)
    )
    assert row_beside(run, 2) == row
    if row is not None:
        # The sizes above are those of the recipes.
        assert counts_of(train_generator.RECIPES[table_2.ROWS[row]]()).sizes == (parameters,)


def test_numbers_of_another_protocol_are_refused_by_name(small: FinishedRun) -> None:
    tables = paper_tables([small], NUMBERS)
    assert [table.num_ours for table in tables] == [1, 1, 1, 0, 1, 0]
    row = ours(tables[0])
    assert row.beside == [
        "no row of the paper has these settings",
        "rFID: not comparable: FD-EffNet of 6 images against FID of 50,000 images",
        "PSNR: not comparable: PSNR of 6 images against PSNR of 50,000 images",
    ]
    assert row.name == "tokenizer"
    assert row.cells["rFID"].other_measure == "FD-EffNet"
    assert row.cells["PSNR"].printed == "22.5"
    assert "gFID: not comparable: FD-EffNet of 6 images" in ours(tables[1]).beside[1]
    assert ours(tables[1]).name == "generator"
    # A metric without a value is not in the table.
    assert list(ours(tables[2]).cells) == ["density CV", "normalized entropy"]
    assert (
        "density CV of 6 vectors against density CV of 10,000 vectors" in ours(tables[2]).beside[1]
    )


def test_scale_and_commit_stand_beside_every_row_of_ours(small: FinishedRun) -> None:
    row = ours(paper_tables([small], NUMBERS)[1])
    assert row.scale == (
        "6 crops; 2 classes at 16 x 16 pixels; tokenizer tokenizer: 600 parameters, 24 steps of 16 images; "
        "generator generator: 50 parameters, 7 steps of 32 images; 6 samples, guidance 6, 10 steps, seed 0; "
        f"commit {small.commit or 'not stated'}"
    )


def test_numbers_of_one_protocol_are_subtracted(tmp_path: Path) -> None:
    facts = {"network": "ADM's Inception", "reference": "the same validation crops", "crop": "ADM"}
    metrics = {
        "reconstruction_fid": entry(1.0, facts=facts),
        "reconstruction_psnr": entry(22.0),
    }
    write_tokenizer(tmp_path / "tokenizer", to_changes("glotok_2x"))
    folder = write_evaluation(
        tmp_path / "evaluation",
        metrics,
        facts=ADM,
        num_images=50000,
        tokenizer_path=tmp_path / "tokenizer",
    )
    table = paper_tables([read_run(folder)], NUMBERS)[0]
    assert ours(table).beside == [
        "rFID: +0.17 to the paper's 0.83",
        "PSNR: -0.7 to the paper's 22.7",
    ]
    assert [row.name for row in table.rows][-2:] == ["GloTok(2x)", "tokenizer"]
    chart = bar_chart(table)
    assert chart.left_out == []
    assert [bar.kind for bar in chart.bars if bar.name == "ours: tokenizer"] == ["ours"]
    assert "ours: tokenizer" in bars_html(chart)


def test_samples_drawn_otherwise_are_refused_and_what_is_not_stated_is_named(
    small: FinishedRun,
) -> None:
    facts = {"network": "ADM's Inception", "num_images": 50000}
    facts |= {"guidance": 2.7, "solver": "euler_maruyama", "steps": 50}
    facts |= {"class_sampling": "equally often"}
    fid = {**facts, "reference": "ADM's statistics of the training set"}
    metrics = {
        "samples_fid_reference": entry(2.5, facts=fid),
        "samples_inception_score": entry(270.0, facts={**facts, "order": "as in the file"}),
    }
    run = dataclasses.replace(
        small,
        metrics=metrics,
        image_size=256,
        num_classes=1000,
        tokenizer=tokenizer_of("glotok_16k"),
        generator=generator_of("xAR", 172_638_224),
    )
    assert ours(paper_tables([run], NUMBERS)[1]).beside == [
        "gFID: +0.38 to the paper's 2.12 (guidance, sampler: not stated by both)",
        "IS: not comparable: IS, order of images: as in the file against shuffled",
    ]
    far = dataclasses.replace(run, generator=generator_of("FAR", 383_550_464))
    (said,) = [line for line in ours(paper_tables([far], NUMBERS)[1]).beside if "gFID" in line]
    assert said == (
        "gFID: not comparable: FID, classes of samples: equally often against drawn at random"
    )


def to_changes(recipe: str) -> dict[str, object]:
    return {"model": train_tokenizer.RECIPES[recipe]().model}


def test_an_fid_that_does_not_state_its_network_is_comparable_with_none(small: FinishedRun) -> None:
    metrics = {"reconstruction_fid": entry(1.0)}
    run = dataclasses.replace(small, metrics=metrics, num_images=50000)
    (said,) = [line for line in ours(paper_tables([run], NUMBERS)[0]).beside if "rFID" in line]
    assert "the protocol of one is not known" in said


def test_every_measurement_has_the_mark_of_its_protocol(small: FinishedRun) -> None:
    for table in paper_tables([small], NUMBERS):
        for row in table.rows:
            for cell in row.cells.values():
                if cell.protocol.is_measurement:
                    assert table.protocols[cell.mark] == cell.protocol
                else:
                    assert cell.mark == ""
    first = paper_tables([small], NUMBERS)[0].rows
    assert first[2].cells["PSNR"].mark != first[13].cells["PSNR"].mark


def test_one_tokenizer_that_many_evaluations_measured_has_one_row(small: FinishedRun) -> None:
    again = dataclasses.replace(small, folder=Path("again"))
    assert [table.num_ours for table in paper_tables([small, again], NUMBERS)][:2] == [1, 1]
    other = dataclasses.replace(again, metrics={"reconstruction_psnr": entry(20.0)})
    assert paper_tables([small, other], NUMBERS)[0].num_ours == 2


def test_bars_leave_out_ours_that_are_not_comparable_and_say_why(small: FinishedRun) -> None:
    chart = bar_chart(paper_tables([small], NUMBERS)[0])
    assert len(chart.bars) == 15
    assert {bar.kind for bar in chart.bars} == {"paper", "peer", "other"}
    (said,) = chart.left_out
    assert said == (
        "tokenizer (evaluation): not comparable: FD-EffNet of 6 images against FID of 50,000 images"
    )
    assert [bar.printed for bar in chart.bars][-1] == "0.83"


def test_csv_and_markdown_hold_all_numbers(small: FinishedRun, tmp_path: Path) -> None:
    tables = paper_tables([small], NUMBERS)
    write_csv(tmp_path / "tables.csv", tables)
    with (tmp_path / "tables.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == sum(len(row.cells) for table in tables for row in table.rows)
    (psnr,) = [
        line
        for line in lines
        if (line["table"], line["group"], line["column"]) == ("1", "ours", "PSNR")
    ]
    assert (psnr["value"], psnr["std"], psnr["num_images"]) == ("22.5", "2.0", "6")
    assert psnr["beside"].startswith("PSNR: not comparable")
    text = markdown(tables)
    assert text.count("## Table ") == 6
    assert "| **tokenizer** | ours | 768 | FD-EffNet 1800 [s] | 22.5 \u00b1 2 [t] |" in text
    assert "| GloTok(2x) | Multi | 32,768 [" in text


def test_runs_of_older_versions_say_that_they_name_no_inputs(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "old", {"reconstruction_psnr": entry(20.0)})
    manifest = (folder / "manifest.json").read_text().replace('"config"', '"once"')
    (folder / "manifest.json").write_text(manifest)
    run = read_run(folder)
    assert run.tokenizer is None
    assert run.missing == ["old: an older version wrote it and did not note what it measured"]


def test_linked_folders_that_are_gone_are_named(tmp_path: Path) -> None:
    (folder,) = write_runs(tmp_path)
    (tmp_path / "generator").rename(tmp_path / "moved")
    run = read_run(folder)
    assert run.generator is None
    assert run.tokenizer is not None
    assert "generator: holds no finished generator" in run.missing[0]


def test_the_tokenizer_in_a_generator_s_folder_says_what_decoded_its_samples(
    tmp_path: Path,
) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    recipe = train_tokenizer.RECIPES["glotok_16k"]()
    artefact.write_json(tmp_path / "tokenizer" / "config.json", to_dict(recipe))
    write_generator(tmp_path / "generator")
    copy_tokenizer(tmp_path / "tokenizer", tmp_path / "generator")
    write_sampled(tmp_path / "samples", tmp_path / "generator", None)
    metrics = {"samples_fd_effnet": entry(3400.0)}
    evaluation = tmp_path / "evaluation"
    write_evaluation(evaluation, metrics, samples_path=tmp_path / "samples")
    run = read_run(evaluation)
    assert run.missing == []
    assert run.tokenizer is not None
    assert run.tokenizer.name == "glotok_16k"
    full_size = dataclasses.replace(run, generator=generator_of("xAR", 172_638_224))
    assert row_beside(full_size, 2) == 18
    shutil.rmtree(tmp_path / "generator" / "tokenizer")
    without = read_run(evaluation)
    assert without.tokenizer is None
    assert "config.json: no such file" in without.missing[0]


def test_folders_above_evaluations_stand_for_them(tmp_path: Path) -> None:
    (folder,) = write_runs(tmp_path)
    assert evaluation_folders([tmp_path]) == [folder]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("evaluation", "evaluation"), "is given twice"),
        (("evaluation", "."), "is given twice"),
        (("tokenizer",), "holds no metrics.json of an evaluation"),
        (("none",), "no such folder"),
        (("unfinished",), r"is unfinished \(no manifest.json\)"),
    ],
)
def test_folders_that_are_no_evaluations_are_refused(tmp_path: Path, given, said: str) -> None:
    write_runs(tmp_path)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=said):
        evaluation_folders([tmp_path / name for name in given])


def test_missing_evaluations_can_be_left_out_unless_all_are(tmp_path: Path) -> None:
    (folder,) = write_runs(tmp_path)
    assert evaluation_folders([tmp_path / "none", folder], skip_missing=True) == [folder]
    with pytest.raises(ValueError, match="none is a finished evaluation"):
        evaluation_folders([tmp_path / "none"], skip_missing=True)


def test_settings_of_this_file_are_those_of_recipes() -> None:
    run = override(train_tokenizer.quickstart(), to_changes("glotok_2x"))
    assert [codebook.size for codebook in run.model.codebooks] == [16384, 16384]
