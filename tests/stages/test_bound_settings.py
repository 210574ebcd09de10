"""Which settings a run may be resumed with, and which make it another run."""

import pytest

from glotok_ray.config import TeacherRun, TokenizerRun, bound_settings, from_dict, override, to_dict
from glotok_ray.recipes.build_teacher import RECIPES as TEACHERS
from glotok_ray.recipes.generator_ablations import RECIPES as GENERATOR_ABLATIONS
from glotok_ray.recipes.sweep_tokenizer import RECIPES as SWEEPS
from glotok_ray.recipes.tokenizer_ablations import RECIPES as TOKENIZER_ABLATIONS
from glotok_ray.recipes.train_generator import RECIPES as GENERATORS
from glotok_ray.recipes.train_tokenizer import RECIPES as TOKENIZERS
from glotok_ray.stages import sweep_tokenizer, training
from glotok_ray.stages.tokenizer_rows import TokenizerRows
from glotok_ray.storage import artefact, output, ownership
from glotok_ray.storage.artefact import ArtefactError

RUNS = {"tokenizer": TOKENIZERS["glotok_16k"](), "generator": GENERATORS["xar_b"]()}


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize(
    "change",
    [
        {"scaling.num_workers": 2},
        {"scaling.min_workers": 1},
        {"scaling.zero_stage": 3},
        {"scaling.unit_rows": 64},
        {"scaling.max_failures": 9},
        {"schedule.stop_after_steps": 5},
        {"schedule.micro_batch_size": 1},
        {"schedule.checkpoint_every_minutes": 1.0},
        {"schedule.checkpoint_every_steps": 7},
        {"audit_keys": True},
        {"schedule.profile_steps": 3},
        {"launcher": "local", "scaling.num_workers": 1},
    ],
)
def test_what_changes_neither_weights_nor_order_is_free(kind, change) -> None:
    assert bound_settings(override(RUNS[kind], change)) == bound_settings(RUNS[kind])


@pytest.mark.parametrize("change", [{"data.max_bad_rows": 7}, {"data.adm_protocol": False}])
def test_what_is_let_pass_may_be_more_afterwards(change) -> None:
    run = RUNS["tokenizer"]
    assert bound_settings(override(run, change)) == bound_settings(run)


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize(
    "change", [{"data.open_shards": 9}, {"seed": 3}, {"schedule.global_batch_size": 480}]
)
def test_what_changes_the_order_of_rows_is_bound(kind, change) -> None:
    assert bound_settings(override(RUNS[kind], change)) != bound_settings(RUNS[kind])


def test_a_run_of_before_goes_on_where_later_settings_stand_for_what_was() -> None:
    """Of commit 0933aa9, whose loss had none of them."""
    later = {"entropy_epsilon", "entropy_epsilon_placing", "discriminator_loss_scale"}
    assert not later & set(bound_settings(RUNS["tokenizer"])["loss"])
    changed = override(RUNS["tokenizer"], {"loss.discriminator_loss_scale": 0.5})
    assert bound_settings(changed)["loss"]["discriminator_loss_scale"] == 0.5


def test_a_config_of_before_loads_with_what_was() -> None:
    run = RUNS["tokenizer"]
    plain = to_dict(run)
    for name in ("entropy_epsilon", "entropy_epsilon_placing", "discriminator_loss_scale"):
        del plain["loss"][name]
    assert from_dict(TokenizerRun, plain) == run


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer.scaling.num_workers": 4},
        {"tokenizer.data.adm_protocol": False},
        {"tokenizer.schedule.checkpoint_every_minutes": 7.0},
        {"evaluation.pool.num_actors": 2},
        {"evaluation.adm_protocol": False},
        {"max_concurrent_trials": 3},
    ],
)
def test_a_sweep_goes_on_with_other_workers(change) -> None:
    sweep = SWEEPS["glotok_16k"]()
    assert sweep_tokenizer.bound_settings(
        override(sweep, change)
    ) == sweep_tokenizer.bound_settings(sweep)


def test_a_sweep_is_bound_to_what_its_trials_are() -> None:
    sweep = SWEEPS["glotok_16k"]()
    for change in ({"tokenizer.seed": 4}, {"evaluation.num_images": 7}, {"max_steps": 30000}):
        assert sweep_tokenizer.bound_settings(
            override(sweep, change)
        ) != sweep_tokenizer.bound_settings(sweep)


def test_sweeps_and_ablations_are_bound_to_the_weights_that_measure(tmp_path) -> None:
    weights = tmp_path / "inception.pth"
    change = {"evaluation.inception_path": str(weights)}
    sweep = override(SWEEPS["glotok_16k"](), change)
    rows = TokenizerRows(override(TOKENIZER_ABLATIONS["ablations"](), change), tmp_path)
    found = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        found.append((sweep_tokenizer.bound_settings(sweep), rows.bound_settings()))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


@pytest.mark.parametrize(
    "change",
    [
        {"generator.scaling.num_workers": 4},
        {"samples.pool.num_actors": 2},
        {"evaluation.pool.use_gpu": False},
        {"rows": ("cell_8",)},
        {"max_concurrent_rows": 3},
    ],
)
def test_ablations_go_on_with_other_workers(change) -> None:
    ablation = GENERATOR_ABLATIONS["ablations"]()
    assert bound_settings(override(ablation, change)) == bound_settings(ablation)
    assert bound_settings(override(ablation, {"samples.seed": 9})) != bound_settings(ablation)


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer.scaling.num_workers": 4},
        {"evaluation.pool.use_gpu": False},
        {"rows": ("glotok",)},
        {"inputs": "quickstart"},
        {"max_concurrent_rows": 3},
    ],
)
def test_ablations_of_tokenizers_do_too(change, tmp_path) -> None:
    ablation = TOKENIZER_ABLATIONS["ablations"]()

    def bound(changes):
        return TokenizerRows(override(ablation, changes), tmp_path).bound_settings()

    assert bound(change) == bound({})
    for other in ({"max_steps": 9}, {"tokenizer.seed": 9}, {"evaluation.num_images": 9}):
        assert bound(other) != bound({})


def test_a_run_of_older_versions_without_its_hidden_mark_is_bound_by_run_json(tmp_path) -> None:
    run = override(RUNS["generator"], {"output_path": str(tmp_path), "name": "run"})
    folder = tmp_path / "run"
    first, second = (
        output.look(folder, "generator", bound_settings(override(run, {"seed": seed})))
        for seed in (1, 2)
    )
    artefact.write_json(folder / "run.json", {"fingerprint": first.fingerprint})
    with (
        ownership.holding(),
        pytest.raises(ArtefactError, match="unfinished work of other settings"),
    ):
        training._open_folder(second, run, {})
    with ownership.holding():
        training._open_folder(first, run, {"crops": "CROPS"})
    # From now on the mark alone says it, and a copy without it says nothing.
    assert artefact.read_json(folder / "run.json") == {"crops": "CROPS"}
    with ownership.holding(), pytest.raises(ArtefactError, match="unfinished work of other"):
        training._open_folder(second, run, {})
    (folder / ".begun.json").unlink()
    with (
        ownership.holding(),
        pytest.raises(ArtefactError, match=r"no \.begun\.json, .*copy that hidden file"),
    ):
        training._open_folder(first, run, {})


def test_teachers_of_before_are_recognised() -> None:
    """Digests of commit 753d8dd, where the fields of `network` and `kmeans` lay beside them."""
    settings = {
        "data_path": "/data/train",
        "network.name": "clip_vitl14",
        "network.weights_path": "/weights/clip.pt",
        "network.weights_sha256": "ab",
        "network.block": -2,
        "network.projected": True,
        "network.input_size": 448,
        "kmeans.num_clusters": 7,
        "kmeans.clusters_per_class": 3,
        "kmeans.iterations": 4,
        "kmeans.seeding": "kmeans++",
        "kmeans.restarts": 2,
        "kmeans.spherical": True,
        "kmeans.memory_gib": 2.0,
        "center": False,
        "project_width": 5,
        "seed": 9,
    }
    for run, digest in (
        (
            override(TeacherRun(), settings),
            "779e5f80e8cb152b5970456af7f6ba5a4439ab530900f145ae0c5388c96e737c",
        ),
        (
            override(TEACHERS["clip_per_class"](), {"data_path": "/data/train"}),
            "43a6367bc77f5ea63939d779597916586a46ce0b26ffb88e7c5ccf5d2cefd420",
        ),
    ):
        assert artefact.fingerprint("teacher", bound_settings(run), []) == digest
