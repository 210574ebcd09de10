"""What a shard of images, or a file of codes, says of itself while its job is unfinished, so that a killed job goes on
behind it.

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
    _write(shard, {**written._asdict(), "info": vars(written.info)})


def finished_shard(shard: Path) -> WrittenShard | None:
    """What the receipt says; None where there is none, or where the shard is not what it says: its bytes are read."""
    facts = _read(shard)
    try:
        written = WrittenShard(**{**facts, "info": ShardInfo(**facts["info"])})
    except (KeyError, TypeError):
        return None
    if not written.info.rows:
        return written
    return written if _holds(shard, written.bytes, written.info.sha256) else None


def write_codes_receipt(file: Path, size: int, sha256: str) -> None:
    """Of a file of codes that was written just now, of so many bytes."""
    _write(file, {"bytes": size, "sha256": sha256})


def is_whole(file: Path) -> bool:
    """Whether a file of codes has a receipt and is what it says: its bytes are read. Raises OSError."""
    facts = _read(file)
    return {"bytes", "sha256"} <= facts.keys() and _holds(file, facts["bytes"], facts["sha256"])


def _write(shard: Path, facts: dict[str, Any]) -> None:
    path = receipt_of(shard)
    path.parent.mkdir(exist_ok=True)
    artefact.write_json(path, facts)


def _read(shard: Path) -> dict[str, Any]:
    """Empty where there is none, or none that can be read: a machine that lost its power may leave zeros."""
    path = receipt_of(shard)
    if not path.is_file():
        return {}
    try:
        facts = artefact.read_json(path)
    except ArtefactError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _holds(shard: Path, size: int, sha256: str) -> bool:
    is_there = shard.is_file() and shard.stat().st_size == size
    return is_there and artefact.sha256_of(shard) == sha256
