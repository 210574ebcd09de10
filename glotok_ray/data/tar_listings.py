"""Tars of images as listings: ImageNet's official two, and WebDataset.

Read next: glotok_ray/data/tar_archives.py
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from glotok_ray.data.archive_listing import (
    UNLABELLED,
    Found,
    FoundArchive,
    Request,
    found_archive,
    listing_of,
    stamp_of,
)
from glotok_ray.data.class_names import ImageClasses, read_class_names, read_image_classes
from glotok_ray.data.folders import may_be_image
from glotok_ray.data.left_out import OtherFile
from glotok_ray.data.listing import Listing, list_in_threads
from glotok_ray.data.tar_archives import (
    DamagedArchiveError,
    Span,
    TarImage,
    TarMember,
    tar_members,
)
from glotok_ray.data.tar_shards import TarShardError, own_classes, tar_samples

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
LABEL_SUFFIXES = ("cls", "json", "txt")
"""What says an image's class in a WebDataset; the first that a sample has decides."""
_LABEL_FIELDS = ("label", "cls", "class", "class_name", "synset")
_LONG_EXTENSION = "images with a further dot in their names, by which their extension is no image's"
# A longer file is no label.
_LONGEST_LABEL = 1 << 16
_LONGEST_NAME = 200


class _Stretch(NamedTuple):
    """A tar inside a file, or all of the file (size -1)."""

    path: Path
    name: str
    start: int = 0
    size: int = -1


class _Contents:
    """What is found in one tar."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.images: list[Found] = []
        self.left_out: list[OtherFile] = []

    def leave_out(self, member: str, class_name: str, kind: str = "") -> None:
        """Note a member that is not read."""
        self.left_out.append(OtherFile(f"{self.name}: {member}", class_name, kind))


def list_train_tar(request: Request, files: list[Path]) -> Listing[TarImage]:
    """A tar of one tar per class, such as ILSVRC2012_img_train.tar, or a folder of the latter; raises ValueError."""
    outside = _Contents(request.path.name)
    if files == [request.path]:
        classes = _inner_tars(request, outside)
    else:
        classes = [_Stretch(path, path.name) for path in files]
    read = partial(_listed, _class_images, request.minutes)
    found = list_in_threads(read, classes, unit="archives")
    found.append(found_archive(outside.name, [], TarImage, outside.left_out, ""))
    return listing_of(request, found, classes=map(_class_of, classes))


def list_validation_tar(request: Request, files: list[Path]) -> Listing[TarImage]:
    """A tar of images without classes, such as ILSVRC2012_img_val.tar, whose ground truth another file holds.

    Raises ValueError.
    """
    classes = read_image_classes(request.run.ground_truth_path, images=str(request.path))
    read = partial(_listed, partial(_unnamed_images, classes), request.minutes)
    return listing_of(request, [read(_Stretch(path, path.name)) for path in files])


def list_webdataset(request: Request, files: list[Path]) -> Listing[TarImage]:
    """Tars of samples: an image, and its class in a file of the same name; raises ValueError.

    Tars that this package wrote bring their classes' names and their keys, unless class_names_path names the classes.
    """
    names_path = request.run.class_names_path
    names = read_class_names(names_path) if names_path else None
    stretches = [_Stretch(path, path.name) for path in files]
    if names is None and (own := own_classes(files[0].parent)):
        read = partial(_own_samples, len(own))
        read = partial(_listed, read, request.minutes)
        found = list_in_threads(read, stretches, unit="archives")
        names = {str(label): name for label, name in enumerate(own)}
        return listing_of(request, found, classes=range(len(own)), names=names, whole_keys=True)
    read = partial(_listed, _samples, request.minutes)
    found = list_in_threads(read, stretches, unit="archives")
    return listing_of(request, found, names=names)


def _inner_tars(request: Request, outside: _Contents) -> list[_Stretch]:
    path, classes = request.path, []
    try:
        with Span(path, request.minutes) as span:
            for member in tar_members(span, path.name):
                if member.refusal or not member.name.endswith(".tar"):
                    outside.leave_out(member.name, "", member.refusal)
                else:
                    name = f"{path.name}/{PurePosixPath(member.name).name}"
                    classes.append(_Stretch(path, name, member.offset, member.size))
    except DamagedArchiveError as error:
        raise ValueError(f"{request.field} = {str(path)!r}: {error}") from None
    return classes


Reader = Callable[[Span, Iterable[TarMember], _Contents], None]
"""Puts the members of a tar, which the span holds, where they belong."""


def _listed(read: Reader, minutes: float, stretch: _Stretch) -> FoundArchive:
    contents, damage = _Contents(stretch.name), ""
    with Span(stretch.path, minutes, stretch.start, stretch.size) as span:
        try:
            read(span, _safe(tar_members(span, stretch.name), contents), contents)
        except DamagedArchiveError as error:
            damage = str(error)
    stamp = stamp_of(stretch.path, minutes) + stretch.name
    return found_archive(stretch.name, contents.images, TarImage, contents.left_out, stamp, damage)


def _safe(members: Iterable[TarMember], contents: _Contents) -> Iterator[TarMember]:
    """The plain files with safe paths; as in folders, hidden ones do not count."""
    for member in members:
        path = PurePosixPath(member.name)
        if member.refusal:
            contents.leave_out(member.name, "", member.refusal)
        elif not any(part.startswith(".") for part in path.parts):
            yield member._replace(name=str(path))


def _class_of(stretch: _Stretch) -> str:
    return PurePosixPath(stretch.name).stem


def _class_images(span: Span, members: Iterable[TarMember], contents: _Contents) -> None:
    name = PurePosixPath(contents.name).stem
    for member in members:
        if _is_image(span, member):
            file = member.name.removeprefix(f"{name}/")
            contents.images.append(Found(name, file, _place(span, member)))
        else:
            contents.leave_out(member.name, name)


def _unnamed_images(
    classes: ImageClasses, span: Span, members: Iterable[TarMember], contents: _Contents
) -> None:
    for member in members:
        file = PurePosixPath(member.name).name
        if not _is_image(span, member):
            contents.leave_out(member.name, contents.name)
        elif name := classes.of(file):
            contents.images.append(Found(name, file, _place(span, member)))
        else:
            contents.leave_out(member.name, "", UNLABELLED)


def _samples(span: Span, members: Iterable[TarMember], contents: _Contents) -> None:
    for _, group in itertools.groupby(members, key=_sample_of):
        sample = list(group)
        images = [member for member in sample if _extension(member) in IMAGE_SUFFIXES]
        labels = {_extension(member): member for member in sample}
        own = _own_class(span, labels) if images else None
        for place, member in enumerate(images):
            if place:
                contents.leave_out(member.name, "", "further images of a sample")
            elif own is None:
                contents.leave_out(member.name, "", UNLABELLED)
            else:
                file = PurePosixPath(member.name).name
                contents.images.append(Found(own, file, _place(span, member)))
        for member in sample:
            if not images or _extension(member) not in IMAGE_SUFFIXES.union(LABEL_SUFFIXES):
                is_long = PurePosixPath(_extension(member)).suffix[1:] in IMAGE_SUFFIXES
                contents.leave_out(member.name, contents.name, _LONG_EXTENSION if is_long else "")


def _own_samples(
    num_classes: int, span: Span, members: Iterable[TarMember], contents: _Contents
) -> None:
    try:
        for sample in tar_samples(span, members):
            if not 0 <= sample.label < num_classes:
                raise TarShardError(
                    f"row {sample.key!r}: its label {sample.label} is none of {num_classes} classes"
                )
            contents.images.append(Found(sample.label, sample.key, _place(span, sample.image)))
    except TarShardError as error:
        raise DamagedArchiveError(f"{contents.name}: {error}; restore it") from None


def _sample_of(member: TarMember) -> str:
    """As WebDataset defines it: the path up to the first dot of the file's name."""
    path = PurePosixPath(member.name)
    return str(path.with_name(path.name.partition(".")[0]))


def _extension(member: TarMember) -> str:
    """As WebDataset defines it: all behind that dot, so that the depth map 0001.depth.png is not the photo 0001.png."""
    return PurePosixPath(member.name).name.partition(".")[2].lower()


def _own_class(span: Span, members: dict[str, TarMember]) -> int | str | None:
    """The class as the sample says it; None where it says none that is one."""
    suffix = next((each for each in LABEL_SUFFIXES if each in members), None)
    if suffix is None or members[suffix].size > _LONGEST_LABEL:
        return None
    try:
        text = span.read_at(members[suffix].offset, members[suffix].size).decode()
        return _class(_of_json(text) if suffix == "json" else text.strip())
    except ValueError:
        return None


def _of_json(text: str) -> Any:
    values = json.loads(text)
    if not isinstance(values, dict):
        return values
    return next((values[name] for name in _LABEL_FIELDS if name in values), None)


def _class(value: Any) -> int | str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    if not isinstance(value, str) or not value or len(value) > _LONGEST_NAME:
        return None
    if re.fullmatch(r"[0-9]+", value):
        return int(value)
    return value if value.isprintable() and not re.fullmatch(r"[-+.\d]+", value) else None


def _is_image(span: Span, member: TarMember) -> bool:
    return may_be_image(
        member.name, lambda size: span.read_at(member.offset, min(size, member.size))
    )


def _place(span: Span, member: TarMember) -> tuple[str, int, int]:
    return span.text, member.offset, member.size
