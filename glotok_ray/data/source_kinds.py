"""The kinds of sources that are files: which one a path holds, and how it is listed.

A kind is a folder of class folders, or what ImageNet comes in: official tars, WebDataset, Parquet, Kaggle's folders.
Read next: glotok_ray/data/listing.py
"""

import itertools
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from glotok_ray.config.jobs import AUTO_SOURCE, ShardRun
from glotok_ray.data.archive_listing import Request
from glotok_ray.data.folders import list_image_files
from glotok_ray.data.kaggle import images_folder, list_kaggle
from glotok_ray.data.listing import SPLITS, VALIDATION_PREFIX, Listing, RowSource
from glotok_ray.data.parquet_images import list_parquet
from glotok_ray.data.split_names import SPLIT_OF
from glotok_ray.data.tar_archives import DamagedArchiveError, Span, tar_members
from glotok_ray.data.tar_listings import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    list_train_tar,
    list_validation_tar,
    list_webdataset,
)
from glotok_ray.storage.places import entries, to_path

_PEEKED_MEMBERS = 20


class Parts(NamedTuple):
    """The files of a path's parts, by split; all under "" where it has no parts."""

    files: dict[str, list[Path]]

    @property
    def has_both(self) -> bool:
        """Whether training and validation images lie there apart."""
        return all(split in self.files for split in SPLITS)

    def name_of(self, split: str) -> str:
        """The part that a split is made of."""
        return split if split in self.files else ""


class SourceKind(NamedTuple):
    """One kind: `list` lists a part, `suffix` is that of its archives, `reads` are fields that it alone reads."""

    list: Callable[[Request, str, list[Path]], Listing[Any]]
    suffix: str = ""
    reads: tuple[str, ...] = ()


def _list_folders(request: Request, part: str, files: list[Path]) -> Listing[Any]:
    return list_image_files(
        request.path,
        field=request.field,
        key_prefix=request.key_prefix,
        minutes=request.minutes,
        as_found=request.as_found,
    )


def _archives(list_files: Callable[[Request, list[Path]], Listing[Any]]) -> Any:
    return lambda request, part, files: list_files(request, files)


KINDS = {
    "class_folders": SourceKind(_list_folders),
    "train_tar": SourceKind(_archives(list_train_tar), ".tar"),
    "validation_tar": SourceKind(_archives(list_validation_tar), ".tar", ("ground_truth_path",)),
    "webdataset": SourceKind(_archives(list_webdataset), ".tar", ("class_names_path",)),
    "parquet": SourceKind(_archives(list_parquet), ".parquet", ("class_names_path",)),
    "kaggle": SourceKind(
        lambda request, part, files: list_kaggle(request, part), "", ("ground_truth_path",)
    ),
}
"""By the name that `ShardRun.source_kind` has for it."""


def list_source(run: ShardRun) -> tuple[Listing[RowSource], Listing[RowSource] | None]:
    """The listing of a run's source, and that of its validation images where they lie apart; raises ValueError."""
    # Workers may have another working directory.
    path = to_path(run.source).absolute()
    name = _kind_of(path, run, "source") if run.source_kind == AUTO_SOURCE else run.source_kind
    parts, used = _parts(path, name), [name]
    validation = None
    if run.validation_source:
        other = to_path(run.validation_source).absolute()
        used.append(_kind_of(other, run, "validation_source"))
        validation = _Part(other, "validation_source", used[1], _parts(other, used[1]))
    elif parts.has_both:
        validation = _Part(path, "source", name, parts)
    _check_read(run, used)
    training = _Part(path, "source", name, parts)
    as_found = run.class_folders == "as_found" and validation is None
    listing = training.listing(run, "train", "", as_found=as_found)
    if validation is None:
        return listing, None
    held_out = validation.listing(run, "validation", VALIDATION_PREFIX)
    _check_keys(listing, held_out, run)
    # Folders called by numbers are sorted as text, numbers in archives are not.
    return listing, held_out.with_order_of(listing.classes)


def _check_keys(
    training: Listing[RowSource], validation: Listing[RowSource], run: ShardRun
) -> None:
    """Tars of this package keep their keys, which may be those of another source's images."""
    bare = {image.key for image in validation.images if not image.key.startswith(VALIDATION_PREFIX)}
    twice = next((image.key for image in training.images if image.key in bare), "") if bare else ""
    if twice:
        raise ValueError(
            f"validation_source = {run.validation_source!r}: has the key {twice!r} of a training image; bring the "
            "validation tars that were written with the training ones"
        )


class _Part(NamedTuple):
    """A path of a kind, from which a split is listed."""

    path: Path
    field: str
    kind: str
    parts: Parts

    def listing(
        self, run: ShardRun, split: str, key_prefix: str, *, as_found: bool = False
    ) -> Listing[RowSource]:
        request = Request(run, self.path, self.field, key_prefix, as_found)
        part = self.parts.name_of(split)
        files = self.parts.files.get(part, [])
        kind = KINDS[self.kind]
        if kind.suffix and not files:
            raise ValueError(
                f"{self.field} = {str(self.path)!r}: holds no {kind.suffix} files, which source_kind = {self.kind!r} "
                "reads; correct the path, or leave source_kind at 'auto'"
            )
        return kind.list(request, part, files)


def _check_read(run: ShardRun, used: list[str]) -> None:
    for field in ("class_names_path", "ground_truth_path"):
        readers = [name for name, kind in KINDS.items() if field in kind.reads]
        if getattr(run, field) and not set(used).intersection(readers):
            raise ValueError(
                f"{field} = {getattr(run, field)!r}: is read of {', '.join(readers)} alone, and the source is "
                f"{' and '.join(used)}; leave it empty"
            )


def _kind_of(path: Path, run: ShardRun, field: str) -> str:
    """What the path holds, by its first files."""
    if path.is_dir():
        if images_folder(path):
            return "kaggle"
        inside = [entry for entry in entries(path) if not entry.path.name.startswith(".")]
        files = [entry.path for entry in inside]
        # With a folder or an image in it, it is a tree of class folders, as ever.
        images = (file.suffix[1:].lower() in IMAGE_SUFFIXES for file in files)
        if any(entry.is_dir for entry in inside) or any(images):
            return "class_folders"
    else:
        files = [path]
    for suffix in (".parquet", ".tar"):
        archives = (file for file in files if file.suffix == suffix and file.is_file())
        if first := next(archives, None):
            return "parquet" if suffix == ".parquet" else _kind_of_tar(first, path, run)
    return "class_folders"


def _kind_of_tar(tar: Path, path: Path, run: ShardRun) -> str:
    try:
        with Span(tar, run.storage_retry_minutes) as span:
            members = itertools.islice(tar_members(span, tar.name), _PEEKED_MEMBERS)
            suffixes = [PurePosixPath(member.name).suffix[1:].lower() for member in members]
    except DamagedArchiveError as error:
        raise ValueError(str(error)) from None
    if "tar" in suffixes:
        return "train_tar"
    if set(suffixes).intersection(LABEL_SUFFIXES):
        return "webdataset"
    return "validation_tar" if path == tar else "train_tar"


def _parts(path: Path, kind: str) -> Parts:
    if kind == "kaggle":
        folder = images_folder(path)
        found = {"train": "train", "validation": "val"}
        return Parts(
            {split: [] for split, name in found.items() if folder and (folder / name).is_dir()}
        )
    suffix = KINDS[kind].suffix
    files = [path]
    if path.is_dir():
        inside = (entry.path for entry in entries(path))
        files = [file for file in inside if file.suffix == suffix and not file.name.startswith(".")]
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.name), []).append(file)
    if kind in ("webdataset", "parquet") and "" not in by_split and len(by_split) > 1:
        return Parts(by_split)
    return Parts({"": files})


def _split_of(name: str) -> str:
    """The split that a file's name says, as in train-00000-of-00294.parquet; empty where it says none."""
    words = re.split(r"[-_.]", name.lower())
    return next((SPLIT_OF[word] for word in words if word in SPLIT_OF), "")
