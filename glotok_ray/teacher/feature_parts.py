"""Feature vectors on disk: one Parquet part per image shard, with a JSON beside it that says the part is whole.

Read next: glotok_ray/teacher/clustering.py
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Float, Int

from glotok_ray.storage import artefact
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import to_path

_ROWS_PER_GROUP = 4096


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part: its file, its vectors, and the images that could not be decoded."""

    path: str
    count: int
    """Vectors."""
    images: int
    """Images that gave them."""
    broken: list[str] = field(default_factory=list)
    """Keys of images that cannot be decoded."""
    vectors_per_label: dict[str, int] = field(default_factory=dict)
    """Label as text (JSON has no other keys) to vectors."""


def write_part(
    path: Path,
    vectors: Float[np.ndarray, "n channels"],
    labels: Int[np.ndarray, " n"],
    *,
    images: int,
    broken: list[str],
) -> Part:
    """Write vectors (fp32) and labels; readers see no part or a whole one. Raises ValueError for vectors that are not
    finite, of which no cluster is the nearest.
    """
    broken_rows = int((~np.isfinite(vectors)).any(axis=1).sum())
    if broken_rows:
        raise ValueError(
            f"{path.stem}: {broken_rows} of {len(vectors)} feature vectors hold NaN or infinite values; check the "
            "network's weights"
        )
    flat = pyarrow.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    table = pyarrow.table(
        {
            "vector": pyarrow.FixedSizeListArray.from_arrays(flat, max(1, vectors.shape[1])),
            "label": pyarrow.array(labels.astype(np.int32)),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with artefact.replacing(path) as temporary:
        # Activations look like noise: neither compression nor dictionaries make them smaller.
        pyarrow.parquet.write_table(
            table,
            temporary,
            row_group_size=_ROWS_PER_GROUP,
            compression="NONE",
            use_dictionary=False,
            write_statistics=False,
        )
    counts = Counter(labels.tolist())
    part = Part(
        path=str(path),
        count=len(vectors),
        images=images,
        broken=broken,
        vectors_per_label={str(label): counts[label] for label in sorted(counts)},
    )
    artefact.write_json(_facts_path(path), asdict(part))
    return part


def finished_part(path: Path) -> Part | None:
    """The part at `path` if it was written to the end, wherever its folder has moved since."""
    if not path.is_file() or not _facts_path(path).is_file():
        return None
    return Part(**{**artefact.read_json(_facts_path(path)), "path": str(path)})


def read_vectors(part: Part) -> Float[np.ndarray, "n channels"]:
    """A part's vectors, fp32."""
    column = pyarrow.parquet.read_table(at_hand(to_path(part.path)), columns=["vector"])[
        "vector"
    ].combine_chunks()
    width = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def read_labels(part: Part) -> Int[np.ndarray, " n"]:
    """The label of each vector of a part."""
    return pyarrow.parquet.read_table(at_hand(to_path(part.path)), columns=["label"])[
        "label"
    ].to_numpy()


def _facts_path(path: Path) -> Path:
    return path.with_suffix(".json")
