"""Objects as local files, for what opens files by name or reads them again: a folder per node, shared by its processes.

An entry is kept by the object's address and its content: the sha256 that the manifest beside it lists, which is then
checked, else what the store tells (tag and size). Above the limit the entries that were not used for longest go.
"""

import collections
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.digests import sha256_of
from glotok_ray.storage.object_streams import fetch
from glotok_ray.storage.places import is_remote
from glotok_ray.storage.stretches import numbered

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "GLOTOK_CACHE_PATH"
LIMIT_VARIABLE = "GLOTOK_CACHE_GIB"
_DEFAULT_GIB = 50.0
# An entry that somebody is about to open stays; what is open already outlives its removal.
_SPARED_S = 60.0
_LOCKS = 64
_ENTRIES, _LOCK_FOLDER = "entries", "locks"

# Of this process. An increment that two threads lose to each other changes no share that anybody sees.
_lookups: collections.Counter[str] = collections.Counter()
_known_digests: dict[str, tuple[Any, dict[str, str]]] = {}


@dataclass(frozen=True)
class NodeCache:
    """The cache in a folder of this node."""

    folder: Path
    limit_bytes: int
    """Of all entries together; entries of the last minute stay above it."""

    @classmethod
    def of_this_node(cls) -> "NodeCache":
        """The one that GLOTOK_CACHE_PATH and GLOTOK_CACHE_GIB name, else 50 GiB in the system's temporary folder.

        Raises ValueError for a limit that is no positive number.
        """
        default = Path(tempfile.gettempdir()) / f"glotok-cache-{os.getuid()}"
        text = os.environ.get(LIMIT_VARIABLE, "") or str(_DEFAULT_GIB)
        try:
            gib = float(text)
        except ValueError:
            gib = 0.0
        if not 0 < gib < float("inf"):
            raise ValueError(
                f"{LIMIT_VARIABLE} = {text!r}: must be a positive number of GiB, or not set"
            )
        return cls(Path(os.environ.get(FOLDER_VARIABLE, "") or default), int(gib * 2**30))

    def local(self, path: Path) -> Path:
        """A local copy of the object as it is now; raises ArtefactError for bytes that are not those of its manifest,
        FileNotFoundError, and OSError when the store does not answer.
        """
        digest = _listed_digest(path)
        entry = self._entry(path, digest)
        if self._is_used(entry):
            _lookups["hits"] += 1
            return entry
        _lookups["misses"] += 1
        with self._lock(entry.name[:8]):
            if not self._is_used(entry):
                self._fill(entry, path, digest)
        self._evict()
        return entry

    def held(self, path: Path) -> Path | None:
        """The local copy of the object as it is now, where there is one."""
        entry = self._entry(path, _listed_digest(path))
        return entry if self._is_used(entry) else None

    def _entry(self, path: Path, digest: str) -> Path:
        status: Any = path.stat()
        content = digest or f"{status.etag} {status.st_size} {status.st_mtime_ns}"
        key = hashlib.sha256(f"{path}\0{content}".encode()).hexdigest()[:32]
        return self.folder / _ENTRIES / f"{key}-{path.name}"

    def _is_used(self, entry: Path) -> bool:
        """Whether the entry is there; it then counts as used now."""
        try:
            os.utime(entry)
        except FileNotFoundError:
            return False
        return True

    def _fill(self, entry: Path, path: Path, digest: str) -> None:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with artefact.replacing(entry) as temporary:
            fetch(path, temporary)
            if digest and sha256_of(temporary) != digest:
                raise ArtefactError(artefact.damage_text(path))

    def _evict(self) -> None:
        """Remove what was not used for longest until the rest fits."""
        with self._lock("evict"):
            found = []
            for entry in (self.folder / _ENTRIES).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime, status.st_size, entry))
            excess = sum(size for _, size, _ in found) - self.limit_bytes
            for used, size, entry in sorted(found):
                if excess <= 0 or time.time() - used < _SPARED_S:
                    break
                entry.unlink(missing_ok=True)
                excess -= size

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Held by one process or thread of this node at a time, and given back when its process ends."""
        folder = self.folder / _LOCK_FOLDER
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if name != "evict":
            name = str(int(name, 16) % _LOCKS)
        with (folder / name).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def cache_facts() -> dict[str, float]:
    """Look-ups of this process so far, "cache_hits" and their share "cache_hit_share"; empty before the first."""
    hits, total = _lookups["hits"], _lookups.total()
    return {"cache_hits": hits, "cache_hit_share": hits / total} if total else {}


def at_hand(path: Path) -> Path:
    """A local file with the content of `path`: itself, or of an object its copy in this node's cache.

    The copy may be opened within a minute; what is open stays readable. Raises what `NodeCache.local` raises, with the
    numbers of errno, by which readers tell storage that is away from a file that is damaged.
    """
    if not is_remote(path):
        return path
    with numbered():
        return NodeCache.of_this_node().local(path)


def held(path: Path) -> Path | None:
    """What `at_hand` gives, where nothing needs to be fetched for it; else None."""
    if not is_remote(path):
        return path
    with numbered():
        return NodeCache.of_this_node().held(path)


def _listed_digest(path: Path) -> str:
    """The sha256 of an object in the manifest of its folder, or of the folder above; empty where none lists it."""
    for folder in (path.parent, path.parent.parent):
        found = _digests(folder).get(path.relative_to(folder).as_posix(), "")
        if found:
            return found
    return ""


def _digests(folder: Path) -> dict[str, str]:
    """What the manifest of a folder lists now: it is read again when the store tells another status of it."""
    path, key = folder / artefact.MANIFEST, str(folder)
    try:
        status = path.stat()
    # Whose key is for a prefix alone may not look above it.
    except (FileNotFoundError, PermissionError):
        _known_digests.pop(key, None)
        return {}
    known = _known_digests.get(key)
    if known is not None and known[0] == status:
        return known[1]
    found: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        files = json.loads(path.read_bytes())["files"]
        found = {name: facts["sha256"] for name, facts in files.items()}
    _known_digests[key] = status, found
    return found
