"""What a job leaves behind: a folder whose manifest.json is written last and lists every file with its sha256.

A folder without a manifest is unfinished; one whose files differ from it is damaged. The manifest's fingerprint
(kind, config, input manifests) tells whether a finished folder answers the present question.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
# Marks a folder that a job of this package has begun, so that nothing else is ever emptied.
_BEGUN = ".begun.json"
_PACKAGES = ("ray", "torch", "torchvision", "deepspeed", "numpy", "pyarrow", "faiss-cpu", "timm")


class ArtefactError(ValueError):
    """A file or folder is missing, unfinished, damaged or made by other settings; the text names it and the remedy."""


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; at the end it takes the place of `path`, so that readers never see half a file.

    Of several processes that write the same file, the last one's stays. After an exception nothing of it is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    except BaseException:
        # A disk that is full must not stay so because of a file that nobody will read.
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


class HashingFile(io.BufferedIOBase):
    """A file open for writing, in one pass from its start, whose length and sha256 are known without reading it again.

    Any writer of streams takes it: torch.save, numpy.savez, pyarrow. Writers that seek are refused.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb", buffering=1 << 20)
        self._digest = hashlib.sha256()
        self.bytes = 0
        """Bytes written so far."""

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes written so far."""
        return self._digest.hexdigest()

    def write(self, data: Any, /) -> int:
        """Append bytes, or anything with the buffer protocol; returns their number."""
        view = memoryview(data)
        self._stream.write(view)
        self._digest.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    def sync(self) -> None:
        """Wait until the bytes are on the disk. There is no `fileno`: bytes written through it would not be hashed."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()

    def close(self) -> None:
        """Close the file; its length and digest stay readable."""
        try:
            super().close()
        finally:
            self._stream.close()


@contextmanager
def hashed_writer(path: Path) -> Iterator[HashingFile]:
    """A stream for `path`, which is replaced when all is written; `.sha256` and `.bytes` stay readable afterwards."""
    with replacing(path) as temporary, HashingFile(temporary) as stream:
        yield stream


def write_json(path: Path, values: Any) -> None:
    """Write JSON so that readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(json_bytes(values))


def json_bytes(values: Any) -> bytes:
    """The content of a JSON file of ours: sorted and indented."""
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def read_json(path: Path) -> Any:
    """Parse a JSON file; raises ArtefactError that names it when it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtefactError(f"{path}: no such file; run the job that writes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: not valid JSON ({error}); rebuild it with --fresh") from None


def versions() -> dict[str, str]:
    """Versions of the packages that shape results, and the git commit (empty outside a checkout)."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    try:
        folder = Path(__file__).parent
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        found["git_commit"] = answer.stdout.strip()
    except FileNotFoundError:
        found["git_commit"] = ""
    return found


def fingerprint(kind: str, config: Mapping[str, Any], inputs: Iterable[Path] = ()) -> str:
    """Digest of what decides a folder's content: its kind, its config and its inputs' manifests.

    An input counts by its manifest, wherever it lies: its absolute path, where a field of `config` holds it, does not.
    """
    folders = [Path(folder).absolute() for folder in inputs]
    manifests = [sha256_of(folder / MANIFEST) for folder in folders]
    settings = _without_paths(config, {str(folder) for folder in folders})
    text = json.dumps([kind, settings, manifests], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_paths(values: Any, paths: Collection[str]) -> Any:
    if isinstance(values, Mapping):
        return {name: _without_paths(value, paths) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_without_paths(value, paths) for value in values]
    return "(an input)" if isinstance(values, str) and values in paths else values


def write_manifest(
    folder: Path,
    kind: str,
    fingerprint: str = "",
    exclude: tuple[str, ...] = (),
    *,
    known: Mapping[str, Mapping[str, Any]] | None = None,
    **details: Any,
) -> dict[str, Any]:
    """List every file of `folder` with size and sha256; the last write of a job.

    Sub-folders named in `exclude` stay out: they are working state, or keep manifests of their own. The files of
    `known` ("bytes" and "sha256" by name, from `hashed_writer`) are not read again; raises ArtefactError where one of
    them is missing or of another size.
    """
    known = known or {}
    for name, facts in known.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            raise ArtefactError(
                f"{path}: was written with {facts['bytes']} bytes and is not there so; look at the storage, and write "
                "it again"
            )
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if (
            path.is_file()
            and path.name != MANIFEST
            and not path.name.startswith(".")
            and name.parts[0] not in exclude
        ):
            files[name.as_posix()] = dict(known.get(name.as_posix()) or _facts(path))
    manifest = {
        "kind": kind,
        "fingerprint": fingerprint,
        "files": files,
        "versions": versions(),
        "written_unix_s": int(time.time()),
        **details,
    }
    write_json(folder / MANIFEST, manifest)
    (folder / _BEGUN).unlink(missing_ok=True)
    return manifest


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a finished folder, its files verified; raises ArtefactError otherwise."""
    if not (folder / MANIFEST).is_file():
        raise ArtefactError(
            f"{folder}: holds no finished {kind} (no {MANIFEST}); run the job that writes it, or correct the path"
        )
    manifest = read_json(folder / MANIFEST)
    if manifest.get("kind") != kind:
        raise ArtefactError(
            f"{folder}: holds a {manifest.get('kind')!r}, not a {kind!r}; correct the path"
        )
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtefactError(
                f"{path}: listed in {MANIFEST} but missing; restore it or rebuild the folder with --fresh"
            )
        if path.stat().st_size != facts["bytes"] or sha256_of(path) != facts["sha256"]:
            raise ArtefactError(
                f"{path}: differs from its sha256 in {MANIFEST}; restore it or rebuild the folder with --fresh"
            )
    return manifest


def finished(folder: Path, kind: str, fingerprint: str) -> dict[str, Any] | None:
    """The verified manifest when `folder` already answers `fingerprint`, None when there is none yet.

    Raises ArtefactError when the folder holds something else: nothing finished is overwritten unasked.
    """
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder, kind)
    if manifest["fingerprint"] != fingerprint:
        raise ArtefactError(
            f"{folder}: holds a finished {kind} made by other settings or inputs; choose "
            "another output_path, or pass --fresh to redo it (the old one is kept as "
            f"{folder.name}.previous)"
        )
    return manifest


def set_aside(folder: Path) -> None:
    """Keep what `folder` holds as NAME.previous, in the place of an older one; nothing happens when there is none."""
    if folder.exists():
        previous = folder.with_name(folder.name + ".previous")
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)


def reopen(folder: Path) -> None:
    """Make a finished folder an unfinished one again, which `start_folder` may empty."""
    write_json(folder / _BEGUN, {})
    (folder / MANIFEST).unlink()


def check_startable(folder: Path, *, fresh: bool) -> None:
    """Raise ArtefactError when `start_folder` would refuse: a finished folder without `fresh`, or files that no job of
    this package began.
    """
    if _is_finished(folder):
        if not fresh:
            raise ArtefactError(f"{folder}: already finished; pass --fresh to redo it")
        return
    foreign = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if foreign and not (folder / _BEGUN).is_file():
        raise ArtefactError(
            f"{folder}: holds files that no job of this package began, and a job would remove "
            "them; choose another output_path, or empty it yourself"
        )


def start_folder(folder: Path, *, fresh: bool, keep: bool = False) -> Path:
    """Make `folder` ready for a job and mark it as begun; with `fresh` a finished one is kept as NAME.previous.

    Unfinished remains are removed, or with `keep` left to a job that goes on with them. Raises what `check_startable`
    raises.
    """
    check_startable(folder, fresh=fresh)
    if _is_finished(folder):
        set_aside(folder)
    elif folder.exists():
        if keep and not fresh:
            write_json(folder / _BEGUN, {})
            return folder
        # Under another name first: a kill in between must not leave half of it without its mark.
        removed = folder.with_name(f".{folder.name}.removed.{os.getpid()}")
        folder.rename(removed)
        shutil.rmtree(removed)
    folder.mkdir(parents=True)
    write_json(folder / _BEGUN, {})
    return folder


def _is_finished(folder: Path) -> bool:
    """Whether a manifest of ours lies there; other programs write files of that name too."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"kind", "fingerprint", "files"} <= manifest.keys()
