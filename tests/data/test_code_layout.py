"""Files of codes of any system: their columns, their types, what dataset.json says, and what readers refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glotok_ray.data.code_layout import CodeColumn, CodeLayout
from glotok_ray.data.codes import (
    read_code_shard,
    stored_codes,
    write_code_dataset,
    write_code_shard,
)
from glotok_ray.data.recorded import check_codes
from glotok_ray.data.records import read_dataset
from glotok_ray.storage.artefact import ArtefactError
from tests.small_models import tiny_tokenizer

LAYOUT = CodeLayout(
    256,
    (
        CodeColumn("scale_1x1", 4096, (1, 1)),
        CodeColumn("scale_2x2", 4096, (2, 2)),
        # Sorted by name it would come before the others.
        CodeColumn("scale_10x10", 2**18, (10, 10)),
        CodeColumn("depths", 8, (2, 2, 3)),
    ),
    "var",
)


def written(folder: Path) -> dict[str, np.ndarray]:
    """Two images of two views; returns their codes."""
    draw = np.random.default_rng(0)
    grids = [draw.integers(0, each.num_codes, (4, *each.shape)) for each in LAYOUT.columns]
    grids[2][0, 0, 0] = 2**18 - 1
    codes = stored_codes(grids, LAYOUT)
    shard = write_code_shard(
        folder / "part-00000.parquet", ["a", "b"], np.array([0, 1]), codes, LAYOUT
    )
    assert read_code_shard(folder / "part-00000.parquet", LAYOUT).info == shard.info
    write_code_dataset(
        folder,
        [shard],
        LAYOUT,
        num_views=2,
        classes=["x", "y"],
        tokenizer_sha256="d" * 64,
        details={},
    )
    return codes


def test_a_column_has_the_smallest_type_that_holds_its_codes() -> None:
    for size, kind in ((2, "uint16"), (65_536, "uint16"), (65_537, "uint32"), (2**18, "uint32")):
        assert CodeColumn("codes", size, (4,)).dtype == np.dtype(kind)


def test_rates_of_layouts() -> None:
    assert LAYOUT.num_indices == 1 + 4 + 100 + 12
    assert LAYOUT.bits == 12 + 48 + 1800 + 36
    assert LAYOUT.bytes_per_view == 2 + 8 + 400 + 24
    assert LAYOUT.grid_size == 0
    assert CodeLayout(16, (CodeColumn("codes", 8, (4,)),)).grid_size == 0
    assert CodeLayout(16, (CodeColumn("codes", 8, (4, 2)),)).grid_size == 0
    assert CodeLayout(16, (CodeColumn("codes", 8, (4, 4)),)).grid_size == 4


def test_files_say_what_the_grids_are_in_their_order(tmp_path: Path) -> None:
    codes = written(tmp_path)
    facts = json.loads((tmp_path / "dataset.json").read_text())
    assert (facts["system"], facts["bits"]) == ("var", LAYOUT.bits)
    assert "grid_size" not in facts
    info = read_dataset(tmp_path, verify=True)
    assert list(info.code_counts.items()) == list(LAYOUT.code_counts.items())
    assert (info.system, info.code_columns, info.num_indices) == ("var", LAYOUT.columns, 117)
    table = pq.read_table(tmp_path / "part-00000.parquet")
    assert table.schema.field("scale_10x10").type == pa.list_(pa.uint32(), 100)
    assert table.schema.field("depths").type == pa.list_(pa.uint16(), 12)
    for name, values in codes.items():
        np.testing.assert_array_equal(np.array(table[name].to_pylist()), values)
    check_codes(info, tmp_path, LAYOUT, Path("tokenizer"), "d" * 64)
    with np.load(tmp_path / "counts.npz") as counts:
        assert {name: counts[name].sum() for name in counts} == {
            "scale_1x1": 4,
            "scale_2x2": 16,
            "scale_10x10": 400,
            "depths": 48,
        }


def test_ours_keep_their_facts(tmp_path: Path) -> None:
    model = tiny_tokenizer()
    layout = CodeLayout.glotok(model)
    side = model.autoencoder.grid_size
    codes = stored_codes([np.zeros((1, side, side), np.int64)] * len(layout.columns), layout)
    shard = write_code_shard(tmp_path / "a.parquet", ["a"], np.array([0]), codes, layout)
    write_code_dataset(
        tmp_path, [shard], layout, num_views=1, classes=["x"], tokenizer_sha256="d", details={}
    )
    facts = json.loads((tmp_path / "dataset.json").read_text())
    assert facts["grid_size"] == side
    assert not facts.keys() & {"system", "grids", "bits"}
    assert read_dataset(tmp_path, verify=True).grids == layout.grids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts["grids"].pop(), "grids = .*must hold a name and a shape"),
        (lambda facts: facts["grids"][0].update(shape=[]), "grids = .*must hold a name"),
        (lambda facts: facts["grids"][0].update(shape=[-1, 1]), "grids = .*must hold a name"),
        (lambda facts: facts["grids"][0].update(name="other"), "grids = .*must hold a name"),
        (lambda facts: facts.update(grids=[]), "grids = .*must hold a name"),
        (lambda facts: facts.update(bits=3.5), r"bits = 3\.5: does not follow"),
        (lambda facts: facts["codebooks"].update(depths=0), "bits = .*does not follow"),
        (lambda facts: facts["codebooks"].update(depths=16), "bits = .*does not follow"),
        (lambda facts: facts.update(system=3), "system = 3: must be of type str"),
        (lambda facts: facts.pop("system"), "has no field 'grid_size'"),
    ],
)
def test_facts_that_disagree_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    written(tmp_path)
    facts = json.loads((tmp_path / "dataset.json").read_text())
    change(facts)
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(ArtefactError, match=rf"dataset\.json: {message}"):
        read_dataset(tmp_path)


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "part-00000.parquet"
    table = pq.read_table(path)
    short = table["depths"].combine_chunks().flatten()[:44]
    wrong = pa.FixedSizeListArray.from_arrays(short, 11)
    for other, found in (
        (table.drop(["depths"]), "is missing"),
        (table.drop(["depths"]).append_column("depths", wrong), r"is of type .*\[11\]"),
    ):
        pq.write_table(other, path)
        with pytest.raises(ArtefactError, match=rf"column 'depths' {found}; it must be of type"):
            read_code_shard(path, LAYOUT)


def test_codes_of_another_system_order_or_form_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    info = read_dataset(tmp_path)
    turned = CodeLayout(256, LAYOUT.columns[::-1], "var")
    flat = CodeLayout(256, (*LAYOUT.columns[:3], CodeColumn("depths", 8, (4, 3))), "var")
    for layout, message in (
        (CodeLayout(256, LAYOUT.columns, "rq_vae"), "system = var: the tokenizer T has rq_vae"),
        (CodeLayout(256, LAYOUT.columns), "system = var: the tokenizer T has glotok"),
        (CodeLayout(128, LAYOUT.columns, "var"), "image_size = 256"),
        (turned, "grids = "),
        (flat, "grids = "),
    ):
        with pytest.raises(ArtefactError, match=message):
            check_codes(info, tmp_path, layout, Path("T"), "d" * 64)


def test_arrays_of_another_form_and_codes_that_are_none_are_not_stored() -> None:
    grids = [np.zeros((2, *each.shape), np.int64) for each in LAYOUT.columns]
    with pytest.raises(ValueError, match="codes of 'depths': of shape"):
        stored_codes([*grids[:3], grids[3][:, :1]], LAYOUT)
    grids[2][1, 3, 4] = 2**18
    with pytest.raises(ValueError, match=r"'scale_10x10': holds code 262144; must be in"):
        stored_codes(grids, LAYOUT)
    grids[2][1, 3, 4] = -1
    with pytest.raises(ValueError, match="'scale_10x10': 1 of 200 positions have no code"):
        stored_codes(grids, LAYOUT)
