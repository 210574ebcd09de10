"""Codes of a few images of two classes, as `jobs.encode_images` leaves them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glotok_ray.data.codes import stored_codes, write_code_dataset, write_code_shard
from glotok_ray.pretrained.tokenizer import code_layout
from glotok_ray.storage import artefact

CLASSES = np.arange(16) % 2
"""Of the images."""


def write_codes(folder: Path, grids: Sequence[np.ndarray]) -> None:
    """The codes of 16 images in `folder`/codes, by the tokenizer in `folder`/tokenizer, one array per grid."""
    (folder / "codes").mkdir()
    layout = code_layout(folder / "tokenizer")
    keys = [str(key) for key in range(16)]
    path = folder / "codes/part-00000.parquet"
    shard = write_code_shard(path, keys, CLASSES, stored_codes(grids, layout), layout)
    write_code_dataset(
        folder / "codes",
        [shard],
        layout,
        num_views=1,
        classes=["a", "b"],
        tokenizer_sha256=artefact.sha256_of(folder / "tokenizer/tokenizer.safetensors"),
        details={"views": "center"},
    )
    artefact.write_manifest(folder / "codes", "codes")
