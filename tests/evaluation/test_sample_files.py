"""Images of samples.npz, packed or not, in parts; other files are refused in one line."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from glotok_ray.evaluation import sample_files
from glotok_ray.evaluation.sample_files import (
    image_blocks,
    read_images,
    stored_images,
    unpacked,
)
from glotok_ray.storage.artefact import ArtefactError

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 6, 5, 3), dtype=np.uint8)


@pytest.fixture(params=["savez", "savez_compressed"])
def samples(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    getattr(np, request.param)(tmp_path / "samples.npz", IMAGES, labels=np.arange(11))
    return tmp_path / "samples.npz"


def test_images_are_read_in_parts(samples: Path) -> None:
    assert stored_images(samples).shape == (11, 6, 5, 3)
    np.testing.assert_array_equal(read_images(samples, 2, 5), IMAGES[2:5])
    np.testing.assert_array_equal(read_images(samples, 9, 20), IMAGES[9:])
    assert read_images(samples, 4, 4).shape == (0, 6, 5, 3)
    assert read_images(samples, 0, 3).flags.writeable


@pytest.mark.parametrize("size", [1, 4, 11, 100])
def test_blocks_are_all_images_in_order(samples: Path, size: int) -> None:
    blocks = list(image_blocks(samples, size))
    assert {len(block) for block in blocks[:-1]} <= {size}
    np.testing.assert_array_equal(np.concatenate(blocks), IMAGES)


def test_a_packed_file_is_unpacked_once(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_files, "_BLOCK_BYTES", 200)
    found = unpacked(samples, tmp_path / "out")
    packed = stored_images(samples).compressed
    assert (found != samples) == packed
    assert not stored_images(found).compressed
    np.testing.assert_array_equal(read_images(found, 3, 8), IMAGES[3:8])
    np.testing.assert_array_equal(np.load(found)["arr_0"], IMAGES)
    written = found.stat().st_mtime_ns
    assert unpacked(samples, tmp_path / "out") == found
    assert found.stat().st_mtime_ns == written


def refused(path: Path) -> str:
    with pytest.raises(ArtefactError) as error:
        stored_images(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_other_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.npz"
    np.savez(path, images=IMAGES, labels=np.arange(11))
    assert "holds images, labels, not arr_0" in refused(path)
    np.savez_compressed(path, IMAGES / np.float32(255))
    assert "arr_0 is float32; images must be uint8 from 0 to 255: round them" in refused(path)
    np.savez(path, IMAGES.astype(np.int64))
    assert "arr_0 is int64 (11, 6, 5, 3); must be uint8 (n, height, width, 3)" in refused(path)
    np.savez(path, IMAGES.transpose(0, 3, 1, 2))
    assert "uint8 (11, 3, 6, 5)" in refused(path)
    np.savez(path, np.asfortranarray(IMAGES))
    assert "Fortran" in refused(path)
    np.savez(path, np.array([{"a": 1}], dtype=object))
    assert "arr_0 is object" in refused(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.npz"
    assert "No such file" in refused(path)
    path.write_bytes(b"no zip")
    assert "not a zip file" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", b"no array")
    assert "no readable arr_0" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        whole = tmp_path / "whole.npy"
        np.save(whole, IMAGES)
        archive.writestr("arr_0.npy", whole.read_bytes()[:-10])
    with pytest.raises(ArtefactError, match="ends before the last image"):
        list(image_blocks(path, 4))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", whole.read_bytes()[:-600])
    assert "ends before the last image" in refused(path)
