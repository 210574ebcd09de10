"""The whole pipeline on Ray: repeatable, equal to a plain process, resumable; the sweep on its
data; a user's own images.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from glotok_ray.config import SearchField, override, to_dict, with_absolute_paths
from glotok_ray.evaluation.in_process import measure_reconstructions
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.generator import load_generator
from glotok_ray.recipes import sweep_tokenizer as sweep_recipes
from glotok_ray.recipes import tokenizer_ablations
from glotok_ray.stages import (
    ablations,
    quickstart,
    sweep_tokenizer,
    tokenizer_trials,
    train_tokenizer,
)
from glotok_ray.stages import train_generator as generator_stage
from glotok_ray.stages.tokenizer_rows import TokenizerRows
from glotok_ray.storage import artefact, contents
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.inputs import fitting_codes
from glotok_ray.training.trials import TrialFiles
from jobs import quickstart as quickstart_job
from jobs import train_tokenizer as train_tokenizer_job
from tests.on_ray.killed_driver import run_with_fault

ONE_PROCESS = {
    "scaling.num_workers": 1,
    "scaling.engine": "torch",
    "schedule.micro_batch_size": 24,
    "launcher": "local",
}
OF_SAMPLES = (
    "samples_own_class",
    "validation_own_class",
    "samples_nearest_training",
    "validation_nearest_training",
    "generator_loss",
    "generator_loss_shuffled_labels",
)
RECONSTRUCTIONS_ALONE = dict.fromkeys(
    ("samples_path", "codes_path", "training_path", "generator_path"), ""
)
STATUSES = ("finished", "stopped", "failed")
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def losses(folder, name="train/total"):
    """Step and loss of every logged step, shape (steps, 2)."""
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return np.array([[line["step"], line[name]] for line in lines if name in line])


def test_all_stages_leave_their_artefacts(finished):
    config, answer = finished
    root = Path(config.output_path)
    assert [row["status"] for row in answer["stages"]] == ["made"] * 12
    page = (root / "report.html").read_text()
    assert "EfficientNet" in page
    assert len(losses(root / "tokenizer")) == 20
    assert len(losses(root / "generator", "train/flow_matching")) == 10
    assert len(losses(root / "far", "train/cross_entropy")) == 10
    for name in ("samples", "far_samples"):
        with np.load(root / name / "samples.npz") as samples:
            assert samples["arr_0"].shape == (20, 32, 32, 3)
            assert samples["arr_0"].dtype == np.uint8
    expected = {
        "reconstruction_psnr",
        "reconstruction_fd_effnet",
        "samples_fd_effnet",
        "far_samples_fd_effnet",
        "baseline_uniform_fd_effnet",
        "baseline_marginal_fd_effnet",
        "decoded_nearest_training",
        *(f"{model}{name}" for model in ("", "far_") for name in OF_SAMPLES),
        "retention_visual_psnr",
        "retention_semantic_psnr",
        "semantic_duplicates",
    }
    assert expected <= set(answer["metrics"])
    assert all(np.isfinite(entry["value"]) for entry in answer["metrics"].values())
    assert (root / "tokenizer" / "tensorboard").is_dir()
    assert contents.foreign(root, quickstart._PARTS) is None  # --fresh may set it aside


def test_the_twin_is_the_tokenizer_without_the_relation_loss(finished):
    """Trained and measured alike, so that the page can lay the two beside each other."""
    root = Path(finished[0].output_path)
    relations = [
        artefact.read_json(root / name / "relation.json") for name in ("tokenizer", "twin")
    ]
    for name in ("bins", "teacher", "student_initial"):
        assert relations[0][name] == relations[1][name]
    assert relations[0]["student_final"] != relations[1]["student_final"]
    first, second = losses(root / "tokenizer"), losses(root / "twin")
    assert len(second) == len(first)
    relation = losses(root / "tokenizer", "train/relation")
    # The first step differs by the weighted relation loss alone.
    weight = finished[0].tokenizer.loss.relation_weight
    assert first[0, 1] - second[0, 1] == pytest.approx(weight * relation[0, 1], rel=1e-3, abs=2e-6)
    measured, of_twin = (
        artefact.read_json(root / name / "metrics.json")
        for name in ("evaluation", "twin_evaluation")
    )
    assert {
        name for name in measured if name.startswith(("semantic", "visual", "recon", "reten"))
    } == set(of_twin)
    assert np.load(root / "twin_evaluation" / "retention.npz")["semantic"].dtype == np.uint8


def test_a_second_run_recognises_every_stage(finished):
    config, _ = finished
    root = Path(config.output_path)
    before = {path: path.stat().st_mtime_ns for path in root.glob("*/manifest.json")}
    answer = quickstart.run(config)
    assert [row["status"] for row in answer["stages"]] == ["recognised"] * 12
    assert before == {path: path.stat().st_mtime_ns for path in root.glob("*/manifest.json")}


def test_other_settings_do_not_overwrite_a_finished_run(finished):
    config, _ = finished
    with pytest.raises(
        ArtefactError,
        match=r"tokenizer: holds a finished tokenizer made by other settings.*--fresh",
    ):
        train_tokenizer.run(override(config.tokenizer, {"optimizer.learning_rate": 0.5}))


def test_one_ray_worker_equals_a_plain_process_and_either_goes_on_where_the_other_stopped(
    finished, tmp_path
):
    config, _ = finished
    plain = override(
        config.tokenizer,
        {**ONE_PROCESS, "output_path": str(tmp_path), "name": "plain"},
    )
    in_turns = override(plain, {"launcher": "ray", "name": "in_turns"})
    train_tokenizer.run(override(in_turns, {"schedule.stop_after_steps": 5}))
    local = {"launcher": "local", "schedule.stop_after_steps": 10}
    assert train_tokenizer.run(override(in_turns, local))["step"] == 10
    found = train_tokenizer.run(in_turns)
    expected = train_tokenizer.run(plain)
    assert found["step"] == expected["step"] == 20
    assert found["files"].keys() == expected["files"].keys()
    assert len(losses(tmp_path / "plain")) == 20
    np.testing.assert_allclose(losses(tmp_path / "in_turns"), losses(tmp_path / "plain"), rtol=1e-5)


def test_two_deepspeed_workers_equal_one_plain_process(finished, tmp_path):
    # Without the two terms that see one worker's batch alone: BatchNorm in the discriminator, the
    # entropy of the batch mean. Small steps: the engines round differently, and near the border
    # between two codes a rounding picks the other one.
    config, _ = finished
    both = override(
        config.tokenizer,
        {
            "scaling.num_workers": 2,
            "loss.entropy_weight": 0.0,
            "loss.adversarial_weight": 0.0,
            "optimizer.learning_rate": 1e-4,
            "schedule.epochs": 2,
            "output_path": str(tmp_path),
            "name": "two",
        },
    )
    plain = override(
        both,
        {**ONE_PROCESS, "name": "plain"},
    )
    train_tokenizer.run(both)
    train_tokenizer.run(plain)
    found, expected = losses(tmp_path / "two"), losses(tmp_path / "plain")
    assert len(expected) == 10
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    # Of AMD's processors one code of the second step is another: 1e-4.
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-3)
    np.testing.assert_allclose(found, expected, rtol=5e-3)


def test_far_on_two_workers_under_zero_3_equals_one_plain_process_and_resumes(finished, tmp_path):
    # Without what each worker draws for itself: dropped tokens and labels.
    config, _ = finished
    both = override(
        config.far,
        {
            "model.token_dropout": 0.0,
            "label_dropout": 0.0,
            "scaling.num_workers": 2,
            "scaling.zero_stage": 3,
            "output_path": str(tmp_path),
            "name": "two",
        },
    )
    plain = override(
        both,
        {**ONE_PROCESS, "name": "plain"},
    )
    stopped = generator_stage.run(override(both, {"schedule.stop_after_steps": 5}))
    assert stopped["step"] == 5
    generator_stage.run(both)
    generator_stage.run(plain)
    name = "train/cross_entropy"
    found, expected = losses(tmp_path / "two", name), losses(tmp_path / "plain", name)
    assert len(expected) == 10
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    generators = [load_generator(tmp_path / run, use_ema=True) for run in ("two", "plain")]
    two, one = (dict(generator.named_parameters()) for generator in generators)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["generator", "far"])
def test_a_generator_stopped_and_resumed_equals_an_uninterrupted_one(finished, tmp_path, kind):
    config, _ = finished
    parts = override(getattr(config, kind), {"output_path": str(tmp_path), "name": "parts"})
    assert generator_stage.run(override(parts, {"schedule.stop_after_steps": 5}))["step"] == 5
    generator_stage.run(parts)
    name = "train/flow_matching" if kind == "generator" else "train/cross_entropy"
    whole = losses(Path(config.output_path) / kind, name)
    np.testing.assert_array_equal(losses(tmp_path / "parts", name), whole)
    for weights in ("generator.safetensors", "generator_ema.safetensors"):
        same = (Path(config.output_path) / kind / weights).read_bytes()
        assert (tmp_path / "parts" / weights).read_bytes() == same


def test_a_layout_that_the_checkpoint_does_not_have_is_refused_before_workers_start(
    finished, tmp_path
):
    config, _ = finished
    folder = tmp_path / "generator"
    shutil.copytree(Path(config.output_path) / "generator", folder)
    manifest = artefact.read_json(folder / "manifest.json")
    artefact.write_json(folder / "manifest.json", manifest | {"step": 5})
    changes = {"output_path": str(tmp_path), "scaling.precision": "bf16_autocast"}
    with pytest.raises(
        ArtefactError, match=r"saved with scaling\.precision = fp32, .*; set it back"
    ):
        generator_stage.run(override(config.generator, changes))
    # What was finished still is.
    assert artefact.read_manifest(folder, "generator")["step"] == 5


def test_codes_of_another_tokenizer_are_refused_before_anything_starts(finished, tmp_path):
    config, _ = finished
    other = tmp_path / "tokenizer"
    shutil.copytree(Path(config.output_path) / "tokenizer", other)
    tokenizer = GloTokTokenizer.from_pretrained(other)
    next(tokenizer.parameters()).data += 1
    tokenizer.save_pretrained(other)
    for run in (config.generator, config.far):
        wrong = override(run, {"tokenizer_path": str(other), "name": "wrong"})
        with pytest.raises(ArtefactError, match=r"by tokenizer \w+, but .* encode again"):
            fitting_codes(wrong)
    wrong = override(config.far, {"model.codebooks.0.size": 47})
    with pytest.raises(ArtefactError, match=r"model\.codebooks = .*47.* has .*48"):
        fitting_codes(wrong)


def test_four_epochs_equal_two_a_stop_and_two_more(finished, tmp_path):
    config, _ = finished
    parts = override(config.tokenizer, {"output_path": str(tmp_path), "name": "parts"})
    stopped = train_tokenizer.run(override(parts, {"schedule.stop_after_steps": 10}))
    assert stopped["step"] == 10
    assert len(losses(tmp_path / "parts")) == 10
    assert train_tokenizer.run(parts)["step"] == 20
    whole = losses(Path(config.output_path) / "tokenizer")
    np.testing.assert_array_equal(losses(tmp_path / "parts"), whole)


def test_a_sweep_stops_fails_and_goes_on_and_leaves_the_best_recipe(finished, tmp_path):
    config, _ = finished
    teacher_manifest = Path(config.teacher.output_path) / artefact.MANIFEST
    before = teacher_manifest.stat().st_mtime_ns
    rate = "optimizer.learning_rate"
    good = config.tokenizer.optimizer.learning_rate
    sweep = override(
        sweep_recipes.quickstart(),
        {
            "inputs": "given",
            "output_path": str(tmp_path / "sweep"),
            # With the larger weight a trial diverges at its first step, with the smaller rate it learns nothing.
            "space": (
                SearchField(field="loss.relation_weight", values=(0.0, 1e39)),
                SearchField(field=rate, values=(good, 1e-12)),
            ),
            "num_trials": 5,
            "max_steps": 8,
            "evaluate_every_steps": 4,
            "scheduler": "asha",
            "metric": "psnr",
            "num_finalists": 1,
            "finalist_seeds": (7,),
            "tokenizer": override(
                config.tokenizer, {**ONE_PROCESS, "data.num_validation_images": 0}
            ),
            "evaluation": override(
                config.evaluation,
                {**RECONSTRUCTIONS_ALONE, "num_images": 10, "uniformity_repeats": 0},
            ),
        },
    )
    log, folder = tmp_path / "drivers.log", tmp_path / "sweep"
    files = TrialFiles(folder / "trials")
    code = run_with_fault(sweep_tokenizer.run, sweep, "kill:unit:step=2", log)
    assert code == -9, log.read_text()[-3000:]
    ended = [record for record in files.records() if record.status]
    assert len(ended) == 2
    code = run_with_fault(sweep_tokenizer.run, sweep, "kill:manifest:step=0", log)
    assert code == -9, log.read_text()[-3000:]
    found = files.records()
    manifest = sweep_tokenizer.run(sweep)
    # What had ended was neither started again nor changed, at either resumption.
    assert [files.record(record.trial.name) for record in ended] == ended
    assert files.records() == found
    by_status = {status: [item for item in found if item.status == status] for status in STATUSES}
    baseline, same = by_status["finished"]
    assert (baseline.trial.name, baseline.trial.changes) == (
        "trial_00",
        {"loss.relation_weight": 0.0},
    )
    assert same.trial.changes == {"loss.relation_weight": 0.0, rate: good}
    # Equal settings, data order and seed.
    assert [row["psnr"] for row in same.reports] == [row["psnr"] for row in baseline.reports]
    (stopped,) = by_status["stopped"]
    assert stopped.trial.changes == {"loss.relation_weight": 0.0, rate: 1e-12}
    assert [row["step"] for row in stopped.reports] == [4]
    assert stopped.last["psnr"] < baseline.reports[0]["psnr"]
    assert 0 < stopped.last["cosine_distance"] < 2
    table = pandas.read_csv(folder / "results.csv")
    assert table["status"].tolist() == ["finished"] * 2 + ["stopped"] + ["failed"] * 2
    assert table["psnr"].notna().tolist() == [True] * 3 + [False] * 2
    assert set(manifest["failed"]) == {record.trial.name for record in by_status["failed"]}
    for record in by_status["failed"]:
        assert "step 0: " in record.reason
        assert f"- {record.trial.name}: {record.reason}" in (folder / "table.md").read_text()
    seeds = pandas.read_csv(folder / "finalists.csv")
    assert set(seeds["seed"]) == {7}
    assert (seeds["psnr"] != baseline.last["psnr"]).all()
    assert manifest["best"] in seeds["trial"].tolist()
    assert '<section id="pareto">' in (folder / "sweep.html").read_text()
    assert teacher_manifest.stat().st_mtime_ns == before
    assert train_tokenizer_job.main([str(folder / "best_recipe.json"), "--dry-run"]) == 0


def test_an_evaluation_in_this_process_is_that_of_the_job(finished, tmp_path):
    config, _ = finished
    folder = Path(config.output_path)
    alone = override(config.evaluation, {**RECONSTRUCTIONS_ALONE, "uniformity_repeats": 0})
    found = measure_reconstructions(alone, tmp_path / "parts", torch.device("cpu"))
    known = artefact.read_json(folder / "evaluation" / "metrics.json")
    for name in ("reconstruction_psnr", "reconstruction_fd_effnet", "semantic_usage"):
        assert found[name]["value"] == pytest.approx(known[name]["value"], rel=1e-9)
    assert not (tmp_path / "parts").exists()


def test_a_sweep_makes_its_inputs_where_it_reads_them(
    ray_cluster, tiny_quickstart, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tiny = tiny_quickstart(tmp_path)
    monkeypatch.setattr(tokenizer_trials.shard_recipes, "quickstart", lambda: tiny.data)
    monkeypatch.setattr(tokenizer_trials.teacher_recipes, "quickstart", lambda: tiny.teacher)
    sweep = with_absolute_paths(sweep_recipes.quickstart(), tmp_path / "root")
    tokenizer_trials.make_inputs(sweep)
    top = tmp_path / "root" / "runs" / "quickstart"
    for path in (sweep.tokenizer.data.train_path, sweep.evaluation.data_path):
        assert artefact.read_manifest(Path(path), "shards")
    assert Path(sweep.tokenizer.teacher_path) == top / "teacher"
    assert artefact.read_manifest(top / "teacher", "teacher")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    with pytest.raises(ValueError, match=r"must be validation and train of one folder"):
        tokenizer_trials.make_inputs(
            override(sweep, {"evaluation.data_path": str(tmp_path / "other")})
        )


def test_the_trials_of_a_sweep_trust_what_its_driver_verified(finished, tmp_path):
    config, _ = finished
    for path in (config.tokenizer.data.train_path, config.teacher.output_path):
        (Path(path) / artefact.RECEIPT).unlink(missing_ok=True)
    sweep = override(
        tokenizer_ablations.ablations_tiny(),
        {"max_steps": 8, "tokenizer": config.tokenizer, "evaluation": config.evaluation},
    )
    assert len(TokenizerRows(sweep, tmp_path).check_inputs(["single_codebook"])) == 3
    folders = (
        config.tokenizer.data.train_path,
        config.tokenizer.data.validation_path,
        config.teacher.output_path,
    )
    for path in folders:
        receipt = artefact.read_json(Path(path) / artefact.RECEIPT)
        assert set(receipt["files"]) == set(
            artefact.read_json(Path(path) / "manifest.json")["files"]
        )


def test_ablation_rows_of_one_and_two_codebooks_fill_the_papers_tables(
    finished, tmp_path, monkeypatch
):
    config, _ = finished
    monkeypatch.chdir(tmp_path)  # as users run it: with relative paths
    (tmp_path / "data").symlink_to(config.tokenizer.data.train_path)
    sweep = override(
        tokenizer_ablations.ablations_tiny(),
        {
            "inputs": "given",
            "output_path": "sweep",
            "rows": ("single_codebook", "local_contrast"),
            "max_steps": 2,
            "tokenizer": override(
                config.tokenizer, {"data.train_path": "data", "data.num_validation_images": 0}
            ),
            "evaluation": override(
                config.evaluation,
                {**RECONSTRUCTIONS_ALONE, "num_images": 10, "uniformity_repeats": 0},
            ),
        },
    )
    ablations.run(sweep)
    table = (tmp_path / "sweep" / "table.md").read_text()
    assert "Table 1: the systems compared with" in table
    assert "Table 4:" not in table  # none of its rows was trained
    assert "| VQ-VAE of LlamaGen, one codebook | 2.19 | 20.7 |" in table
    single = GloTokTokenizer.from_pretrained(tmp_path / "sweep" / "rows" / "single_codebook")
    assert single.config.names == ("visual",)
    card = (tmp_path / "sweep" / "rows" / "local_contrast" / "README.md").read_text()
    assert "trained by the run 'local_contrast'" in card


def test_a_loss_that_is_not_finite_ends_the_run_at_once_and_names_step_and_term(finished, tmp_path):
    config, _ = finished
    broken = override(
        config.tokenizer,
        {"loss.reconstruction_weight": 1e39, "output_path": str(tmp_path), "name": "broken"},
    )
    with pytest.raises(ArtefactError, match=r"step 0: total not finite.*--initial-path"):
        train_tokenizer.run(broken)
    # Ray would have tried again as often as scaling.max_failures says.
    assert len(list((tmp_path / "broken" / "ray").iterdir())) == 1


def test_unknown_rows_are_refused_before_anything_starts():
    sweep = override(tokenizer_ablations.ablations_tiny(), {"rows": ("glotok", "glotok_3x")})
    with pytest.raises(ValueError, match=r"rows = glotok, glotok_3x: must be different ones of"):
        ablations.run(sweep)


def test_a_stage_that_fails_is_named_in_one_line_and_the_same_command_goes_on(
    finished, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    config, _ = finished
    root = tmp_path / "run"
    shutil.copytree(config.output_path, root)
    path = tmp_path / "mine.json"
    artefact.write_json(path, to_dict(override(config, {"output_path": str(root)})))
    monkeypatch.setenv("GLOTOK_FAULT", "full:stage:step=3")
    assert quickstart_job.main([str(path)]) == 1
    last = caplog.messages[-1]
    assert last == (
        f"quickstart: failed: OSError: [Errno 28] No space left on device; log: {root / 'log.txt'}"
    )
    assert "No space left" in (root / "log.txt").read_text()
    monkeypatch.delenv("GLOTOK_FAULT")
    caplog.clear()
    assert quickstart_job.main([str(path)]) == 0
    recognised = [message for message in caplog.messages if "recognised in" in message]
    assert len(recognised) == len(quickstart.stages(config))


def test_a_users_own_pictures_go_through_all_stages(ray_cluster, tiny_quickstart, tmp_path):
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs & co"):
        folder = tmp_path / "images" / name / "deeper"
        folder.mkdir(parents=True)
        for number in range(9):
            pixels = generator.integers(
                0, 256, (generator.integers(1, 60), generator.integers(1, 60), 3), dtype=np.uint8
            )
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "images" / "cats" / "broken.jpg").write_bytes(b"not a image")
    config = override(
        tiny_quickstart(tmp_path / "mine"),
        {
            "data.source": str(tmp_path / "images"),
            "tokenizer.schedule.epochs": 1,
            "generator.schedule.epochs": 1,
        },
    )
    answer = quickstart.run(config)
    info = json.loads((tmp_path / "mine" / "data" / "train" / "dataset.json").read_text())
    assert info["classes"] == ["cats", "dogs & co"]
    assert info["num_images"] == 14  # nine of each, two of which are for validation
    assert "broken.jpg" in json.dumps(info)
    assert np.isfinite(answer["metrics"]["samples_fd_effnet"]["value"])
    assert "dogs &amp; co" in (tmp_path / "mine" / "report.html").read_text()
