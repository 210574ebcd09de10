"""Requests that listing ImageNet's training tar in an object store takes: counted for a few classes, computed for all.

    python -m benchmarks.listing_requests
    python -m benchmarks.listing_requests --classes 3 --members 1281 --bytes 115000

A tar of --classes tars, each of --members members of --bytes zeros, is put into moto's server (extra dev) and listed as
`jobs.shard_images` lists it; the requests are those that the server answered. The formula must give the same number, or
the exit code is 1; with it the number for ImageNet's thousand classes is told. Half a minute and 1 GiB.
"""

import logging
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import measured
from benchmarks.s3_server import BUCKET, s3_server
from glotok_ray.config import ShardRun
from glotok_ray.data.source_kinds import list_source
from glotok_ray.storage import stretches
from glotok_ray.storage.places import copy_file, to_path

IMAGENET_CLASSES, IMAGENET_MEMBERS, IMAGENET_BYTES = 1000, 1281, 115_000
_BLOCK = tarfile.BLOCKSIZE
# What tells the kind of the source looks at the first members.
_PEEKED = 20
# Of each inner tar the size is asked for as it is opened, and the stamp when it is listed.
_OTHERS_OF_A_CLASS = 2


def zeros_tar(path: Path, classes: int, members: int, size: int) -> Path:
    """A tar of tars like ILSVRC2012_img_train.tar; on a disk it takes little, its zeros are holes."""
    stride = _BLOCK + _padded(size)
    inner = -(-(members * stride + 2 * _BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    with path.open("wb") as stream:
        for label in range(classes):
            name, start = f"n{label:08d}", label * (_BLOCK + inner)
            _header(stream, start, f"{name}.tar", inner)
            for number in range(members):
                place = start + _BLOCK + number * stride
                _header(stream, place, f"{name}_{number:05d}.JPEG", size)
        stream.truncate(classes * (_BLOCK + inner) + 2 * _BLOCK)
    return path


def _header(stream: Any, place: int, name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    stream.seek(place)
    stream.write(info.tobuf(tarfile.USTAR_FORMAT))


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def ranged_requests(classes: int, members: int, size: int) -> int:
    """Requests for stretches, by the rule of `stretches.ObjectInOrder`, where inner tars are longer than a stretch.

    Of a tar the first stretch is short; each further one begins with a header and holds as many as fit. The outer
    headers, and those that tell the kind, cost a short stretch each; so do the two end marks.
    """
    stride = _BLOCK + _padded(size)
    in_first = (stretches._FIRST_BYTES - _BLOCK) // stride + 1
    in_further = (stretches.AHEAD_BYTES - _BLOCK - 1) // stride + 1
    headers = members + 1  # With the end mark.
    inner = 1 + -(-max(0, headers - in_first) // in_further)
    return classes * inner + (classes + 1) + min(classes + 1, _PEEKED)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """The requests that the server of this process answers meanwhile, by their methods, those for stretches apart."""
    found: Counter[str] = Counter()

    class Count(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            method = re.search(r"([A-Z]+) /", record.getMessage())
            found["ranged" if " 206 " in record.getMessage() else method[1] if method else ""] += 1

    log = logging.getLogger("werkzeug")
    level, handlers = log.level, log.handlers
    log.setLevel(logging.INFO)
    log.handlers = [Count()]
    try:
        yield found
    finally:
        log.setLevel(level)
        log.handlers = handlers


def requests_of(source: str) -> tuple[int, Counter[str]]:
    """The images that a listing finds, and the requests that it takes."""
    with counted() as found:
        training, _ = list_source(ShardRun(source=source, image_size=0))
    return len(training.images), found


def main() -> None:
    """Count, compute and compare."""
    parser = measured.parser("Requests of listing ImageNet's training tar in a store.")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--members", type=int, default=IMAGENET_MEMBERS, help="of each class")
    parser.add_argument("--bytes", type=int, default=IMAGENET_BYTES, help="of each member")
    options = parser.parse_args()
    sizes = (options.classes, options.members, options.bytes)
    with tempfile.TemporaryDirectory() as folder, s3_server():
        path = zeros_tar(Path(folder) / "train.tar", *sizes)
        remote = to_path(f"s3://{BUCKET}/listing_requests/train.tar")
        copy_file(path, remote)
        total = path.stat().st_size
        seconds, (images, found) = measured.seconds_of(lambda: requests_of(str(remote)))
        remote.unlink()
    computed, others = ranged_requests(*sizes), sum(found.values()) - found["ranged"]
    others_of_imagenet = others + _OTHERS_OF_A_CLASS * (IMAGENET_CLASSES - options.classes)
    imagenet = ranged_requests(IMAGENET_CLASSES, IMAGENET_MEMBERS, IMAGENET_BYTES)
    figures = {
        "images": images,
        "mib": total / 2**20,
        "seconds": seconds,
        "requests": dict(found),
        "ranged_computed": computed,
        "imagenet_ranged_computed": imagenet,
        "imagenet_others_computed": others_of_imagenet,
    }
    measured.answer(
        as_json=options.json,
        columns=["", "images", "ranged requests", "computed"],
        rows=[
            [f"{options.classes} classes", f"{images:,}", f"{found['ranged']:,}", f"{computed:,}"],
            ["ImageNet", f"{IMAGENET_CLASSES * IMAGENET_MEMBERS:,}", "", f"{imagenet:,}"],
        ],
        figures=figures,
        ratios={"ranged requests, counted by computed": found["ranged"] / computed},
    )
    if found["ranged"] != computed:
        raise SystemExit("listing_requests: the formula differs from what was counted")


if __name__ == "__main__":
    main()
