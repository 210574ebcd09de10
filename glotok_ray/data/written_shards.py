"""What a shard of images says of itself while its job is unfinished, so that a killed job goes on behind it.

Read next: glotok_ray/data/records.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.data.records import ShardInfo
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError

RECEIPTS = "receipts"
"""In the folder of a split, until its job has ended."""


class WrittenShard(NamedTuple):
    """Facts of a written shard; `bytes` is the file's size, `unreadable` and `changed` map keys to reasons and to what
    was done, `turned` counts images that were turned by their EXIF orientation, `resized` those that were reduced, and
    `squared_errors` are those of the reduced ones that were compared with their originals.

    One without a readable image has no rows and no file.
    """

    info: ShardInfo
    bytes: int
    unreadable: dict[str, str]
    changed: dict[str, str]
    turned: int
    resized: int = 0
    squared_errors: Sequence[float] = ()


def receipt_of(shard: Path) -> Path:
    """Where the receipt of the shard file lies."""
    return shard.parent / RECEIPTS / f"{shard.name}.json"


def write_receipt(shard: Path, written: WrittenShard) -> None:
    """After the shard, so that what has a receipt is whole."""
    path = receipt_of(shard)
    path.parent.mkdir(exist_ok=True)
    artefact.write_json(path, {**written._asdict(), "info": vars(written.info)})


def finished_shard(shard: Path) -> WrittenShard | None:
    """What the receipt says; None where there is none, or where the shard is not what it says: its bytes are read."""
    path = receipt_of(shard)
    if not path.is_file():
        return None
    try:
        facts: dict[str, Any] = artefact.read_json(path)
        written = WrittenShard(**{**facts, "info": ShardInfo(**facts["info"])})
    except (ArtefactError, KeyError, TypeError):
        return None
    if not written.info.rows:
        return written
    is_there = shard.is_file() and shard.stat().st_size == written.bytes
    return written if is_there and artefact.sha256_of(shard) == written.info.sha256 else None
