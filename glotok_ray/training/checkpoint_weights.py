"""The weights of a checkpoint as a folder that other jobs read, copied before the checkpoint is removed.

Read next: glotok_ray/training/checkpoint_measurement.py
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glotok_ray.config.runs import AnyGeneratorRun, TokenizerRun
from glotok_ray.pretrained import generator, tokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import copy_file, remove_tree, to_path

_OF_TOKENIZER = (tokenizer.WEIGHTS_FILE, tokenizer.CONFIG_FILE, tokenizer.DISCRIMINATOR_FILE)
_OF_GENERATOR = (generator.GENERATOR_FILE, generator.AVERAGE_FILE, generator.WEIGHTS_FILE)


def copy_weights(
    checkpoint: Path, folder: Path, config: TokenizerRun | AnyGeneratorRun
) -> Path | None:
    """A folder in `folder`, named as the checkpoint, that holds a finished tokenizer or generator; None where the
    checkpoint is removed meanwhile.

    Raises ArtefactError for a file that is not as the checkpoint's manifest says, and for the checkpoint of a generator
    without weights of its own.
    """
    place = folder / checkpoint.name
    remove_tree(place, ignore_errors=True)
    place.mkdir(parents=True)
    is_tokenizer = isinstance(config, TokenizerRun)
    try:
        # Once: it may be gone when the files are copied.
        manifest = _manifest(checkpoint)
        names = _OF_TOKENIZER if is_tokenizer else _OF_GENERATOR
        _copy(checkpoint, place, names, manifest["files"])
    except FileNotFoundError:
        remove_tree(place)
        return None
    if not is_tokenizer:
        generator.copy_tokenizer(to_path(config.tokenizer_path), place)
    kind = "tokenizer" if is_tokenizer else "generator"
    artefact.write_manifest(place, kind, step=manifest["step"], checkpoint_of=config.name)
    return place


def _copy(
    checkpoint: Path, place: Path, names: Sequence[str], listed: Mapping[str, Mapping[str, Any]]
) -> None:
    """Copy those of the files that are `listed`; raises FileNotFoundError for one that is gone."""
    if names[0] not in listed:
        raise ArtefactError(
            f"{checkpoint}: holds no {names[0]}: it was written while checkpoint_evaluation.every_steps was 0"
        )
    for name in names:
        if name not in listed:
            continue
        copy_file(checkpoint / name, place / name)
        if artefact.sha256_of(place / name) != listed[name]["sha256"]:
            raise ArtefactError(
                f"{checkpoint / name}: differs from its sha256 in {artefact.MANIFEST}"
            )


def _manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        return artefact.stated_manifest(checkpoint)
    except ArtefactError:
        (checkpoint / artefact.MANIFEST).stat()  # FileNotFoundError where the checkpoint is gone
        raise
