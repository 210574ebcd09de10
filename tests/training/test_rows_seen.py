"""Broken rows are counted by their keys, whatever a library says of them at each reading."""

import numpy as np
import pytest
import torch

from glotok_ray.artefact import ArtefactError
from glotok_ray.data.records import decode_image
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.rows_seen import RowsSeen
from glotok_ray.training.worker import LocalWorker


def batch(*rows):
    keys, broken = zip(*rows, strict=True)
    return MicroBatch({"image": torch.zeros(len(rows))}, list(keys), list(broken))


def test_a_row_that_breaks_in_every_epoch_is_one_row(tmp_path):
    seen = RowsSeen(tmp_path, LocalWorker(), 1, audit=False)
    for step, address in ((3, "0x7f01"), (7, "0x7f02")):
        seen.add(step, [batch(("a", ""), ("b", f"row 'b': <BytesIO at {address}>"))])
        assert seen.judge() == 1
    # The same after a restart.
    seen = RowsSeen(tmp_path, LocalWorker(), 1, audit=False)
    seen.add(8, [batch(("b", "row 'b': <BytesIO at 0x7f03>"))])
    seen.add(9, [batch(("c", "row 'c': truncated"))])
    with pytest.raises(ArtefactError, match=r"2 different rows turned out broken.*first: row 'b'"):
        seen.judge()


def test_what_is_no_picture_is_said_in_the_same_words_each_time():
    texts = []
    for _ in range(2):
        with pytest.raises(ArtefactError, match="row 'k': its image cannot be decoded") as caught:
            decode_image(np.arange(20, dtype=np.uint8).tobytes(), "k")
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert "0x" not in texts[0]
