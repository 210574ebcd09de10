"""Ablations: rows differ in one thing, two run through Ray and fill the tables, a second command goes on."""

import shutil
from pathlib import Path

import pandas
import pytest

from glotok_ray import config
from glotok_ray.config import GeneratorAblationRun, QuickstartRun, override
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.generator import flow_config, model_config
from glotok_ray.recipes import generator_ablations
from glotok_ray.recipes.generator_ablations import ROWS, ablations_tiny
from glotok_ray.stages import ablations
from glotok_ray.stages.generator_rows import GeneratorRows, make_quickstart_inputs
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from tests.on_ray.killed_driver import run_with_fault


def changed_fields(one: dict, other: dict, prefix: str = "") -> set[str]:
    """Dotted names of the fields in which two configs differ."""
    found = set()
    for name, value in one.items():
        if isinstance(value, dict):
            found |= changed_fields(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            found.add(prefix + name)
    return found


@pytest.mark.parametrize("recipe", generator_ablations.RECIPES.values())
def test_rows_differ_from_the_published_xar_in_one_field_and_their_folders(recipe) -> None:
    ablation = recipe()
    rows = GeneratorRows(ablation, Path("rows"))
    base = rows.parts("cell_8")
    assert base[0].model == ablation.generator.model
    assert base[0].flow == ablation.generator.flow
    folders = set()
    for row in ROWS:
        parts = rows.parts(row)
        fields = [
            changed_fields(config.to_dict(one), config.to_dict(other))
            for one, other in zip(parts, base, strict=True)
        ]
        wanted = {
            "token": "model.entity",
            "image": "model.entity",
            "subsample": "model.entity",
            "scale": "model.entity",
            "cell_2": "model.cell_size",
            "cell_4": "model.cell_size",
            "clean": "flow.context",
            "increasing": "flow.context",
            "decreasing": "flow.context",
        }
        if row != "cell_8":
            assert fields[0] == {"name", wanted[row]}
            assert fields[1] == {"generator_path", "output_path"}
            assert fields[2] == {"samples_path", "output_path"}
        assert parts[1].generator_path == f"{parts[0].output_path}/{parts[0].name}"
        assert parts[2].samples_path == parts[1].output_path
        folders.add(parts[2].output_path)
    assert len(folders) == len(ROWS) == 10


def test_unknown_and_repeated_rows_are_refused_before_anything_starts() -> None:
    for rows in (("cell_8", "cell_3"), ("token", "token")):
        with pytest.raises(ValueError, match=r"rows = .*: must be different ones of cell_8, token"):
            ablations.run(override(ablations_tiny(), {"rows": rows}))


def tiny_ablation(chained: QuickstartRun, folder: Path) -> GeneratorAblationRun:
    """Two rows on the codes of a finished quickstart."""
    return GeneratorAblationRun(
        output_path=str(folder / "ablations"),
        rows=("scale", "clean"),
        generator=override(chained.generator, {"schedule.epochs": 1}),
        samples=override(chained.samples, {"num_images": 20, "sampler.num_steps": 2}),
        evaluation=override(
            chained.evaluation, {"tokenizer_path": "", "codes_path": "", "num_images": 20}
        ),
    )


@pytest.mark.ray
def test_two_rows_fill_the_tables_and_a_second_command_trains_nothing_again(
    finished, tmp_path
) -> None:
    ablation = tiny_ablation(finished[0], tmp_path)
    folder = tmp_path / "ablations"
    log = tmp_path / "drivers.log"
    for fault in ("unit:step=1", "manifest:step=0"):
        code = run_with_fault(ablations.run, ablation, f"kill:{fault}", log)
        assert code == -9, f"{fault}: {log.read_text()[-3000:]}"
    manifest = ablations.run(ablation)
    table = pandas.read_csv(folder / "results.csv").set_index("row")
    assert list(table.index) == ["scale", "clean"]
    assert table.loc["scale", "num_entities"] == 4  # sides 1, 2, 4 and 8
    assert (table["fd_effnet"] > 0).all()
    assert (table["loss"] > 0).all()
    text = Path(manifest["table"]).read_text()
    assert "| scale | 2.90 | 262.8 |" in text
    assert "| clean (teacher forcing) | 3.45 | 243.5 |" in text
    assert "Size of a cell" not in text  # none of its rows was trained
    assert model_config(folder / "rows" / "scale").entity == "scale"  # type: ignore[union-attr]
    assert flow_config(folder / "rows" / "clean").context == "clean"

    trained = [folder / "rows" / row / artefact.MANIFEST for row in ("scale", "clean")]
    before = [path.stat().st_mtime_ns for path in trained]
    (folder / artefact.MANIFEST).unlink()  # as if it had been interrupted before the tables
    ablations.run(ablation)
    assert (folder / artefact.MANIFEST).is_file()
    assert [path.stat().st_mtime_ns for path in trained] == before
    assert "Small scale: 5 steps of 24 images, width 32, depth 2, 8 x 8 positions" in text

    # A row that failed stands beside the finished ones, and is not trained until that is asked for.
    failure = folder / "rows" / "token_failure.json"
    artefact.write_json(failure, {"reason": "step 3: total not finite", "traceback": []})
    failed = ablations.run(override(ablation, {"rows": ("scale", "token")}))
    assert failed["failed"] == {"token": "step 3: total not finite"}
    assert "- token: step 3: total not finite" in Path(failed["table"]).read_text()
    assert not (folder / "rows" / "token").exists()
    # It joins the finished ones, in the paper's order.
    more = ablations.run(override(ablation, {"rows": ("token",), "retry_failed": True}))
    assert more["failed"] == {}
    assert not failure.exists()
    assert list(pandas.read_csv(folder / "results.csv")["row"]) == ["token", "scale", "clean"]
    assert "| token | 3.51 |" in Path(more["table"]).read_text()
    assert [path.stat().st_mtime_ns for path in trained] == before


def test_inputs_are_those_of_a_quickstart_beside_the_tokenizer(tmp_path) -> None:
    ablation = config.with_absolute_paths(ablations_tiny(), tmp_path)
    top = tmp_path / "runs" / "quickstart"
    for name in ("data/train", "data/validation", "teacher", "tokenizer", "codes"):
        (top / name).mkdir(parents=True)
        (top / name / artefact.MANIFEST).touch()  # finished: nothing runs
    make_quickstart_inputs(ablation)
    for name in ("generator.data.train_path", "evaluation.data_path"):
        moved = override(ablation, {name: str(tmp_path / "other")})
        with pytest.raises(ArtefactError, match=rf"{name} = .*other.* it must be '{top}/"):
            make_quickstart_inputs(moved)


@pytest.mark.ray
def test_what_would_stop_a_row_stops_the_command(finished, tmp_path) -> None:
    ablation = tiny_ablation(finished[0], tmp_path)
    with pytest.raises(ArtefactError, match=r"num_images = 10000: .*validation holds"):
        ablations.run(override(ablation, {"evaluation.num_images": 10000}))
    with pytest.raises(ArtefactError, match=r"model\.num_classes = 3: the codes .* need 10"):
        ablations.run(override(ablation, {"generator.model.num_classes": 3}))
    other = tmp_path / "other"
    tokenizer = GloTokTokenizer.from_pretrained(ablation.generator.tokenizer_path)
    next(tokenizer.parameters()).data += 1
    tokenizer.save_pretrained(other)
    artefact.write_manifest(other, "tokenizer")
    with pytest.raises(ArtefactError, match=r"samples\.tokenizer_path = .*has other weights"):
        ablations.run(override(ablation, {"samples.tokenizer_path": str(other)}))
    with pytest.raises(ArtefactError, match=r"evaluation\.tokenizer_path = .*has other weights"):
        ablations.run(override(ablation, {"evaluation.tokenizer_path": str(other)}))
    renamed = tmp_path / "renamed"
    shutil.copytree(ablation.evaluation.data_path, renamed)
    facts = artefact.read_json(renamed / "dataset.json")
    for change, message in (
        ({"classes": facts["classes"][::-1]}, r"codes has 10 classes .*renamed has 10 classes"),
        ({"image_size": 16}, r"are stored at 16 pixels .*takes 32"),
    ):
        artefact.write_json(renamed / "dataset.json", {**facts, **change})
        artefact.write_manifest(renamed, "shards")
        with pytest.raises(ArtefactError, match=message):
            ablations.run(override(ablation, {"evaluation.data_path": str(renamed)}))
    assert not (tmp_path / "ablations").exists()
