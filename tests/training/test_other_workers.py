"""Runs that go on with other numbers of workers and other ZeRO stages: nothing is lost, and the losses go on."""

from pathlib import Path

import other_workers
import pytest
import torch
from other_workers import ALONE, KINDS, MOVED, SAVED, TOGETHER
from safetensors.torch import load_file
from two_workers import run_pair

from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.pieces import STEP, Stretch, add_pieces, read_pieces
from glotok_ray.training.snapshot import Snapshot

# Sums over workers and over passes are rounded in another order: 3e-6 was seen.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two workers, then one, then two."""
    found = tmp_path_factory.mktemp("other")
    for phase, world_size in (("undisturbed", 2), ("alone", 1), ("together", 2)):
        run_pair(Path(other_workers.__file__), found, phase, world_size=world_size)
    return found


def curve(folder: Path, phase: str, name: str) -> list[float]:
    return torch.load(folder / f"{phase}.pt", weights_only=True)[name]


def whole(folder: Path) -> dict[str, torch.Tensor]:
    """All pieces of a checkpoint joined: by file, kind and parameter."""
    parts: dict[tuple[str, str, str], dict[int, torch.Tensor]] = {}
    for path in sorted(folder.rglob("*-0*.safetensors")):
        place = f"{path.parent.name if path.parent != folder else ''}/{path.name.split('-')[0]}"
        for key, value in load_file(path).items():
            kind, start, name = key.split(":", 2)
            parts.setdefault((place, kind, name), {})[int(start)] = value
    joined = {}
    for key, found in parts.items():
        pieces = [found[start] for start in sorted(found)]
        alone = key[1] == STEP or len(pieces) == 1
        joined["|".join(key)] = pieces[0] if alone else torch.cat(pieces)
    return joined


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_whatever_was_in_parts_is_taken_up_to_the_bit(folder: Path, name: str) -> None:
    start = whole(folder / f"{name}-start")
    kinds = {key.split("|")[1] for key in start}
    assert kinds >= {"master", "exp_avg", "exp_avg_sq", STEP, "average"}
    engines = {key.split("|")[0] for key in start if "|master|" in key}
    expected = {"tokenizer": {"tokenizer/engine", "discriminator/engine"}}
    assert engines == expected.get(name, {"generator/engine"})
    assert any(value.abs().max() > 0 for key, value in start.items() if "exp_avg_sq" in key)
    for stage in ALONE:
        assert_same(whole(folder / f"{name}-taken-{stage}"), start)
    for stage, later in TOGETHER:
        found = whole(folder / f"{name}-again-{stage}-{later}")
        assert_same(found, whole(folder / f"{name}-alone-{stage}"))
    assert len(list((folder / f"{name}-start").rglob("engine-*"))) == 2 * len(engines)
    assert len(list((folder / f"{name}-alone-3").rglob("engine-*"))) == len(engines)


@pytest.mark.slow
def test_the_use_of_codes_is_the_sum_of_all_workers(folder: Path) -> None:
    states = [
        torch.load(folder / f"tokenizer-{what}" / "code-counts.pt", weights_only=True)
        for what in ("start", "taken-3", "alone-3", "again-3-2")
    ]
    start, taken, alone, again = (state["restart"]["semantic"] for state in states)
    assert torch.equal(start, taken)
    assert torch.equal(alone, again)
    # 64 tokens of each of eight images, and as many for every step.
    assert start.sum() == SAVED * 8 * 64
    assert alone.sum() == MOVED * 8 * 64


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_the_losses_go_on_as_if_nothing_had_changed(folder: Path, name: str) -> None:
    expected = curve(folder, "undisturbed", name)
    assert len(set(expected)) == len(expected)
    for stage in ALONE:
        found = curve(folder, "alone", f"{name}-{stage}")
        assert found == pytest.approx(expected[SAVED:MOVED], rel=TOLERANCE), stage
    for stage, later in TOGETHER:
        found = curve(folder, "together", f"{name}-{stage}-{later}")
        assert found == pytest.approx(expected[MOVED:], rel=TOLERANCE), (stage, later)


def test_pieces_are_cut_anew_and_a_missing_one_is_named(tmp_path: Path) -> None:
    weight = torch.arange(10.0)
    for rank, (start, end) in enumerate(((0, 4), (4, 10))):
        copies = Snapshot()
        columns = {"master": [weight[start:end]], STEP: [torch.tensor([3.0 + rank])]}
        add_pieces(copies, "engine", rank, [Stretch("weight", start, end - start)], columns)
        copies.write(tmp_path)
    for start, end in ((0, 10), (2, 7), (9, 10), (0, 3)):
        found = {"master": [torch.full((end - start,), -1.0)], STEP: [torch.zeros(1)]}
        read_pieces(tmp_path, "engine", [Stretch("weight", start, end - start)], found, 0.6)
        assert torch.equal(found["master"][0], weight[start:end])
        assert found[STEP][0] == (3 if end <= 4 else 4)
    (tmp_path / "engine-0000.safetensors").unlink()
    whole_column = {"master": [torch.zeros(10)], STEP: [torch.zeros(1)]}
    with pytest.raises(ArtefactError, match=r"4 numbers of weight are in none of its 1 files eng"):
        read_pieces(tmp_path, "engine", [Stretch("weight", 0, 10)], whole_column)
