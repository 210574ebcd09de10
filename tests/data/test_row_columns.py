"""Rows as columns: the same rows in every order, on every way; and little memory for many."""

import pickle
import tracemalloc

import numpy as np

from benchmarks.sharding_driver import made_up_tree
from glotok_ray.data.folders import ImageFile
from glotok_ray.data.parquet_images import ParquetImage
from glotok_ray.data.row_columns import Rows, drawn, labels_of, sizes_of
from glotok_ray.data.tar_archives import TarImage

FILES = [
    ImageFile("a/0.jpg", 0, "/data/a/0.jpg", 7),
    ImageFile("a/deep/1.jpg", 0, "/data/a/deep/1.jpg", 0),
    ImageFile("ä/\\udcff.jpg", 1, "/data/ä/\udcff.jpg", 1 << 33),
    ImageFile("ä/😀.jpg", 300, "s3://bucket/data/ä/😀.jpg", 9),
    ImageFile("flat.jpg", 300, "flat.jpg", 9),
]


def test_rows_are_what_they_were() -> None:
    rows = Rows.of(FILES)
    assert list(rows) == FILES
    assert [rows[place] for place in range(-5, 5)] == FILES * 2
    assert rows[1:4] == FILES[1:4]
    assert rows != FILES[1:]
    assert isinstance(rows[0], ImageFile)
    assert [type(value) for value in rows[3]] == [str, int, str, int]
    assert (rows.labels.tolist(), rows.sizes.tolist()) == (
        [0, 0, 1, 300, 300],
        [7, 0, 1 << 33, 9, 9],
    )
    assert len(Rows.of([])) == 0
    assert list(Rows.of([])) == list(Rows.joined([])) == []
    assert pickle.loads(pickle.dumps(Rows.of([]))) == []


def test_drawn_rows_travel_alone() -> None:
    rows = Rows.joined([Rows.of(FILES[:2]), Rows.of([]), Rows.of(FILES[2:])])
    assert rows == FILES
    order = np.array([4, 2, 0])
    some = rows.drawn(order)[1:]
    assert some == [FILES[2], FILES[0]]
    assert drawn(FILES, order) == rows.drawn(order)
    assert labels_of(FILES).tolist() == labels_of(rows).tolist()
    assert sizes_of(some).tolist() == [1 << 33, 7]
    packed = pickle.dumps(some)
    assert pickle.loads(packed) == some
    many = Rows.of([ImageFile(f"c/{i}", 0, f"/d/c/{i}", i) for i in range(10_000)])
    assert len(pickle.dumps(many[:2])) < 1000


def test_rows_of_archives() -> None:
    tars = [TarImage("b/1.jpg", 1, "/t.tar", 1 << 40, 5), TarImage("a/1.jpg", 0, "/u.tar", 0, 6)]
    groups = [ParquetImage("a/1", 0, "/p", 3, 999, 10)]
    assert Rows.of(tars).sorted_by_key() == tars[::-1]
    assert Rows.of(tars).with_labels(np.array([7, 8]))[1] == tars[1]._replace(label=8)
    assert pickle.loads(pickle.dumps(Rows.of(groups))) == groups
    # Of UTF-8 as of code points, and twice the same key.
    keys = ["\U00010000", "\uffff", "b", "a", "b", "a/", "a b"]
    rows = Rows.of([TarImage(key, 0, "/t.tar", 0, 0) for key in keys]).sorted_by_key()
    assert [row.key for row in rows] == sorted(keys)
    assert rows.repeated_keys() == {"b"}


def test_a_listed_image_takes_some_bytes_of_the_driver() -> None:
    """As tuples of Python's each took 310; the benchmark source_forms measures all of the driver at ImageNet's size."""
    made_up_tree(2).shards()  # What is imported on the way does not count.
    tracemalloc.start()
    try:
        shards = made_up_tree(10).shards()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(len(rows) for parts in shards.values() for rows in parts) == 10_000
    assert held / 10_000 < 100
    assert peak / 10_000 < 200
