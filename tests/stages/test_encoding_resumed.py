"""Encoding that was killed takes the files that its receipts vouch for, on a disk and in an object store.

Ray's pool is replaced by a loop of this process; test_batch_jobs.py and test_killed_anywhere.py run it with Ray.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.config import EncodeRun
from glotok_ray.data.written_shards import RECEIPTS, receipt_of
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.on_ray import actor_pool
from glotok_ray.stages import encode_images
from glotok_ray.storage import artefact, node_cache
from glotok_ray.storage.places import to_path
from tests.small_data import small_pool, write_shards
from tests.small_models import tiny_tokenizer

NAMES = ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]


class Pool:
    """In the place of Ray's: `encoded` names the shards, and after `last` of them the process is killed."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.last = len(NAMES)

    def __call__(
        self,
        units: Sequence[Any],
        actor_class: Callable[..., Any],
        constructor_kwargs: Mapping[str, Any],
        *_: Any,
        **__: Any,
    ) -> Iterator[Any]:
        actor = actor_class(**constructor_kwargs)
        self.encoded = []
        for unit in units:
            if len(self.encoded) == self.last:
                raise KeyboardInterrupt
            self.encoded.append(unit.file)
            yield actor(unit)


@pytest.fixture
def pool(monkeypatch: Any) -> Pool:
    found = Pool()
    monkeypatch.setattr(actor_pool, "map_shards", found)
    return found


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_shards(folder / "shards")
    torch.manual_seed(0)
    (folder / "tokenizer").mkdir()
    GloTokTokenizer(tiny_tokenizer()).save_pretrained(folder / "tokenizer")
    artefact.write_manifest(folder / "tokenizer", "tokenizer")
    return folder


@pytest.fixture(scope="module")
def _server() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture(params=["disk", "store"])
def root(request: Any, tmp_path: Path, monkeypatch: Any) -> Path:
    if request.param == "disk":
        return tmp_path
    request.getfixturevalue("_server")
    monkeypatch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    node_cache._known_digests.clear()
    return to_path(f"s3://{BUCKET}/{tmp_path.name}")


def encode_run(inputs: Path, folder: Path) -> EncodeRun:
    return EncodeRun(
        data_path=str(inputs / "shards"),
        tokenizer_path=str(inputs / "tokenizer"),
        output_path=str(folder),
        views="center",
        pool=replace(small_pool(), storage_retry_minutes=0.0),
    )


def kill(run: EncodeRun, pool: Pool, *, behind: int) -> None:
    pool.last = behind
    with pytest.raises(KeyboardInterrupt):
        encode_images.run(run)
    pool.last = len(NAMES)


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files but those that tell times."""
    changing = (artefact.MANIFEST, "counts.npz")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.name not in changing
    }


def zeroed(path: Path) -> None:
    """As a machine leaves a block that lost its power before the block was written; the file's end is there."""
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(360)
    path.write_bytes(bytes(data))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def receipt_zeroed(path: Path) -> None:
    receipt = receipt_of(path)
    receipt.write_bytes(bytes(len(receipt.read_bytes())))


def of_an_older_version(path: Path) -> None:
    receipt_of(path).unlink()


@pytest.mark.parametrize("damage", [zeroed, cut_off, receipt_zeroed, of_an_older_version])
def test_a_file_that_is_not_what_its_receipt_says_is_encoded_again(
    inputs: Path,
    root: Path,
    pool: Pool,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    folder = root / "codes"
    run = encode_run(inputs, folder)
    encode_images.run(encode_run(inputs, root / "undisturbed"))
    kill(run, pool, behind=2)
    damage(folder / NAMES[1])
    with caplog.at_level(logging.INFO):
        encode_images.run(run)
    assert pool.encoded == NAMES[1:]
    assert "1 of 3 files are finished already" in caplog.text
    assert "1 files are encoded again: they have no receipt" in caplog.text
    assert contents(folder) == contents(root / "undisturbed")
    artefact.read_manifest(folder, "codes", every_byte=True)


def test_whole_files_are_not_encoded_again_and_no_receipt_is_left(
    inputs: Path, root: Path, pool: Pool
) -> None:
    folder = root / "codes"
    run = encode_run(inputs, folder)
    kill(run, pool, behind=2)
    assert all(receipt_of(folder / name).is_file() for name in NAMES[:2])
    encode_images.run(run)
    assert pool.encoded == NAMES[2:]
    assert not any(RECEIPTS in path.parts for path in folder.rglob("*"))


def test_receipts_that_a_kill_behind_the_manifest_left_are_removed(
    inputs: Path, root: Path, pool: Pool, monkeypatch: Any
) -> None:
    run = encode_run(inputs, root / "codes")
    with monkeypatch.context() as patched:
        patched.setattr(encode_images, "_remove_working_files", lambda folder: None)
        manifest = encode_images.run(run)
    assert not any(RECEIPTS in name for name in manifest["files"])
    assert (root / "codes" / RECEIPTS).is_dir()
    assert encode_images.run(run) == manifest
    assert not (root / "codes" / RECEIPTS).exists()
