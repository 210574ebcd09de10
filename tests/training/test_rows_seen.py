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
from glotok_ray.training.rows_seen import AUDIT_FOLDER, RowsSeen
from glotok_ray.training.worker import LocalWorker


def batch(keys: list[str], broken: list[str] | None = None) -> MicroBatch:
    return MicroBatch({"x": torch.zeros(len(keys))}, keys, broken or [""] * len(keys))


def worker(rank: int) -> LocalWorker:
    made = LocalWorker()
    made.rank = rank
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
        again = RowsSeen(tmp_path, worker(rank), 2, audit=False)
        again.add(
            20, [batch(["b", f"c{rank}"], ["shard: row 'b': torn", f"shard: row 'c{rank}': torn"])]
        )
    assert (
        RowsSeen(tmp_path, worker(0), 3, audit=False).check_broken() == 0
    )  # nothing new in this attempt
    last = RowsSeen(tmp_path, worker(0), 3, audit=False)
    last.add(30, [batch(["d"], ["shard: row 'd': torn"])])
    with pytest.raises(
        ArtefactError, match=r"data\.max_bad_rows = 3: 4 different rows .*bad_rows.* row 'b': torn"
    ):
        last.check_broken()


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
    seen = RowsSeen(tmp_path, LocalWorker(), 1, audit=False)
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
