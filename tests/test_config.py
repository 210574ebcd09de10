"""Configs: overrides, round trips and the errors that users see."""

import math

import pytest

from glotok_ray import config
from glotok_ray.recipes import (
    build_teacher,
    encode_images,
    evaluate_images,
    generator_ablations,
    quickstart,
    sample_images,
    shard_images,
    sweep_tokenizer,
    tokenizer_ablations,
    train_generator,
    train_tokenizer,
)

ALL_RECIPES = [
    function
    for module in (
        encode_images,
        evaluate_images,
        train_generator,
        quickstart,
        sample_images,
        shard_images,
        sweep_tokenizer,
        tokenizer_ablations,
        generator_ablations,
        build_teacher,
        train_tokenizer,
    )
    for function in module.RECIPES.values()
]


@pytest.mark.parametrize(
    "recipe", ALL_RECIPES, ids=lambda function: f"{function.__module__}.{function.__name__}"
)
def test_every_recipe_survives_json(recipe):
    run = recipe()
    assert config.from_dict(type(run), config.to_dict(run)) == run


def test_override_replaces_nested_fields_together():
    run = config.override(
        train_generator.xar_b(), {"model.width": 1280, "model.num_heads": 16, "model.depth": 40}
    )
    assert (run.model.width, run.model.num_heads, run.model.depth) == (1280, 16, 40)
    assert train_generator.xar_b().model.width == 768


def test_override_of_a_whole_section_and_of_a_field_in_it():
    section = config.RelationConfig(num_bins=20)
    run = config.override(
        train_tokenizer.glotok_16k(), {"loss.relation": section, "loss.relation.alpha": 3.0}
    )
    assert (run.loss.relation.num_bins, run.loss.relation.alpha) == (20, 3.0)


def test_override_names_the_unknown_field_and_the_known_ones():
    with pytest.raises(
        ValueError,
        match=r"loss\.lambda: TokenizerLossConfig has no field 'lambda'; it has .*relation_weight",
    ):
        config.override(train_tokenizer.glotok_16k(), {"loss.lambda": 1.0})


def test_override_refuses_to_look_inside_a_value():
    with pytest.raises(ValueError, match="is a value, not a section"):
        config.override(train_tokenizer.glotok_16k(), {"seed.value": 1})


def test_from_dict_refuses_unknown_fields():
    values = config.to_dict(train_tokenizer.glotok_16k()) | {"colour": "red"}
    with pytest.raises(ValueError, match="no field 'colour'"):
        config.from_dict(config.TokenizerRun, values)


def test_alpha_defaults_to_one_bin_width():
    assert config.RelationConfig(num_bins=40).sharpness == pytest.approx(190.125)
    assert config.RelationConfig(alpha=50.0).sharpness == 50.0
    # No bin count asks for a kernel that RelationConfig refuses, nor does the widest range of a sweep.
    for num_bins in (2, 3, 16, 40, 128, 4096):
        config.RelationConfig(
            num_bins=num_bins, alpha=4 * config.RelationConfig(num_bins=num_bins).sharpness
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schedule.global_batch_size": 241},
            r"schedule\.global_batch_size = 241: must be a multiple of .* = 8 \(241 = 8 \* 30 \+ 1\)",
        ),
        (
            {"model.autoencoder.image_size": 250},
            r"autoencoder\.image_size = 250: must be a multiple of 16",
        ),
        ({"model.codebooks.1.size": 70000}, r"codebook\.size = 70000: .*uint16"),
        ({"loss.relation.num_bins": 1}, r"relation\.num_bins = 1"),
        ({"loss.relation_weight": -1.0}, r"loss\.relation_weight = -1\.0: must not be negative"),
        ({"scaling.engine": "torch"}, r"scaling\.engine = 'torch': is for one worker"),
        ({"scaling.min_workers": 9}, r"scaling\.min_workers = 9: .*at most .*num_workers = 8"),
        ({"scaling.max_workers": 4}, r"scaling\.max_workers = 4: must be at least .* = 8"),
        (
            {"scaling.min_workers": 7},
            r"scaling\.min_workers = 7: must divide schedule\.global_batch_size = 240.*take 6 or 8",
        ),
        ({"loss.contrastive_weight": 0.5}, r"a codebook names a contrast\.network.*none"),
        ({"model.codebooks": ()}, r"codebooks = \[\]: must hold at least one"),
        ({"model.codebooks.1.name": "visual"}, r"each with a name of its own"),
        ({"model.codebooks.2.size": 5}, r"codebooks\.2\.size: name a field of one of its 2 parts"),
        (
            {"loss.disentanglement_weight": 0.1, "model.codebooks.0.width": 4},
            r"widths must be equal .*'visual': 4, 'semantic': 8",
        ),
        ({"loss.relation.codebook": "other"}, r"codebook 'other': there is visual, semantic"),
        (
            {"scaling.engine": "torch", "scaling.num_workers": 1, "scaling.precision": "bf16"},
            r"bf16_autocast",
        ),
    ],
)
def test_bad_values_name_the_field_the_value_and_the_rule(changes, message):
    with pytest.raises(ValueError, match=message):
        config.override(train_tokenizer.glotok_16k(), changes)


@pytest.mark.parametrize(
    ("field", "least"),
    [
        ("num_images", 0),
        ("training_images", 0),
        ("uniformity_repeats", 0),
        ("generator_draws", 1),
        ("feature_size", 1),
        ("uniformity_vectors", 1),
    ],
)
def test_counts_of_an_evaluation_have_a_least_value(field, least):
    config.override(config.EvaluateRun(), {field: least})
    with pytest.raises(ValueError, match=rf"^{field} = {least - 1}: must be at least {least}"):
        config.override(config.EvaluateRun(), {field: least - 1})


@pytest.mark.parametrize("run", [train_tokenizer.glotok_16k(), train_generator.xar_b()])
@pytest.mark.parametrize("name", ["", ".", "..", "../thesis", "a/b", "/", "a\\b"])
def test_the_name_of_a_run_is_one_folder_of_its_own(run, name):
    with pytest.raises(ValueError, match=r"^name = '.*': must name one folder under output_path"):
        config.override(run, {"name": name})
    assert config.override(run, {"name": "..a b"}).name == "..a b"


@pytest.mark.parametrize("run", [train_generator.xar_b(), train_generator.far_b()])
@pytest.mark.parametrize(
    "field", ["grid_size", "width", "num_heads", "mlp_multiple", "num_classes"]
)
def test_sizes_of_generators_are_at_least_one(run, field):
    with pytest.raises(ValueError, match=rf"model\.{field} = 0: must be at least 1"):
        config.override(run, {f"model.{field}": 0})


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("data.output_form", "webdataset", "must be 'parquet', which the later stages read"),
        ("evaluation.samples_paths", ("a", "b"), "must be empty: the samples of this run"),
        ("far_evaluation.samples_paths", ("a", "b"), "must be empty: the samples of this run"),
    ],
)
def test_a_quickstart_refuses_at_once_what_a_later_stage_would(field, value, text):
    with pytest.raises(ValueError, match=rf"{field} = .*{text}"):
        config.override(quickstart.quickstart(), {field: value})


def test_a_cell_has_a_side():
    with pytest.raises(ValueError, match=r"model\.cell_size = 0: must be at least 1"):
        config.override(train_generator.xar_b(), {"model.cell_size": 0})


@pytest.mark.parametrize(
    ("workers", "micro_batch", "passes"),
    [(1, 30, 8), (2, 30, 4), (8, 30, 1), (16, 15, 1), (5, 24, 2)],
)
def test_the_global_batch_is_kept_at_any_number_of_workers(workers, micro_batch, passes):
    schedule = train_tokenizer.glotok_16k().schedule
    assert schedule.micro_batch(workers) == micro_batch
    assert schedule.accumulation_steps(workers) == passes
    assert workers * micro_batch * passes == 240


def test_a_number_of_workers_that_cannot_keep_it_is_refused_with_the_arithmetic():
    with pytest.raises(ValueError, match=r"240 = 7 \* 34 \+ 2\); take 6 or 8 workers"):
        train_tokenizer.glotok_16k().schedule.micro_batch(7)


def test_paper_arithmetic():
    schedule = train_tokenizer.glotok_16k().schedule
    assert schedule.steps_per_epoch(1281167) == 5338
    assert schedule.steps_per_epoch(1281167) * schedule.epochs == 800700
    with pytest.raises(ValueError, match="exceeds the training set of 100 images"):
        schedule.steps_per_epoch(100)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        (train_tokenizer.glotok_16k, "loss.relation_weight"),
        (train_tokenizer.glotok_16k, "loss.relation.alpha"),
        (train_tokenizer.glotok_16k, "optimizer.learning_rate"),
        (train_tokenizer.glotok_16k, "scaling.stall_minutes"),
        (config.XARRun, "optimizer.gradient_clip"),
        (config.XARRun, "flow.label_dropout"),
        (config.FARRun, "optimizer.weight_decay"),
        (config.XARSampleRun, "sampler.guidance_scale"),
        (config.FARSampleRun, "sampler.temperature"),
        (config.KMeansConfig, "memory_gib"),
        (config.EncodeRun, "pool.cpus_per_actor"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_by_name(recipe, field, value):
    name = field.rpartition(".")[2]
    with pytest.raises(ValueError, match=rf"{name} = -?(inf|nan): must"):
        config.override(recipe(), {field: value})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"space.0.values": (0.0, math.inf)}, r"space \(.*\)\.values\.1 = inf: must be a finite"),
        ({"space.0.values": (0.0, -0.1)}, r"relation_weight\) = .*must not be negative"),
        ({"space.2.values": (1.0, 0.0)}, r"alpha_factor\) = .*must be positive"),
        ({"space.1.values": ()}, r"values = \(\): is empty, and so are words and the range"),
        ({"space.1.words": ("many",)}, r"words = .*holds words or numbers"),
        ({"space.0.low": 2.0}, r"low = 2\.0: must not be above high = 0\.0"),
        ({"space.0.log": True}, r"low = 0\.0: must be above 0 with log"),
        ({"space.0.high": 1.0}, r"search = 'grid': has no points for the ranges of loss\.relation"),
        ({"space.1.field": "alpha_factor"}, r"space = .*none of them twice"),
        ({"scheduler": "asha"}, r"evaluate_every_steps = 0: must lie between 0 and max_steps"),
        ({"metric": "fid"}, r"metric = 'fid': needs evaluation\.inception_path"),
        ({"grace_steps": 2001}, r"grace_steps = 2001: must not be above max_steps = 2000"),
        ({"num_finalists": 2, "finalist_seeds": (0, 1)}, r"finalist_seeds = .*not tokenizer\.seed"),
        ({"max_steps": 0}, r"max_steps = 0: must be at least 1"),
        ({"max_concurrent_trials": 0}, r"max_concurrent_trials = 0: must be at least 1"),
    ],
)
def test_a_search_space_that_cannot_be_trained_is_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        config.override(config.SweepRun(), changes)
