"""The same ImageNet-like images in the five forms in which people have them, for a drill and tests.

Read next: benchmarks/source_forms.py
"""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import scipy.io
from PIL import Image

SYNSETS = ("n01440764", "n01443537", "n02119789")
"""In sorted order; the development kit numbers them otherwise."""
HUMAN_NAMES = ("tench, Tinca tinca", "goldfish", "kit fox")
DEVKIT_IDS = (3, 1, 2)

Images = Mapping[str, Mapping[str, bytes]]
"""Encoded images by file name, by class."""


def jpeg(seed: int, size: tuple[int, int] = (9, 7)) -> bytes:
    """A small JPEG, another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def bomb() -> bytes:
    """The head of a PNG of 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def training_images(
    per_class: int, synsets: Iterable[str] = SYNSETS, size: tuple[int, int] = (9, 7)
) -> Images:
    """Named as ImageNet names them; fewer than a thousand of a class."""
    return {
        synset: {f"{synset}_{10 + i}.JPEG": jpeg(1000 * place + i, size) for i in range(per_class)}
        for place, synset in enumerate(synsets)
    }


def validation_images(
    per_class: int, synsets: Iterable[str] = SYNSETS, size: tuple[int, int] = (9, 7)
) -> Images:
    """Numbered through all classes, which take turns."""
    names = list(synsets)
    found: dict[str, dict[str, bytes]] = {name: {} for name in names}
    for number in range(per_class * len(names)):
        file = f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        found[names[number % len(names)]][file] = jpeg(10**7 + number, size)
    return found


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of plain files, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_folders(root: Path, images: Images) -> Path:
    """A tree of class folders."""
    for synset, files in images.items():
        (root / synset).mkdir(parents=True)
        for name, content in files.items():
            (root / synset / name).write_bytes(content)
    return root


def write_train_tar(path: Path, images: Images) -> Path:
    """A tar of tars, as the official one."""
    inner = []
    for synset, files in images.items():
        part = write_tar(path.with_name("part.tar"), files.items())
        inner.append((f"{synset}.tar", part.read_bytes()))
        part.unlink()
    return write_tar(path, inner)


def in_order(images: Images) -> list[tuple[str, str, bytes]]:
    """(name, class, content), sorted by name."""
    return sorted(
        (name, synset, content)
        for synset, files in images.items()
        for name, content in files.items()
    )


def write_validation_tar(path: Path, images: Images) -> Path:
    """The official validation tar."""
    return write_tar(path, ((name, content) for name, _, content in in_order(images)))


def write_devkit(root: Path, images: Images) -> Path:
    """The two files of the development kit that say the validation images' classes."""
    (root / "data").mkdir(parents=True)
    synsets = sorted(images)
    numbers = dict(zip(synsets, _devkit_ids(len(synsets)), strict=True))
    lines = [str(numbers[synset]) for _, synset, _ in in_order(images)]
    (root / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(lines) + "\n")
    table = np.array(
        [(number, synset, 0.0) for synset, number in numbers.items()],
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")],
    )
    scipy.io.savemat(root / "data" / "meta.mat", {"synsets": table.reshape(-1, 1)})
    return root


def _devkit_ids(number: int) -> tuple[int, ...]:
    return DEVKIT_IDS if number == len(DEVKIT_IDS) else tuple(range(1, number + 1))


def write_webdataset(root: Path, split: str, images: Images, per_tar: int) -> Path:
    """Samples of an image and a number, many to a tar."""
    labels = {synset: str(label).encode() for label, synset in enumerate(sorted(images))}
    rows = in_order(images)
    for tar, start in enumerate(range(0, len(rows), per_tar)):
        members: list[tuple[str, bytes]] = []
        for name, synset, content in rows[start : start + per_tar]:
            members += [(name.replace(".JPEG", ".cls"), labels[synset]), (name, content)]
        write_tar(root / f"imagenet-{split}-{tar:04d}.tar", members)
    return root


def write_parquet(
    path: Path, images: Images, *, names: tuple[str, ...] = HUMAN_NAMES, rows_per_group: int = 5
) -> Path:
    """A file as Hugging Face has them, in which files are called NAME_CLASS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = {synset: label for label, synset in enumerate(sorted(images))}
    rows = in_order(images)
    table = pyarrow.table(
        {
            "image": [
                {"bytes": content, "path": name.replace(".JPEG", f"_{synset}.JPEG")}
                for name, synset, content in rows
            ],
            "label": pyarrow.array([labels[synset] for _, synset, _ in rows], pyarrow.int64()),
        }
    )
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(names), "_type": "ClassLabel"},
    }
    facts = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(facts), path, row_group_size=rows_per_group
    )
    return path


def write_kaggle(root: Path, training: Images, validation: Images) -> Path:
    """What Kaggle's archive holds."""
    folder = root / "ILSVRC" / "Data" / "CLS-LOC"
    write_folders(folder / "train", training)
    (folder / "val").mkdir()
    lines = ["ImageId,PredictionString"]
    for name, synset, content in in_order(validation):
        (folder / "val" / name).write_bytes(content)
        lines.append(f"{Path(name).stem},{synset} 1 2 3 4 {synset} 5 6 7 8")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    return root


def write_five_forms(
    root: Path, training: Images, validation: Images, *, per_archive: int = 4
) -> dict[str, dict[str, str]]:
    """All five, and for each the fields of ShardRun that name it."""
    synsets = sorted(training)
    root.mkdir(parents=True, exist_ok=True)
    names = root / "synsets.txt"
    human = HUMAN_NAMES if len(synsets) == 3 else tuple(synsets)
    names.write_text("".join(f"{each} {name}\n" for each, name in zip(synsets, human, strict=True)))
    for split, images in (("train", training), ("validation", validation)):
        write_folders(root / "folders" / split, images)
        write_webdataset(root / "webdataset", split, images, per_archive)
        file = root / "parquet" / f"{split}-00000-of-00001.parquet"
        write_parquet(file, images, names=human, rows_per_group=per_archive)
    write_train_tar(root / "ILSVRC2012_img_train.tar", training)
    write_validation_tar(root / "ILSVRC2012_img_val.tar", validation)
    write_devkit(root / "devkit", validation)
    write_kaggle(root / "kaggle", training, validation)
    return {
        "folders": {
            "source": f"{root}/folders/train",
            "validation_source": f"{root}/folders/validation",
        },
        "tars": {
            "source": f"{root}/ILSVRC2012_img_train.tar",
            "validation_source": f"{root}/ILSVRC2012_img_val.tar",
            "ground_truth_path": f"{root}/devkit",
        },
        "webdataset": {"source": f"{root}/webdataset", "class_names_path": str(names)},
        "parquet": {"source": f"{root}/parquet", "class_names_path": str(names)},
        "kaggle": {"source": f"{root}/kaggle"},
    }
