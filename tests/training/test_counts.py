"""What is recorded of the recipes' models is what a count says, and is taken for those alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from recorded_counts import recipe_runs

from glotok_ray.config import override
from glotok_ray.recipes import train_generator, train_tokenizer
from glotok_ray.training import counts
from glotok_ray.training.counted import count_run

REMEDY = "python -m tests.training.recorded_counts"


@pytest.mark.slow
def test_recorded_counts_are_those_of_a_count_now() -> None:
    recorded = json.loads(counts.RECORDED.read_text())
    assert recorded["sources"] == counts.sources_digest(), REMEDY
    runs = {counts.key_of(run): (name, run) for name, run in recipe_runs()}
    assert set(recorded["counts"]) == set(runs), REMEDY
    for key, (name, run) in runs.items():
        found, expected = counts._recorded()[key], count_run(run).counts
        assert counts.counts_of(run) is found
        assert found == expected, f"{name}: {REMEDY}"
        assert list(found.modules) == list(expected.modules)


@pytest.mark.parametrize(
    ("recipe", "changes", "is_recorded"),
    [
        ("quickstart", {"schedule.epochs": 3, "scaling.num_workers": 4, "output_path": "x"}, True),
        ("quickstart", {"loss.relation_weight": 0.7}, True),
        ("quickstart", {"scaling.use_gpu": True}, False),
        ("quickstart", {"scaling.precision": "bf16_autocast"}, False),
        ("quickstart", {"scaling.activation_checkpointing": True}, False),
        ("quickstart", {"loss.perceptual_weight": 0.0}, False),
        ("quickstart", {"loss.perceptual_network": "lpips_vgg"}, False),
        ("quickstart", {"discriminator.base_channels": 24}, False),
        ("quickstart", {"model.codebooks.0.size": 96}, False),
        ("xar_b", {"optimizer.learning_rate": 1e-3}, True),
        ("xar_b", {"flow.context": "clean"}, False),
        ("xar_b", {"model.depth": 22}, False),
    ],
)
def test_a_count_is_taken_for_settings_that_change_nothing_of_it(
    recipe: str, changes: dict[str, object], is_recorded: bool
) -> None:
    recipes = train_generator.RECIPES if recipe.startswith("xar") else train_tokenizer.RECIPES
    run = override(recipes[recipe](), changes)
    assert (counts.key_of(run) in counts._recorded()) == is_recorded


def test_counts_of_other_sources_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_tokenizer.quickstart()
    recorded = json.loads(counts.RECORDED.read_text())
    recorded["counts"][counts.key_of(run)]["sizes"] = [1, 2]
    monkeypatch.setattr(counts, "RECORDED", tmp_path / "counts.json")
    for sources, sizes in ((recorded["sources"], (1, 2)), ("other", count_run(run).counts.sizes)):
        counts.RECORDED.write_text(json.dumps({**recorded, "sources": sources}))
        counts._recorded.cache_clear()
        assert counts.counts_of(run).sizes == sizes
    counts.RECORDED.unlink()
    counts._recorded.cache_clear()
    assert counts.counts_of(run) == count_run(run).counts
    monkeypatch.undo()
    counts._recorded.cache_clear()


def test_every_source_of_a_count_is_there_and_changes_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(counts.__file__).parents[1]
    assert all(list(package.glob(pattern)) for pattern in counts._SOURCES)
    copied = tmp_path / "glotok_ray"
    for path in counts._sources():
        target = copied / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    before = counts.sources_digest()
    monkeypatch.setattr(counts, "__file__", str(copied / "training" / "counts.py"))
    assert counts.sources_digest() == before
    for path in (copied / "nn" / "xar.py", copied / "config" / "var.py", copied / "devices.py"):
        path.write_bytes(path.read_bytes() + b"\n")
        now = counts.sources_digest()
        assert now != before
        before = now


def test_what_a_count_loads_of_models_is_among_its_sources() -> None:
    script = "import glotok_ray.training.counted, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    package = Path(counts.__file__).parents[1]
    known = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for path in counts._sources()
    }
    loaded = {name for name in done.stdout.split() if name.startswith("glotok_ray.nn.")}
    assert loaded
    assert loaded <= known


def test_models_that_are_left_unfilled_have_the_same_shapes_and_import_no_sympy() -> None:
    script = """
import sys
from glotok_ray.pretrained.generator import build_generator
from glotok_ray.recipes.export_generator import RECIPES
from glotok_ray.training.without_numbers import LeftUnfilled, on_meta_device
model, shapes = RECIPES["xar_b"]().model, []
for context in (LeftUnfilled(), on_meta_device()):
    with on_meta_device(), context:
        shapes.append([tuple(each.shape) for each in build_generator(model).parameters()])
    print("sympy" in sys.modules)
assert shapes[0] == shapes[1]
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["False", "True"]
