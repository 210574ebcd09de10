"""The short form of benchmarks.drills: three drills beside one undisturbed run, and proof that a drill can fail."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import drills
from benchmarks.drill_cases import DRILLS
from benchmarks.drill_runs import RUNS, STEPS, UNDISTURBED, DrillFailed, Ground, Run, Told
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    made = Ground(tmp_path_factory.mktemp("drills"))
    made.prepare()
    return made


@pytest.mark.parametrize(
    ("name", "restarts"), [("driver_killed", 1), ("shards_away", 0), ("broken_row", 0)]
)
def test_a_drill_passes(ground: Ground, name: str, restarts: int) -> None:
    verdict = drills.run_drill(name, ground, away_s=4.0)
    assert (verdict.verdict, verdict.reason) == (drills.PASSED, "")
    assert verdict.restarts == restarts


@pytest.fixture
def copy(ground: Ground) -> Run:
    folder = ground.folder / RUNS / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ground.run(UNDISTURBED).folder, folder)
    return Run(folder)


def edit(path: Path, change) -> None:
    """Rewrite a file of JSON lines as `change` makes them of the old ones."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))


def test_an_equal_run_is_equal(ground: Ground, copy: Run) -> None:
    assert ground.compare(copy) == 0
    assert len(copy.curve()) == STEPS


def test_one_bit_of_a_figure_or_of_a_weight_is_seen(ground: Ground, copy: Run) -> None:
    def nudge(lines):
        for line in lines:
            if line["step"] == 7 and "train/total" in line:
                line["train/total"] *= 1 + 2**-52
        return lines

    edit(copy.folder / "metrics.jsonl", nudge)
    with pytest.raises(DrillFailed, match=r"other figures at steps \[7\]"):
        ground.compare(copy)
    shutil.copy(ground.run(UNDISTURBED).folder / "metrics.jsonl", copy.folder)
    weights = bytearray((copy.folder / WEIGHTS_FILE).read_bytes())
    weights[-1] ^= 1
    (copy.folder / WEIGHTS_FILE).write_bytes(weights)
    with pytest.raises(DrillFailed, match="other bytes"):
        ground.compare(copy)


def test_missed_repeated_and_other_keys_are_seen(ground: Ground, copy: Run) -> None:
    audit = copy.folder / "audit" / "rank-0001.jsonl"
    whole = audit.read_text()

    def keys_of(change, match: str, resumed=()) -> None:
        audit.write_text(whole)
        edit(audit, change)
        with pytest.raises(DrillFailed, match=match):
            ground.compare_keys(copy, resumed)

    keys_of(lambda lines: lines[:5] + lines[6:], r"never saw the keys of steps \[5\]")
    keys_of(lambda lines: [*lines[:6], *lines[4:]], "step 4 after 5: no start is told there")
    keys_of(lambda lines: [*lines[:6], *lines], "repeated 6 steps at 0", resumed=(0,))
    swapped = [{"step": 0, "keys": ["another"]}]
    keys_of(lambda lines: swapped + lines[1:], "rank 1 saw other keys at step 0")
    audit.write_text(whole)
    edit(audit, lambda lines: [*lines[:6], *lines[4:]])
    assert ground.compare_keys(copy, resumed=(4,)) == 2


def test_a_restart_that_is_not_told_is_seen(ground: Ground, copy: Run) -> None:
    with pytest.raises(DrillFailed, match="1 restarts expected; told: "):
        ground.compare(copy, [Told("killed", (2,))])


def test_a_misspelt_drill_is_answered_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        drills.main(["rank_in_stepp"])
    assert ended.value.code == 2
    assert f"rank_in_stepp: there is {', '.join(DRILLS)}" in capsys.readouterr().err
