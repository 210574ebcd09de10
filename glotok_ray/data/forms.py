"""The forms in which pictures are stored, and the words and the rule for what a crop of each of them is.

ADM's protocol resamples the original picture once; a crop of a reduced picture was resampled twice.
Read next: glotok_ray/data/pictures.py
"""

from pathlib import Path

from glotok_ray.artefact import ArtefactError

ORIGINAL = "original"
"""Whole pictures at their own size."""
CROP = "crop"
"""Squares that are the data set itself."""
REDUCED = "reduced"
"""Whole pictures whose short side was brought near a training side."""
FORMS = (ORIGINAL, CROP, REDUCED)


def largest_short_side(image_size: int) -> int:
    """1.25 * image_size, rounded up: the most that ADM's random crop can use, and that a reduced picture keeps."""
    return -(-5 * image_size // 4)


def crops_text(form: str, image_size: int) -> str:
    """What an evaluation's or encoding's crops are, as a part of a protocol's sentence."""
    if form == ORIGINAL:
        return "ADM's crop of the original pictures"
    if form == CROP:
        return f"crops of the data set, as stored at {image_size} x {image_size} pixels"
    return (
        f"ADM's crop of pictures that were reduced to a short side of {image_size} to {largest_short_side(image_size)} "
        "pixels before, which is not ADM's protocol"
    )


def check_adm_protocol(form: str, image_size: int, *, folder: Path, field: str) -> None:
    """Refuse reduced pictures in the name of the config's `field`, which asks for ADM's crops; raises ArtefactError."""
    if form == REDUCED:
        raise ArtefactError(
            f"{field} = True: {folder} holds {crops_text(form, image_size)} (dataset.json: form = {form!r}); shard the "
            f"pictures again with --image-size 0, which keeps originals, or pass --{_off(field)}, and the protocols "
            "say what the pictures are"
        )


def _off(field: str) -> str:
    *sections, name = field.replace("_", "-").split(".")
    return ".".join([*sections, f"no-{name}"])
