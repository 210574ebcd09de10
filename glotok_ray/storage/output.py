"""The folder that a job writes, from its first look to its manifest: the one protocol that all jobs follow.

`look` says whether the folder is finished already, and touches nothing. `Output.begin` (or `go_on`) makes it this
process's own, `Output.finish` writes the manifest. A folder is begun by its mark `.begun.json` alone, which holds the
fingerprint of what is in it. Read next: glotok_ray/storage/begun.py
"""

import contextlib
import enum
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glotok_ray.storage import artefact, begun, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.contents import Collection
from glotok_ray.storage.places import is_remote, to_path
from glotok_ray.storage.weights import check_stored

logger = logging.getLogger(__name__)


class Unfinished(enum.Enum):
    """What a job does with what an unfinished job left in its folder; `fresh` removes it in every case."""

    REPLACE = enum.auto()
    """Remove it and start over."""
    KEEP = enum.auto()
    """Keep all of it: the job finds its own parts, whose names hold a fingerprint."""
    SAME_ONLY = enum.auto()
    """Keep it when it is of the same fingerprint, refuse to start otherwise."""
    SAME_OR_REPLACE = enum.auto()
    """Keep it when it is of the same fingerprint, remove it and start over otherwise."""


@dataclass(frozen=True)
class Output:
    """A job's folder, as `look` has found it."""

    folder: Path
    kind: str
    fingerprint: str
    """Digest of the kind, the settings and the inputs' manifests."""
    begun_fingerprint: str
    """What the mark holds while the folder is unfinished; another one where unfinished work may go on under settings
    that a finished folder is bound to.
    """
    fresh: bool
    finished: dict[str, Any] | None
    """The manifest of a folder that is finished already."""

    def begin(self, unfinished: Unfinished) -> Path:
        """Start in the folder; a finished one is kept as NAME.previous with `fresh`.

        Raises ArtefactError for a finished folder without `fresh`, for files that no job of this package began, and for
        what `unfinished` refuses; FolderInUseError when another job works on it.
        """
        is_bound = unfinished in (Unfinished.SAME_ONLY, Unfinished.SAME_OR_REPLACE)
        return begun.start_folder(
            self.folder,
            fresh=self.fresh,
            keep=unfinished is Unfinished.KEEP,
            fingerprint=self.begun_fingerprint if is_bound else "",
            replace=unfinished is Unfinished.SAME_OR_REPLACE,
        )

    def check_startable(self) -> None:
        """Raise what `begin` would raise, before anything is touched."""
        begun.check_startable(self.folder, fresh=self.fresh)

    def go_on(self, *, adopt: str = "") -> Path:
        """Go on with whatever the folder holds, finished or not, when it is of the same fingerprint; with `fresh` it is
        kept as NAME.previous, unfinished work too unless that holds finished work.

        For trainings that were stopped early and for tables that take more rows. A folder with files and without a mark
        is taken only where it has the folder `adopt`, in which a job's parts have fingerprints of their own, and never
        with `fresh`. Raises ArtefactError for unfinished work of another fingerprint and for such a folder;
        FolderInUseError when another job works on it, or has finished or reopened it since the look.
        """
        if self.fresh:
            begun.set_aside(self.folder)
        begun.go_on(self.folder, self.begun_fingerprint, adopt=adopt)
        self._check_as_looked_at()
        return self.folder

    def _check_as_looked_at(self) -> None:
        """Give the folder back where its manifest is not the one of the look: a claim may take seconds, in which the
        owner before ends. What the caller knows of the folder holds no more, and nothing may change below a manifest.
        """
        path = self.folder / artefact.MANIFEST
        there = artefact.read_json(path) if path.is_file() else None
        if there == self.finished:
            return
        if there is None:
            ownership.give_back(self.folder)
        else:
            ownership.finish(self.folder)
        raise begun.FolderInUseError(
            f"{self.folder}: another job has worked there just now; start the same command again, which "
            "reads what is there"
        )

    def reopen(self) -> None:
        """Remove the manifest of a finished folder that is gone on with, before the first of its files changes."""
        if self.finished is not None:
            begun.reopen(self.folder, self.begun_fingerprint)

    def finish(
        self,
        *,
        exclude: tuple[str, ...] = (),
        known: Mapping[str, tuple[int, str]] | None = None,
        **facts: Any,
    ) -> dict[str, Any]:
        """Write the manifest, as `artefact.write_manifest` describes it; returns it."""
        return artefact.write_manifest(
            self.folder, self.kind, self.fingerprint, exclude=exclude, known=known, **facts
        )


def look(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    inputs: Sequence[Path] = (),
    *,
    fresh: bool = False,
    begun_settings: Mapping[str, Any] | None = None,
    made_by: str = "",
) -> Output:
    """What is in the folder for these settings and input folders; with `fresh` nothing that is there counts.

    `begun_settings` are those under which unfinished work goes on, where they are fewer than `settings`. `made_by`
    is the fingerprint's kind where several jobs write folders of one kind. Raises ArtefactError for a folder that was
    finished with other settings or inputs, or by another job, and as `check_apart`.
    """
    folder = folder.absolute()
    check_apart(folder, inputs, fresh=fresh)
    fingerprint = artefact.fingerprint(made_by or kind, settings, inputs)
    begun_fingerprint = fingerprint
    if begun_settings is not None:
        begun_fingerprint = artefact.fingerprint(made_by or kind, begun_settings, inputs)
    finished = None if fresh else artefact.finished(folder, kind, fingerprint)
    return Output(folder, kind, fingerprint, begun_fingerprint, fresh, finished)


def check_apart(
    folder: Path, inputs: Iterable[str | Path], *, fresh: bool = False, outside: bool = False
) -> None:
    """Raise ArtefactError where a job that writes `folder` would remove or move what it reads: an input that is the
    folder or lies in it or, with `fresh`, in a NAME.previous that is removed. `outside` also refuses a folder that lies
    in an input. Links are followed.
    """
    place, removed = folder.resolve(), begun.removed_by_fresh(folder) if fresh else None
    for path in map(to_path, inputs):
        source = path.resolve()
        if _lies_in(source, place) or (outside and _lies_in(place, source)):
            raise ArtefactError(
                f"output_path = {str(folder)!r}: {_how(place, source)} the input {path}, which must stay as it is; "
                "choose another output_path"
            )
        if removed is not None and _lies_in(source, removed.resolve()):
            raise ArtefactError(
                f"{path}: lies in {removed}, which --fresh would remove; move it away yourself, or choose another "
                "output_path"
            )


def _lies_in(path: Path, folder: Path) -> bool:
    return is_remote(path) == is_remote(folder) and path.is_relative_to(folder)


def _how(place: Path, source: Path) -> str:
    if place == source:
        return "is"
    return "holds" if _lies_in(source, place) else "lies in"


def look_at_all(
    folders: Sequence[Path], kind: str, settings: Mapping[str, Any], *, fresh: bool = False
) -> list[Output]:
    """`look` for folders that one job writes: they are finished together or not at all, so one that is finished
    without the others (the job was killed in between) becomes unfinished again.
    """
    if not fresh:
        for folder in folders:
            begun.check_free(folder)  # a job that works on one may have finished another
    outputs = [look(folder, kind, settings, fresh=fresh) for folder in folders]
    if all(output.finished is not None for output in outputs):
        return outputs
    for output in outputs:
        if output.finished is not None:
            begun.reopen(output.folder, output.begun_fingerprint)
    return [look(folder, kind, settings, fresh=fresh) for folder in folders]


def begin(
    folder: str,
    kind: str,
    settings: Mapping[str, Any],
    inputs: Sequence[str],
    *,
    fresh: bool,
    unfinished: Unfinished,
) -> Output:
    """`look`, and `Output.begin` where the folder is not finished yet; the input folders are looked at before.

    Raises what these raise, and ArtefactError for an input without a manifest, with a file of another size, or with
    weights that are not finite.
    """
    check_finished(inputs)
    paths = [to_path(path) for path in inputs]
    output = look(to_path(folder), kind, settings, paths, fresh=fresh)
    if output.finished is not None:
        logger.info("already finished: %s", output.folder)
        return output
    for path in paths:
        _check_weights(path)
    output.begin(unfinished)
    return output


def check_finished(inputs: Sequence[str]) -> None:
    """Raise ArtefactError for an input folder without a manifest, or with a file that is missing or of another size."""
    for path in inputs:
        if not (to_path(path) / artefact.MANIFEST).is_file():
            raise ArtefactError(
                f"{path or '(empty path)'}: holds no {artefact.MANIFEST}; run the job that writes "
                "it, or correct the path"
            )
        artefact.check_sizes(to_path(path))


def _check_weights(folder: Path) -> None:
    """Raise ArtefactError for weights in an input that are not finite; of large files the actors say it, which read
    them anyway.
    """
    for name, facts in artefact.stated_manifest(folder)["files"].items():
        if name.endswith(".safetensors") and facts["bytes"] <= artefact.SMALL_BYTES:
            check_stored(folder / name)


@contextlib.contextmanager
def collection(folder: Path, parts: Collection, *, fresh: bool) -> Iterator[Path]:
    """A folder of other jobs' folders, this process its owner: begun as long as the block runs, without a manifest of
    its own. With `fresh` what was there is kept as NAME.previous, as `begun.set_aside` describes it; raises what that
    raises.
    """
    if fresh:
        begun.set_aside(folder, parts)
    begun.own_collection(folder)
    yield folder
    ownership.finish(folder)
