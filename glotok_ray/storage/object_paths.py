"""Paths of objects, s3://bucket/key, with the methods of pathlib.Path that this package uses.

A store has no folders, no renames and no appending. A folder is there as long as an object lies below it. An object
appears whole or not at all: what is written collects in a temporary file and is sent when it is closed, in parts where
it is large. Read next: glotok_ray/storage/places.py
"""

import datetime
import fnmatch
import io
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from glotok_ray.storage.object_stores import answering, client, listing
from glotok_ray.storage.object_streams import BinaryUpload, Download, TextUpload, Upload


class ObjectStatus(NamedTuple):
    """What `ObjectPath.stat` answers, by the names of os.stat_result."""

    st_size: int
    st_mtime_ns: int
    """In whole seconds."""
    etag: str
    """What the store calls this content of the object; empty where it does not tell."""

    @property
    def st_mtime(self) -> float:
        """Seconds since 1970."""
        return self.st_mtime_ns / 1e9


class ObjectPath:
    """An object, or the objects below a prefix; immutable, and the same for equal addresses."""

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.partition("://")
        self._scheme = scheme.lower()
        self._pure = PurePosixPath("/" + rest.strip("/"))

    # --------------------------------------------------------------------------------- names

    def __str__(self) -> str:
        return f"{self._scheme}:/{self._pure}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "ObjectPath") -> bool:
        return self._pure.parts < other._pure.parts

    def __truediv__(self, name: object) -> "ObjectPath":
        return self._of(self._pure / str(name).lstrip("/")) if str(name) else self

    def _of(self, pure: PurePosixPath) -> "ObjectPath":
        return ObjectPath(f"{self._scheme}:/{pure}")

    @property
    def scheme(self) -> str:
        """Such as s3."""
        return self._scheme

    @property
    def key(self) -> str:
        """Bucket and key, as fsspec takes them."""
        return str(self._pure).lstrip("/")

    @property
    def name(self) -> str:
        """The last part."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._pure.stem

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return self._pure.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """Scheme, bucket and the names below it."""
        return (f"{self._scheme}://", *self._pure.parts[1:])

    @property
    def parent(self) -> "ObjectPath":
        """The prefix above; the bucket is its own."""
        return self if len(self._pure.parts) <= 2 else self._of(self._pure.parent)

    @property
    def parents(self) -> tuple["ObjectPath", ...]:
        """All prefixes above, the bucket last."""
        return tuple(map(self._of, self._pure.parents))[:-1]

    def with_name(self, name: str) -> "ObjectPath":
        """Its neighbour of this name."""
        return self._of(self._pure.with_name(name))

    def with_suffix(self, suffix: str) -> "ObjectPath":
        """Its neighbour with another ending."""
        return self._of(self._pure.with_suffix(suffix))

    def relative_to(self, other: "ObjectPath") -> PurePosixPath:
        """The names from `other` on; raises ValueError where it does not lie below."""
        if not self.is_relative_to(other):
            raise ValueError(f"{self} does not lie below {other}")
        return self._pure.relative_to(other._pure)

    def is_relative_to(self, other: object) -> bool:
        """Whether it is `other` or lies below."""
        return (
            isinstance(other, ObjectPath)
            and self._scheme == other._scheme
            and self._pure.is_relative_to(other._pure)
        )

    def as_posix(self) -> str:
        """The address."""
        return str(self)

    def is_absolute(self) -> bool:
        """Addresses are."""
        return True

    def absolute(self) -> "ObjectPath":
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> "ObjectPath":
        """Itself: stores have no links."""
        return self

    def is_symlink(self) -> bool:
        """Stores have no links."""
        return False

    # --------------------------------------------------------------------------------- looks

    def _info(self) -> dict[str, Any] | None:
        try:
            return listing(lambda: client(self._scheme).info(self.key), self)
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        """Whether the object or one below it is there; raises OSError when the store does not answer."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Whether the object is there; raises OSError when the store does not answer."""
        found = self._info()
        return found is not None and found["type"] == "file"

    def is_dir(self) -> bool:
        """Whether an object lies below; raises OSError when the store does not answer."""
        found = self._info()
        return found is not None and found["type"] == "directory"

    def stat(self) -> ObjectStatus:
        """Size, time and tag; raises FileNotFoundError, and OSError when the store does not answer."""
        found = self._info()
        if found is None:
            raise FileNotFoundError(f"{self}: no such object")
        return status_of(found)

    def iterdir(self) -> Iterator["ObjectPath"]:
        """The objects and prefixes right below; raises FileNotFoundError where there are none."""
        for path, _, _ in self.listed():
            yield path

    def listed(self) -> Iterator[tuple["ObjectPath", bool, ObjectStatus]]:
        """Path, whether it is a prefix, and status of what is right below, by one listing; raises as `iterdir`."""
        for facts in listing(lambda: client(self._scheme).ls(self.key, detail=True), self):
            inner = self._of(PurePosixPath("/" + facts["name"].strip("/")))
            if inner != self:
                yield inner, facts["type"] == "directory", status_of(facts)

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Objects and prefixes below by a pattern of names, without "**"."""
        first, _, rest = pattern.partition("/")
        try:
            inside = list(self.iterdir())
        except FileNotFoundError:
            return
        for path in inside:
            if fnmatch.fnmatchcase(path.name, first):
                if rest:
                    yield from path.glob(rest)
                else:
                    yield path

    def rglob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Objects anywhere below whose names match; prefixes are left out."""
        for path, _ in sorted(self.below().items()):
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path

    def below(self) -> dict["ObjectPath", ObjectStatus]:
        """All objects below, by one listing; empty ones that stand for a folder, named with "/", are none."""
        found = listing(lambda: client(self._scheme).find(self.key, detail=True), self)
        return {
            self._of(PurePosixPath("/" + name)): status_of(facts)
            for name, facts in found.items()
            if name != self.key and not name.endswith("/")
        }

    # --------------------------------------------------------------------------------- bytes

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A stream. Of one for writing nothing is seen before it is closed, and nothing at all after an exception in
        its `with`; "a" sends the whole object again.
        """
        if mode.strip("bt") == "r":
            if "b" not in mode:
                return io.StringIO(self.read_text(encoding or "utf-8"))
            with answering(self):
                return Download(client(self._scheme).open(self.key, "rb"), self)
        upload = Upload(self, exclusive="x" in mode, append="a" in mode)
        if "b" in mode:
            return BinaryUpload(upload)
        return TextUpload(upload, encoding or "utf-8", newline)

    def read_bytes(self) -> bytes:
        """The whole content; raises OSError."""
        with answering(self):
            return client(self._scheme).cat_file(self.key)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole content; raises OSError."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> int:
        """Replace the object; raises OSError."""
        with answering(self):
            client(self._scheme).pipe_file(self.key, bytes(content))
        return len(content)

    def write_text(self, text: str, encoding: str = "utf-8") -> int:
        """Replace the object; raises OSError."""
        return self.write_bytes(text.encode(encoding))

    def create(self, content: bytes) -> None:
        """Make the object; raises FileExistsError where one is there, whoever else tries at this moment.

        S3: a PUT with If-None-Match. A server that does not know it raises OSError.
        """
        with answering(self):
            client(self._scheme).pipe_file(self.key, content, mode="create")

    def touch(self, exist_ok: bool = True) -> None:
        """Make an empty object where there is none; raises FileExistsError without `exist_ok`."""
        try:
            self.create(b"")
        except FileExistsError:
            if not exist_ok:
                raise

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there with its first object."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object; raises FileNotFoundError where there is none."""
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(f"{self}: no such object")
        with answering(self):
            client(self._scheme).rm_file(self.key)


def status_of(facts: dict[str, Any]) -> ObjectStatus:
    """The status in what a client tells of an object."""
    time = facts.get("LastModified") or facts.get("mtime") or facts.get("updated")
    seconds = time.timestamp() if isinstance(time, datetime.datetime) else float(time or 0)
    etag = str(facts.get("ETag") or facts.get("etag") or "").strip('"')
    # A listing may tell more digits than the object itself does.
    return ObjectStatus(int(facts.get("size") or 0), int(seconds) * 1_000_000_000, etag)
