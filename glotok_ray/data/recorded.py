"""What folders of images and codes say about themselves, held against what their reader needs.

Every check raises ArtefactError before anything starts; docs/recorded_facts.md lists all facts and who checks them.
Read next: glotok_ray/training/inputs.py, glotok_ray/evaluation/inputs.py
"""

from collections.abc import Sequence
from pathlib import Path

from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.data.forms import CROP, ORIGINAL, REDUCED, largest_short_side
from glotok_ray.data.records import DATASET, DatasetInfo, read_dataset
from glotok_ray.storage.artefact import ArtefactError

_SHOWN_CLASSES = 3
_OURS = "glotok"

ADM_CROPS = "ADM's crop of the original images"
"""The one text of `crops_text` that says that crops are ADM's of untouched images."""


def read_image_dataset(folder: Path) -> DatasetInfo:
    """The dataset.json of image shards; refuses codes."""
    dataset = read_dataset(folder)
    if dataset.kind != "shards":
        raise ArtefactError(
            f"{folder}: holds {dataset.kind}, not shards of images; correct the path"
        )
    return dataset


def crops_text(dataset: DatasetInfo) -> str:
    """What an evaluation's or encoding's crops are, as a part of a protocol's sentence."""
    done = []
    if dataset.num_turned:
        done.append(f"{dataset.num_turned} were turned by their EXIF orientation")
    if dataset.num_changed:
        done.append(f"{dataset.num_changed} were changed as {DATASET} says")
    if not done:
        return _form_text(dataset)
    return f"{_form_text(dataset)}; of {dataset.num_images} images {' and '.join(done)}, which is not ADM's protocol"


def _form_text(dataset: DatasetInfo) -> str:
    side = dataset.image_size
    if dataset.form == ORIGINAL:
        return ADM_CROPS
    if dataset.form == CROP:
        return f"crops of the data set, as stored at {side} x {side} pixels"
    if dataset.jpeg_quality:
        return (
            f"ADM's crop of images whose short side was reduced to {side} pixels where it was larger, as JPEG of "
            f"quality {dataset.jpeg_quality}, which is not ADM's protocol"
        )
    return (
        f"ADM's crop of images that were reduced to a short side of {side} to {largest_short_side(side)} pixels "
        "before, which is not ADM's protocol"
    )


def check_adm_protocol(dataset: DatasetInfo, *, folder: Path, field: str) -> None:
    """Refuse images that were reduced, turned or changed in the name of the config's `field`, which asks for ADM's
    crops; raises ArtefactError.
    """
    facts, remedies = [], []
    if dataset.form == REDUCED:
        facts.append(f"form = {dataset.form!r}")
        remedies.append(
            "--resize-short-side 0, which keeps originals"
            if dataset.jpeg_quality
            else "--image-size 0, which keeps originals"
        )
    if dataset.num_turned:
        facts.append(f"num_turned = {dataset.num_turned}")
        remedies.append("--no-upright, which leaves pixels as they lie")
    if dataset.num_changed:
        facts.append(f"num_changed = {dataset.num_changed}")
        remedies.append(
            f"the files that {DATASET} names under 'changed' mended (--no-upright lays none on white)"
        )
    if facts:
        raise ArtefactError(
            f"{field} = True: {folder} holds {crops_text(dataset)} ({DATASET}: {', '.join(facts)}); shard the "
            f"images again with {', and '.join(remedies)}, or pass --{_off(field)}, and the protocols say what the "
            "images are"
        )


def _off(field: str) -> str:
    *sections, name = field.replace("_", "-").split(".")
    return ".".join([*sections, f"no-{name}"])


def check_side(dataset: DatasetInfo, folder: Path, image_size: int) -> None:
    """Refuse images that were stored for a smaller side than `image_size`, which the tokenizer takes: enlarged ones
    hold no detail, are learned and reconstructed more easily, and score too well.

    Originals may be of any size, as in ADM's protocol.
    """
    if dataset.form != ORIGINAL and dataset.image_size < image_size:
        raise ArtefactError(
            f"{folder}: its images are stored at {dataset.image_size} pixels ({DATASET}: form = {dataset.form!r}), "
            f"and the tokenizer takes {image_size}; shard them again with --image-size {image_size} or more (0 keeps a "
            "folder's originals), or correct the path"
        )


def check_classes(names: Sequence[str], of: str, others: Sequence[str], others_of: str) -> None:
    """Refuse two folders, named `of` and `others_of`, whose classes differ: a label is an index into them.

    A generator that was imported without names has numbers for them; then the counts alone are compared.
    """
    numbers = [str(label) for label in range(len(names))]
    unnamed = numbers in (list(names), list(others)) and len(names) == len(others)
    if unnamed or list(names) == list(others):
        return
    raise ArtefactError(
        f"{of} has {_classes_text(names)}, and {others_of} has {_classes_text(others)}: label numbers would mean other "
        "classes; correct a path"
    )


def _classes_text(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_CLASSES])
    return f"{len(names)} classes ({shown}{', ...' if len(names) > _SHOWN_CLASSES else ''})"


def _grids(system: str, grids: dict[str, tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    return list(grids.items()) if system else sorted(grids.items())


def check_codes(
    codes: DatasetInfo, folder: Path, layout: CodeLayout, tokenizer: Path, digest: str
) -> None:
    """Refuse codes that another tokenizer made than the one at `tokenizer`, of `layout` and weights `digest`."""
    if codes.kind != "codes":
        raise ArtefactError(
            f"{folder}: holds {codes.kind}, not codes; run jobs.encode_images, or correct the path"
        )
    if codes.tokenizer_sha256 != digest:
        raise ArtefactError(
            f"{folder}: made by another tokenizer: by tokenizer {codes.tokenizer_sha256[:12]}, but {tokenizer} is "
            f"{digest[:12]}; encode again or correct tokenizer_path"
        )
    # The digest is of weights alone, and these facts are not in them.
    facts = {
        "system": (codes.system or _OURS, layout.system or _OURS),
        "image_size": (codes.image_size, layout.image_size),
        "grid_size": (codes.grid_size, layout.grid_size),
        # Of ours the order lies in the tokenizer's config alone.
        "grids": (_grids(codes.system, codes.grids), _grids(layout.system, layout.grids)),
        "codebooks": (codes.code_counts, layout.code_counts),
    }
    for name, (recorded, needed) in facts.items():
        if recorded != needed:
            raise ArtefactError(
                f"{folder / DATASET}: {name} = {recorded}: the tokenizer {tokenizer} has {needed}, though its weights "
                "are those that made the codes; its config.json was changed since: restore it, or encode again"
            )
