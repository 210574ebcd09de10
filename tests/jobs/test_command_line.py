"""What users type: dry runs of full-size recipes, overrides, and refusals."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from glotok_ray import config
from glotok_ray.config.sweeps import VARGuidanceRun
from glotok_ray.recipes import train_generator as generator_recipes
from glotok_ray.recipes.tokenizer_ablations import ablations_tiny
from glotok_ray.recipes.train_tokenizer import glotok_16k
from jobs import (
    command_line,
    quickstart,
    sample_images,
    sweep_guidance,
    sweep_tokenizer,
    train_generator,
    train_tokenizer,
)

JOBS = {path.stem: path for path in Path(command_line.__file__).parent.glob("[a-z]*.py")}


def dry_run(job, capsys, *arguments):
    assert job.main([*arguments, "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("recipe", "parameters"), [("xar_b", 172638224), ("xar_l", 608397968), ("xar_h", 1186024096)]
)
def test_generators_have_the_published_sizes(recipe, parameters, capsys):
    answer = dry_run(train_generator, capsys, recipe)
    assert answer["recipe"] == recipe
    assert answer["parameters"] == parameters == sum(answer["modules"].values())
    assert (answer["steps_per_epoch"], answer["total_steps"]) == (625, 500000)
    assert answer["global_batch_size"] == 2048
    assert answer["config"]["model"]["channels"] == 16


def test_glotok_16k_is_the_papers_run(capsys):
    answer = dry_run(train_tokenizer, capsys, "glotok_16k")
    assert (answer["steps_per_epoch"], answer["total_steps"]) == (5338, 800700)
    assert (answer["modules"]["encoder"], answer["modules"]["decoder"]) == (29298176, 42449795)
    assert answer["parameters"] == sum(answer["modules"].values())
    assert 0 < answer["memory_per_worker_gib"] < 80
    assert answer["discriminator_parameters"] == 2765633


def test_glotok_2x_and_the_ablations_differ_where_they_should(capsys):
    full = dry_run(train_tokenizer, capsys, "glotok_16k")
    double = dry_run(train_tokenizer, capsys, "glotok_2x")
    assert double["parameters"] - full["parameters"] == 8 * (2 * 16384 - 4096 - 12288)
    vanilla = dry_run(train_tokenizer, capsys, "vanilla_dual")
    assert vanilla["parameters"] == 111163283


def test_overrides_reach_the_config(capsys):
    answer = dry_run(
        train_tokenizer,
        capsys,
        "glotok_16k",
        "--loss.relation.num-bins",
        "20",
        "--schedule.epochs",
        "2",
    )
    assert answer["config"]["loss"]["relation"]["num_bins"] == 20
    assert answer["total_steps"] == 2 * 5338


def test_a_resolved_config_is_a_recipe(tmp_path, capsys):
    path = tmp_path / "mine.json"
    changed = config.override(glotok_16k(), {"loss.relation_weight": 0.1})
    path.write_text(json.dumps(config.to_dict(changed)))
    assert dry_run(train_tokenizer, capsys, str(path))["config"]["loss"]["relation_weight"] == 0.1


def test_quickstart_and_sweep_describe_themselves(capsys):
    answer = dry_run(quickstart, capsys, "quickstart")
    assert list(answer["stages"]) == [
        "data",
        "teacher",
        "tokenizer",
        "twin",
        "codes",
        "generator",
        "samples",
        "far",
        "far_samples",
        "evaluation",
        "far_evaluation",
        "twin_evaluation",
    ]
    trials = dry_run(sweep_tokenizer, capsys, "quickstart")["trials"]
    assert len(trials) == 4
    assert trials["trial_00"] == {"loss.relation_weight": 0.0}
    assert len({json.dumps(changes) for changes in trials.values()}) == 4


def test_ablations_of_a_tokenizer_describe_their_rows_from_a_file_too(tmp_path, capsys):
    path = tmp_path / "rows.json"
    chosen = config.override(ablations_tiny(), {"rows": ("glotok", "vanilla_dual")})
    path.write_text(json.dumps(config.to_dict(chosen)))
    answer = dry_run(sweep_tokenizer, capsys, str(path))
    assert answer["rows"] == ["glotok", "vanilla_dual"]
    assert (answer["steps_per_row"], answer["config"]["inputs"]) == (256, "quickstart")


@pytest.mark.parametrize(
    ("flag", "value", "field"),
    [
        ("--tokenizer.teacher-path", "/x/teacher", "tokenizer.teacher_path"),
        ("--tokenizer.name", "mine", "tokenizer.name"),
        ("--far-evaluation.inception-path", "/x/i.pth", "far_evaluation.inception_path"),
        ("--generator.data.train-path", "/x/codes", "generator.data.train_path"),
    ],
)
def test_what_the_quickstart_chains_cannot_be_given(caplog, flag, value, field):
    assert quickstart.main(["quickstart", "--dry-run", flag, value]) == 2
    assert f"{field} = {value!r}: must be " in caplog.text


def test_a_quickstart_s_own_config_goes_on_and_may_move(tmp_path, capsys):
    path = tmp_path / "mine.json"
    resolved = dry_run(quickstart, capsys, "quickstart", "--output-path", "runs/a")["config"]
    path.write_text(json.dumps(resolved))
    moved = dry_run(quickstart, capsys, str(path), "--output-path", str(tmp_path / "b"))["config"]
    assert moved["codes"]["tokenizer_path"] == str(tmp_path / "b" / "tokenizer")
    # So it may in the file alone.
    path.write_text(json.dumps({**resolved, "output_path": str(tmp_path / "c")}))
    moved = dry_run(quickstart, capsys, str(path))["config"]
    assert moved["codes"]["tokenizer_path"] == str(tmp_path / "c" / "tokenizer")


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ("quickstart", ["--max-steps", "513"], "max_steps = 513: trial_00 ends at step 512"),
        (
            "ablations_tiny",
            ["--tokenizer.schedule.num-steps", "99"],
            "max_steps = 256: single_codebook ends at step 99",
        ),
    ],
)
def test_a_dry_run_refuses_trials_and_rows_that_end_before_max_steps(
    caplog, recipe, flags, message
):
    assert sweep_tokenizer.main([recipe, "--dry-run", *flags]) != 0
    assert message in caplog.text


def test_an_unknown_recipe_names_the_known_ones(caplog):
    assert train_tokenizer.main(["glotok_16m"]) == 2
    assert "glotok_16k" in caplog.text


def test_a_misspelt_flag_is_refused():
    with pytest.raises(SystemExit) as refusal:
        train_tokenizer.main(["glotok_16k", "--dry-run", "--loss.relation-wieght", "1"])
    assert refusal.value.code == 2


def test_a_bad_value_exits_with_2_and_names_the_field(capsys):
    with pytest.raises(SystemExit) as refusal:
        train_tokenizer.main(["glotok_16k", "--dry-run", "--schedule.global-batch-size", "31"])
    assert refusal.value.code == 2
    assert "global_batch_size" in capsys.readouterr().err


@pytest.mark.slow
def test_a_json_file_is_read_as_the_kind_of_run_that_has_its_fields(tmp_path, capsys):
    path = tmp_path / "mine.json"
    for name, recipe in generator_recipes.RECIPES.items():
        path.write_text(json.dumps(config.to_dict(recipe())))
        assert train_generator.main([str(path), "--dry-run"]) == 0, name
        found = json.loads(capsys.readouterr().out)
        assert found["config"] == config.to_dict(config.with_absolute_paths(recipe()))
        assert found["parameters"] > 1e5
    path.write_text(json.dumps({**config.to_dict(recipe()), "depht": 3}))
    assert train_generator.main([str(path), "--dry-run"]) == 2


def read_back(path: Path, content: Any, recipes: Mapping[str, Any]) -> Any:
    path.write_text(json.dumps(content))
    kinds = {type(recipe()): None for recipe in recipes.values()}
    return command_line._from_json(path, kinds)


@pytest.mark.parametrize("job", JOBS)
def test_every_recipe_in_a_file_is_read_back_as_its_kind_and_value(job, tmp_path):
    recipes = getattr(importlib.import_module(f"jobs.{job}"), "RECIPES", {})
    for name, recipe in recipes.items():
        chosen = recipe()
        found = read_back(tmp_path / "mine.json", config.to_dict(chosen), recipes)
        assert type(found) is type(chosen), name
        assert found == chosen, name


def test_a_file_with_some_of_the_fields_is_the_first_kind_that_has_them(tmp_path):
    kinds = list({type(recipe()): None for recipe in sample_images.RECIPES.values()})
    found = read_back(tmp_path / "mine.json", {"seed": 3}, sample_images.RECIPES)
    assert (type(found), found.seed) == (kinds[0], 3)
    found = read_back(tmp_path / "mine.json", {"sampler": {"num_steps": 9}}, sample_images.RECIPES)
    assert (type(found), found.sampler.num_steps) == (config.XARSampleRun, 9)


@pytest.mark.parametrize(
    ("job", "values", "text"),
    [
        (
            train_tokenizer,
            {"scaling": {"precision": "fp16"}},
            "scaling.precision = 'fp16': must be",
        ),
        (sweep_guidance, {"colour": "red"}, "has no field 'colour'"),
        (train_tokenizer, ["glotok_16k"], "must be a mapping of fields"),
    ],
)
def test_a_wrong_file_is_bad_input(job, values, text, tmp_path, caplog):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(values))
    assert job.main([str(path), "--dry-run"]) == 2
    (message,) = caplog.messages
    assert f"{path}: holds no config of this job" in message
    assert text in message


def test_a_guidance_sweep_of_var_without_an_unguided_value_is_not_fars(tmp_path):
    chosen = config.override(VARGuidanceRun(), {"guidance_scales": (1.0, 2.0)})
    content = config.to_dict(chosen)
    found = read_back(tmp_path / "mine.json", content, sweep_guidance.RECIPES)
    assert isinstance(found, VARGuidanceRun)
    assert found == chosen
