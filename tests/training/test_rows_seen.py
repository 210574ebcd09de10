"""What was seen: the audit of keys, and broken rows that are named and counted once over workers and restarts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from glotok_ray.data.records import decode_image
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.metrics_file import last_metrics, latest_metrics, read_lines
from glotok_ray.training.rows_seen import AUDIT_FOLDER, RowsSeen, check_broken_before
from glotok_ray.training.worker import LocalWorker


def batch(keys: list[str], broken: list[str] | None = None) -> MicroBatch:
    return MicroBatch({"x": torch.zeros(len(keys))}, keys, broken or [""] * len(keys))


def worker(rank: int, world_size: int = 1) -> LocalWorker:
    made = LocalWorker()
    made.rank, made.world_size = rank, world_size
    return made


def audited_keys(folder: Path) -> list[tuple[int, list[str]]]:
    """Steps and keys of all workers' audits in a run folder."""
    paths = sorted((folder / AUDIT_FOLDER).glob("*.jsonl"))
    lines = [line for path in paths for line in read_lines(path.read_text())]
    return [(line["step"], line["keys"]) for line in lines]


def test_the_audit_has_the_keys_of_every_step(tmp_path: Path) -> None:
    seen = RowsSeen(tmp_path, LocalWorker(), 0, audit=True)
    seen.add(4, [batch(["a", "b"]), batch(["c", "d"])])
    seen.add(5, [batch(["a", "d"])])
    assert audited_keys(tmp_path) == [(4, ["a", "b", "c", "d"]), (5, ["a", "d"])]
    RowsSeen(tmp_path / "other", LocalWorker(), 0, audit=False).add(0, [batch(["a"])])
    assert not (tmp_path / "other").exists()


def test_a_broken_row_is_named_and_counted_once(tmp_path: Path, caplog) -> None:
    seen = RowsSeen(tmp_path, LocalWorker(), 2, audit=False)
    assert seen.check_broken() == 0
    for step in (3, 9):
        seen.add(step, [batch(["a", "b"], ["", "shard: row 'b': torn"])])
    assert seen.check_broken() == 1
    assert [record.getMessage() for record in caplog.records] == [
        "step 3: a row is left out: shard: row 'b': torn"
    ]
    # The same row meets another worker in another epoch, and this one again after a restart.
    for rank in (0, 1):
        again = RowsSeen(tmp_path, worker(rank, 2), 2, audit=False, first_step=20)
        again.add(
            20, [batch(["b", f"c{rank}"], ["shard: row 'b': torn", f"shard: row 'c{rank}': torn"])]
        )
    # What was met before the checkpoint that an attempt goes on from is counted, without a new one.
    assert RowsSeen(tmp_path, worker(0), 3, audit=False, first_step=30).check_broken() == 3
    last = RowsSeen(tmp_path, worker(0), 3, audit=False, first_step=30)
    last.add(30, [batch(["d"], ["shard: row 'd': torn"])])
    with pytest.raises(
        ArtefactError, match=r"data\.max_bad_rows = 3: 4 different rows .*bad_rows.* row 'b': torn"
    ):
        last.check_broken()


def test_the_same_command_again_does_not_get_past_the_limit(tmp_path):
    for _ in range(3):
        seen = RowsSeen(tmp_path, LocalWorker(), 2, audit=False)
        for step in (0, 1):
            seen.add(step, [batch([f"k{step}"], ["torn"])])
        assert seen.check_broken() == 2
        seen.add(2, [batch(["k2"], ["torn"])])
        with pytest.raises(ArtefactError, match=r"max_bad_rows = 2: 3 different rows"):
            seen.check_broken()
    # All three lie before the checkpoint that is gone on from: nothing is met again.
    with pytest.raises(ArtefactError, match=r"max_bad_rows = 2: 3 different rows"):
        RowsSeen(tmp_path, LocalWorker(), 2, audit=False, first_step=3).check_broken()
    with pytest.raises(ArtefactError, match=r"= 2: 3 different rows .* before step 3, .*: torn"):
        check_broken_before(tmp_path, 3, 2)
    check_broken_before(tmp_path, 3, 3)
    check_broken_before(tmp_path, 2, 2)
    # The shards were repaired, and the steps are done again.
    seen = RowsSeen(tmp_path, LocalWorker(), 2, audit=False, first_step=1)
    seen.add(1, [batch(["k1"])])
    assert seen.check_broken() == 1
    assert "k1" not in (tmp_path / "bad_rows" / "rank-0000.jsonl").read_text()


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("of_ranks", [("ab", "bc"), ("", "abc")])
def test_rows_of_before_are_counted_once_over_workers_and_by_fewer(tmp_path, of_ranks, world_size):
    for rank, keys in enumerate(of_ranks):
        seen = RowsSeen(tmp_path, worker(rank, 2), 9, audit=False)
        seen.add(rank, [batch(list(keys), ["torn"] * len(keys))])
        seen.add(7, [batch([f"late {rank}"], ["torn"])])
    # From the checkpoint at step 5.
    of_all = [
        RowsSeen(tmp_path, worker(rank, world_size), 9, audit=False, first_step=5)
        for rank in range(world_size)
    ]
    # The sum over workers only says to all alike whether they count.
    assert sum(seen.own_broken for seen in of_all) > 0
    assert of_all[0].check_broken() == 3
    of_all[-1].add(7, [batch(["late 1"], ["torn"])])
    assert of_all[0].check_broken() == 4


def test_half_lines_are_passed_over() -> None:
    assert list(read_lines('{"a": 1}\n{"b"')) == [{"a": 1}]
    assert list(read_lines('5}\n3\n{"a": 1}')) == [{"a": 1}]


def test_the_latest_figures_are_those_of_the_whole_file(tmp_path: Path) -> None:
    assert latest_metrics(tmp_path) == {}
    lines = [{"step": step, "train/total": step / 7, "text": "x" * 200} for step in range(2000)]
    lines += [{"step": 1990, "event": "restart", "cause": "x"}, {"step": 2000, "eval/psnr": 1.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert latest_metrics(tmp_path) == last_metrics(tmp_path)


def test_a_row_that_breaks_in_every_epoch_is_one_row(tmp_path):
    seen = RowsSeen(tmp_path, LocalWorker(), 1, audit=False)
    for step, address in ((3, "0x7f01"), (7, "0x7f02")):
        seen.add(step, [batch(["a", "b"], ["", f"row 'b': <BytesIO at {address}>"])])
        assert seen.check_broken() == 1
    # The same after a restart.
    seen = RowsSeen(tmp_path, LocalWorker(), 1, audit=False, first_step=8)
    seen.add(8, [batch(["b"], ["row 'b': <BytesIO at 0x7f03>"])])
    seen.add(9, [batch(["c"], ["row 'c': truncated"])])
    with pytest.raises(ArtefactError, match=r"2 different rows turned out broken.*first: row 'b'"):
        seen.check_broken()


def test_what_is_no_picture_is_said_in_the_same_words_each_time():
    texts = []
    for _ in range(2):
        with pytest.raises(ArtefactError, match="row 'k': its image cannot be decoded") as caught:
            decode_image(np.arange(20, dtype=np.uint8).tobytes(), "k")
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert "0x" not in texts[0]
