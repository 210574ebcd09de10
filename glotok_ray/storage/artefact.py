"""What a job leaves behind: a folder whose manifest.json is written last and lists every file with its sha256.

A folder without a manifest is unfinished; one whose files differ from it is damaged. The manifest's fingerprint
(kind, config, input manifests) tells whether a finished folder is the one that a job would write.

Who reads a folder checks that every listed file is there with its size. Folders of up to SMALL_BYTES are hashed too,
unless a receipt of `jobs.verify` says that they were, and nothing has been written since; larger ones rely on that job.
"""

import functools
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glotok_ray import faults
from glotok_ray.storage import ownership
from glotok_ray.storage.digests import HashingFile, Stamp, read_files, sha256_of, stamps_below
from glotok_ray.storage.places import is_remote, to_path, writing

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RECEIPT = "verified.json"
"""Says when all bytes of the folder were last found to be those of the manifest."""
LOG_FILE = "log.txt"
"""In a folder: tracebacks of jobs that failed there, and what Ray printed meanwhile."""
NOT_FINITE = "not_finite"
"""In a line of JSON: which of its values were NaN or infinite and became null."""
SMALL_BYTES = 1 << 30
"""Folders of up to this size, a second's work, are hashed whenever they are opened: tokenizers, teachers, few data."""
# The last one is of older versions.
_UNLISTED = (MANIFEST, RECEIPT, LOG_FILE, "failure.log")
# What all folders of a kind list, in all versions. Of kinds that are not here they list something.
_ALWAYS_LISTED = {
    "shards": ("dataset.json",),
    "codes": ("dataset.json",),
    "samples": ("samples.npz",),
    "teacher": ("teacher.json", "teacher.safetensors"),
    "tokenizer": ("config.json", "tokenizer.safetensors"),
    "generator": ("generator.json",),
    "evaluation": ("metrics.json",),
    "tokenizer_comparison": ("metrics.json",),
    "generator_comparison": ("metrics.json",),
}
_PACKAGES = ("ray", "torch", "torchvision", "deepspeed", "numpy", "pyarrow", "faiss-cpu", "timm")


class ArtefactError(ValueError):
    """A file or folder is missing, unfinished, damaged or made by other settings; the text names it and the remedy."""


class OtherWorkError(ArtefactError):
    """A folder holds what other settings, inputs or jobs made. A job whose stages write several folders has another
    remedy than the folder's own job, and tells `what` with it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)  # both, so that it can be pickled
        self.what = what
        """What the folder holds, without a remedy."""
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; at the end it takes the place of `path`, so that readers never see half a file.

    Of several that write the same file at a time, the last one's stays. After an exception nothing of it is left.
    Of an object it is a local file, which is sent at the end; the store shows it whole or not at all.
    """
    if is_remote(path):
        with writing(path) as local:
            yield local
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
    except BaseException:
        # A disk that is full must not stay so because of a file that nobody will read.
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


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


def append_line(path: Path, values: Any) -> None:
    """Append JSON as one line: all of it, or nothing when it raises OSError (a disk that is full takes half a line).

    Numbers that are not finite become null, since JSON has none such, and "not_finite" names them. Who tries again
    after OSError calls a `line_appender` again, and not this.
    """
    line_appender(path, values)()


def line_appender(path: Path, values: Any) -> Callable[[], None]:
    """What appends as `append_line` does, and may be called again after OSError: the line is there once in the end.

    A store may have taken a line and its answer been lost; only the appender of that line can tell. What is appended
    is `values` as of now.
    """
    line = (json.dumps(_without_broken(values)) + "\n").encode()
    if is_remote(path):
        return _ObjectAppender(path, line)
    return functools.partial(_append_to_file, path, line)


def _append_to_file(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as stream:
        size = stream.seek(0, os.SEEK_END)
        if size:
            # A process that was killed may have left half a line, which must not swallow this one.
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        try:
            while line:
                line = line[stream.write(line) :]
        except OSError:
            stream.truncate(size)
            raise


class _ObjectAppender:
    """An object cannot grow: it is sent again as a whole, so that it must have one writer at a time."""

    def __init__(self, path: Path, line: bytes) -> None:
        self._path, self._line = path, line
        self._sent: bytes | None = None
        """The whole content of the last try."""

    def __call__(self) -> None:
        try:
            before = self._path.read_bytes()
        except FileNotFoundError:
            before = b""
        if before == self._sent:
            return
        self._sent = before + self._line
        self._path.write_bytes(self._sent)


def json_bytes(values: Any) -> bytes:
    """The content of a JSON file of ours: sorted and indented. Raises ValueError that names a value that is NaN: who
    has one writes null, and says why. Infinite settings are written as they are.
    """
    broken = _nan_in(values, "")
    if broken:
        raise ValueError(
            f"{broken} = NaN: is no result, and JSON knows no such number; look for a diverged model"
        )
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def _without_broken(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    broken = [
        name
        for name, value in values.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if not broken:
        return values
    return {**values, **dict.fromkeys(broken), NOT_FINITE: broken}


def _nan_in(values: Any, name: str) -> str:
    """The dotted name of the first NaN; empty where there is none."""
    if isinstance(values, float):
        return name if math.isnan(values) else ""
    if isinstance(values, Mapping):
        parts: Iterable[tuple[Any, Any]] = values.items()
    elif isinstance(values, list | tuple):
        parts = enumerate(values)
    else:
        return ""
    inside = (_nan_in(value, f"{name}.{part}" if name else str(part)) for part, value in parts)
    return next(filter(None, inside), "")


def read_json(path: Path) -> Any:
    """Parse a JSON file; raises ArtefactError that names it when it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ArtefactError(f"{path}: no such file; run the job that writes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: not valid JSON ({error}); rebuild it with --fresh") from None


def versions() -> dict[str, str]:
    """Versions of the packages that shape results, and the git commit (empty outside a checkout)."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {**found, "git_commit": git_commit()}


@functools.cache
def git_commit() -> str:
    """The commit of the checkout that this code lies in, as it is when a process first asks, since it then runs this
    code; empty outside a checkout or without git.
    """
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return answer.stdout.strip()


def fingerprint(kind: str, config: Mapping[str, Any], inputs: Iterable[Path] = ()) -> str:
    """Digest of what decides a folder's content: its kind, its config and its inputs' manifests.

    An input counts by its manifest, wherever it lies: its absolute path, where a field of `config` holds it, does not.
    """
    folders = [to_path(folder).absolute() for folder in inputs]
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


def metrics_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that a manifest holds, none where it has none; older versions called them figures."""
    return manifest.get("metrics") or manifest.get("figures") or {}


def write_manifest(
    folder: Path,
    kind: str,
    fingerprint: str = "",
    exclude: tuple[str, ...] = (),
    known: Mapping[str, tuple[int, str]] | None = None,
    **details: Any,
) -> dict[str, Any]:
    """List every file of `folder` with size and sha256; the last write of a job.

    Sub-folders named in `exclude` stay out: they are working state, or keep manifests of their own. `known` has size
    and sha256 of files, by their names in `folder`, whose writers know them; these are not read again. Raises
    ArtefactError when one of them has another size by now.
    """
    ownership.check_held(folder)
    is_jobs = ownership.holds(folder)  # and not a checkpoint within it
    if is_jobs:
        faults.boundary("manifest")
    known = known or {}
    found = {path.relative_to(folder).as_posix(): path for path in _listed(folder, exclude)}
    files = {name: {"bytes": facts[0], "sha256": facts[1]} for name, facts in known.items()}
    sizes = stamps_below(folder) if is_remote(folder) else {}
    for name, (size, _) in known.items():
        if is_remote(folder):
            there = sizes[name].bytes if name in sizes else 0
        else:
            there = found[name].stat().st_size if name in found else 0
        if there != size:
            raise ArtefactError(
                f"{folder / name}: {size} bytes were written and {there} are there; check the storage and redo the job"
            )
    unread = {path: name for name, path in found.items() if name not in known}
    for read in read_files(unread):
        if read.error:
            raise ArtefactError(f"{read.path}: cannot be read ({read.error}); redo the job")
        files[unread[read.path]] = {"bytes": read.stamp.bytes, "sha256": read.sha256}
    manifest = {
        "kind": kind,
        "fingerprint": fingerprint,
        "files": dict(sorted(files.items())),
        "versions": versions(),
        "written_unix_s": int(time.time()),
        **details,
    }
    ownership.check_held(folder)  # reading may have taken hours
    (folder / RECEIPT).unlink(missing_ok=True)
    write_json(folder / MANIFEST, manifest)
    if is_jobs:
        faults.boundary("finished")
        ownership.finish(folder)
        faults.boundary("cleanup")
    return manifest


def _listed(folder: Path, exclude: tuple[str, ...]) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if (is_remote(path) or path.is_file())
        and path.name not in _UNLISTED
        and not path.name.startswith(".")
        and path.relative_to(folder).parts[0] not in exclude
    ]


def stated_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder of any kind; of its files nothing is looked at. Raises ArtefactError that names
    it when it is missing, broken or another program's, and when it does not list what every folder of its kind holds.
    """
    path = folder / MANIFEST
    manifest = read_json(path)
    wrong = _wrong_form(manifest)
    if wrong:
        raise ArtefactError(
            f"{path}: is not the manifest of a finished folder of this package ({wrong}); correct the path, or restore "
            "the file"
        )
    kind, files = manifest["kind"], manifest["files"]
    # Without files, or without the one that says what the others are, damage of them would never be found.
    missing = [name for name in _ALWAYS_LISTED.get(kind, ()) if name not in files]
    if not files or missing:
        what = f"{missing[0]}, which every folder of kind {kind!r} has" if missing else "files"
        raise ArtefactError(
            f"{path}: lists no {what}; restore it or rebuild the folder with --fresh"
        )
    return manifest


def _wrong_form(manifest: Any) -> str:
    """What `write_manifest` writes otherwise; empty where nothing is."""
    if not isinstance(manifest, dict):
        return "it holds no fields"
    for name, form, what in (
        ("kind", str, "text"),
        ("fingerprint", str, "text"),
        ("files", dict, "a list of files"),
    ):
        if not isinstance(manifest.get(name), form):
            return f"its {name} is not {what}"
    for name, facts in manifest["files"].items():
        if not (
            isinstance(facts, dict)
            and isinstance(facts.get("bytes"), int)
            and isinstance(facts.get("sha256"), str)
        ):
            return f"of {name} it holds no bytes and sha256"
    return ""


def read_manifest(folder: Path, kind: str, *, every_byte: bool = False) -> dict[str, Any]:
    """The manifest of a finished folder, its files checked as the head of this module says; with `every_byte` all of
    them are hashed whatever a receipt says. Raises ArtefactError otherwise.
    """
    return _checked(folder, kind, every_byte=every_byte)[0]


def verify_once(folder: Path, kind: str) -> dict[str, Any]:
    """`read_manifest` for a driver whose processes will open the folder again and again: when it hashes, it leaves a
    receipt, so that they need not. Storage that takes no receipt costs them their time, nothing more.
    """
    manifest, hashed = _checked(folder, kind)
    if hashed:
        try:
            write_receipt(folder, hashed)
        except OSError as error:
            logger.warning("%s: takes no %s (%s)", folder, RECEIPT, error)
    return manifest


def _checked(
    folder: Path, kind: str, *, every_byte: bool = False
) -> tuple[dict[str, Any], dict[str, Stamp]]:
    """The manifest, and the stamps of the files if they were hashed; raises ArtefactError."""
    if not (folder / MANIFEST).is_file():
        raise ArtefactError(
            f"{folder}: holds no finished {kind} (no {MANIFEST}); run the job that writes it, or correct the path"
        )
    manifest = stated_manifest(folder)
    if manifest["kind"] != kind:
        raise ArtefactError(
            f"{folder}: holds a {manifest['kind']!r}, not a {kind!r}; correct the path"
        )
    stamps = _check_sizes(folder, manifest["files"])
    if not every_byte and _is_trusted(folder, stamps):
        return manifest, {}
    size = sum(stamp.bytes for stamp in stamps.values())
    if not every_byte and size > SMALL_BYTES:
        _tell_unverified(folder, size)
        return manifest, {}
    return manifest, _check_bytes(folder, manifest["files"])


def check_sizes(folder: Path) -> None:
    """Raise ArtefactError as `stated_manifest` does, and when a file that it lists is missing or of another size."""
    _check_sizes(folder, stated_manifest(folder)["files"])


def _check_sizes(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Stamp]:
    """The stamps of all listed files; raises ArtefactError for the first that is missing or of another size."""
    stamps = {}
    # Of objects, one listing in the place of a request for each.
    there = stamps_below(folder) if is_remote(folder) else None
    for name, facts in files.items():
        path = folder / name
        try:
            stamps[name] = Stamp.of(path) if there is None else there[name]
        except (FileNotFoundError, NotADirectoryError, KeyError):
            raise ArtefactError(damage_text(path, missing=True)) from None
        if stamps[name].bytes != facts["bytes"]:
            raise ArtefactError(damage_text(path))
    return stamps


def _check_bytes(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Stamp]:
    """The stamps of all listed files as they were read; raises ArtefactError for the first that is damaged."""
    stamps = {}
    for name, read in zip(files, read_files([folder / name for name in files]), strict=True):
        if read.sha256 != files[name]["sha256"]:
            raise ArtefactError(damage_text(read.path, error=read.error))
        stamps[name] = read.stamp
    return stamps


def damage_text(path: Path, *, missing: bool = False, error: str = "") -> str:
    """What is wrong with a listed file, and the remedy."""
    remedy = "restore it or rebuild the folder with --fresh"
    if missing:
        return f"{path}: listed in {MANIFEST} but missing; {remedy}"
    if error:
        return f"{path}: cannot be checked against its sha256 in {MANIFEST} ({error}); {remedy}"
    return f"{path}: differs from its sha256 in {MANIFEST}; {remedy}"


def write_receipt(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Note that the files of the manifest, as of `stamps`, hold the bytes that it lists; raises OSError."""
    receipt = {
        "verified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "manifest_sha256": sha256_of(folder / MANIFEST),
        "files": {name: stamp._asdict() for name, stamp in stamps.items()},
        "versions": versions(),
    }
    write_json(folder / RECEIPT, receipt)


def _is_trusted(folder: Path, stamps: Mapping[str, Stamp]) -> bool:
    """Whether a receipt covers the files as they are; one that is out of date is named with the file that changed."""
    if not (folder / RECEIPT).is_file():
        return False
    changed = _changed_since(folder, stamps)
    if changed:
        logger.warning(
            "%s: %s has changed since %s was written, which counts no more; python -m jobs.verify %s writes a new one",
            folder,
            changed,
            RECEIPT,
            folder,
        )
    return not changed


def _changed_since(folder: Path, stamps: Mapping[str, Stamp]) -> str:
    """The first file that is not as the receipt says; empty when all are."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text())
        verified = {name: Stamp(**stamp) for name, stamp in receipt["files"].items()}
        manifest_sha256 = receipt["manifest_sha256"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return RECEIPT
    if manifest_sha256 != sha256_of(folder / MANIFEST):
        return MANIFEST
    return next((name for name in stamps if stamps[name] != verified.get(name)), "")


@functools.cache
def _tell_unverified(folder: Path, size: int) -> None:
    """Once per process, since a launch opens a folder several times."""
    logger.info(
        "%s: %.1f GiB taken by names and sizes alone; python -m jobs.verify %s reads all bytes, once for all launches",
        folder,
        size / 2**30,
        folder,
    )


def finished(folder: Path, kind: str, fingerprint: str) -> dict[str, Any] | None:
    """The manifest of a folder that is finished with this fingerprint, checked as by `read_manifest`; None without one.

    Raises ArtefactError when the folder holds something else: nothing finished is overwritten unasked.
    """
    if not (folder / MANIFEST).is_file():
        return None
    found = stated_manifest(folder)["kind"]
    if found != kind:
        raise OtherWorkError(
            f"{folder}: holds a finished {found!r}, and this job writes {kind!r}",
            f"choose another output_path, or pass --fresh (the old one is kept as {folder.name}.previous)",
        )
    manifest = read_manifest(folder, kind)
    if manifest["fingerprint"] != fingerprint:
        raise OtherWorkError(
            f"{folder}: holds a finished {kind} made by other settings or inputs",
            f"choose another output_path, or pass --fresh to redo it (the old one is kept as {folder.name}.previous)",
        )
    ownership.clear(folder)
    return manifest


def is_finished(folder: Path) -> bool:
    """Whether a manifest of ours lies there; other programs write files of that name too."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"kind", "fingerprint", "files"} <= manifest.keys()
