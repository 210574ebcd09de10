"""Files of an evaluation: those that it leaves beside metrics.json, the baselines that stand beside its samples, and
the images of samples.npz, which it reads block by block.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from glotok_ray.storage.artefact import ArtefactError

RECONSTRUCTIONS_FILE = "reconstructions.npz"
CODE_COUNTS_FILE = "code_counts.npz"
RETENTION_FILE = "retention.npz"
"""Kept validation crops as "inputs" and, decoded from all codes and from each codebook's alone, as "both" and under the
codebooks' names.
"""
BASELINES = {
    "baseline_uniform": "codes drawn uniformly",
    "baseline_marginal": "codes drawn from each position's training marginal",
}


class StoredImages(NamedTuple):
    """Layout of arr_0 in an uncompressed npz."""

    offset: int
    shape: tuple[int, ...]
    """(n, h, w, 3)."""


def stored_images(path: Path) -> StoredImages:
    """Where arr_0 lies in `path`; raises ArtefactError unless it is uint8 NHWC, stored without
    compression.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("arr_0.npy")
            with archive.open(entry) as member:
                version = np.lib.format.read_magic(member)
                reader = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, fortran_order, dtype = reader(member)
                header_bytes = member.tell()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArtefactError(
            f"{path}: holds no readable arr_0 ({error}); run jobs.sample_images again"
        ) from None
    layout_is_right = len(shape) == 4 and shape[-1] == 3 and dtype == np.uint8 and not fortran_order
    if not layout_is_right or entry.compress_type != zipfile.ZIP_STORED:
        raise ArtefactError(
            f"{path}: arr_0 is {dtype} {shape}, compression {entry.compress_type}; "
            "needs uint8 (n, h, w, 3) written by numpy.savez without compression"
        )
    with path.open("rb") as stream:
        stream.seek(entry.header_offset + 26)
        name_bytes, extra_bytes = np.frombuffer(stream.read(4), "<u2").tolist()
    return StoredImages(entry.header_offset + 30 + name_bytes + extra_bytes + header_bytes, shape)


def read_images(path: Path, start: int, stop: int) -> UInt8[np.ndarray, "b h w 3"]:
    """Images start .. stop of samples.npz, without reading the others."""
    layout = stored_images(path)
    stored = np.memmap(path, np.uint8, "r", offset=layout.offset, shape=layout.shape)
    return np.array(stored[start:stop])
