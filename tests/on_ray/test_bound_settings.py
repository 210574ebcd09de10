"""Which settings a run may be resumed with, and which make it another run."""

import pytest

from glotok_ray.config import TokenizerRun, from_dict, override, to_dict
from glotok_ray.on_ray.train import _bound_settings
from glotok_ray.recipes.generator import RECIPES as GENERATORS
from glotok_ray.recipes.tokenizer import RECIPES as TOKENIZERS

RUNS = {"tokenizer": TOKENIZERS["glotok_16k"](), "generator": GENERATORS["xar_b"]()}


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize(
    "change",
    [
        {"scaling.num_workers": 2},
        {"scaling.unit_rows": 64},
        {"scaling.max_failures": 9},
        {"schedule.stop_after_steps": 5},
        {"schedule.micro_batch_size": 1},
        {"schedule.checkpoint_every_minutes": 1.0},
        {"schedule.checkpoint_every_steps": 7},
        {"audit_keys": True},
    ],
)
def test_what_changes_neither_weights_nor_order_is_free(kind, change) -> None:
    assert _bound_settings(override(RUNS[kind], change)) == _bound_settings(RUNS[kind])


@pytest.mark.parametrize("change", [{"data.max_bad_rows": 7}, {"data.adm_protocol": False}])
def test_what_is_let_pass_may_be_more_afterwards(change) -> None:
    run = RUNS["tokenizer"]
    assert _bound_settings(override(run, change)) == _bound_settings(run)


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize(
    "change", [{"data.open_shards": 9}, {"seed": 3}, {"schedule.global_batch_size": 480}]
)
def test_what_changes_the_order_of_rows_is_bound(kind, change) -> None:
    assert _bound_settings(override(RUNS[kind], change)) != _bound_settings(RUNS[kind])


def test_a_run_of_before_goes_on_where_later_settings_stand_for_what_was() -> None:
    """Of commit 0933aa9, whose loss had none of them."""
    later = {"entropy_epsilon", "entropy_epsilon_placing", "discriminator_loss_scale"}
    assert not later & set(_bound_settings(RUNS["tokenizer"])["loss"])
    changed = override(RUNS["tokenizer"], {"loss.discriminator_loss_scale": 0.5})
    assert _bound_settings(changed)["loss"]["discriminator_loss_scale"] == 0.5


def test_a_config_of_before_loads_with_what_was() -> None:
    run = RUNS["tokenizer"]
    plain = to_dict(run)
    for name in ("entropy_epsilon", "entropy_epsilon_placing", "discriminator_loss_scale"):
        del plain["loss"][name]
    assert from_dict(TokenizerRun, plain) == run
