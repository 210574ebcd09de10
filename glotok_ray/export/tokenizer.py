"""A tokenizer as a folder to publish: from a run, from one of its checkpoints, or from a peer's checkpoint file.

The folder holds tokenizer.safetensors, config.json and a model card, for `GloTokTokenizer.from_pretrained` and for
every job that takes a tokenizer_path. Read next: glotok_ray/interop/tokenizers.py
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from glotok_ray.config.jobs import ExportRun
from glotok_ray.config.overrides import bound_settings, with_absolute_paths
from glotok_ray.interop.peer_card import write_peer_card
from glotok_ray.interop.peer_tokenizers import import_peer
from glotok_ray.interop.tokenizer_card import write_model_card
from glotok_ray.interop.tokenizers import import_tokenizer
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.peers.systems import released
from glotok_ray.pretrained.peer_tokenizers import write_peer
from glotok_ray.pretrained.tokenizer import DISCRIMINATOR_FILE, WEIGHTS_FILE
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.optional_files import optional_file
from glotok_ray.storage.output import Output, Unfinished, check_apart, look
from glotok_ray.storage.places import copy_file, to_path
from glotok_ray.storage.weights import save_weights
from glotok_ray.training import checkpoint
from glotok_ray.training.checkpoint import CHECKPOINT_FOLDER
from glotok_ray.training.evaluated_checkpoints import BEST_FOLDER, best_text, best_weights
from glotok_ray.training.metrics_file import last_metrics
from glotok_ray.training.plan import RUN_FILE

logger = logging.getLogger(__name__)


class _Source(NamedTuple):
    """What a run or a peer's file gives."""

    model: GloTokTokenizer
    origin: str
    metrics: dict[str, Any]
    discriminator: Path | Mapping[str, Tensor] | None
    """The file of a run's, or the tensors of a peer's."""


@ownership.holding()
def run(config: ExportRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the folder, or recognise it; returns its manifest. Raises ArtefactError for what cannot be exported."""
    config = with_absolute_paths(config)
    file = check_inputs(config, fresh=fresh)
    settings = {**bound_settings(config), "source_sha256": artefact.sha256_of(file)}
    output = look(to_path(config.output_path), "tokenizer", settings, fresh=fresh, made_by="export")
    if output.finished is not None:
        logger.info("already finished: %s", output.folder)
        return output.finished
    if config.peer:
        return _export_released(config, output)
    # Read before the folder is begun: a file that does not fit must leave nothing behind.
    found = _from_peer(config) if file == to_path(config.source_path) else _from_run(file.parent)
    output.begin(Unfinished.REPLACE)
    if isinstance(found.discriminator, Path):
        copy_file(found.discriminator, output.folder / DISCRIMINATOR_FILE)
    elif found.discriminator:
        save_weights(output.folder / DISCRIMINATOR_FILE, found.discriminator)
    write_model_card(output.folder, found.model.config, found.metrics, source=found.origin)
    found.model.save_pretrained(output.folder, source=found.origin)
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    return output.finish(source=found.origin, parameters=parameters)


def check_inputs(config: ExportRun, *, fresh: bool = False) -> Path:
    """The file with the weights to export; raises ArtefactError when there is none, and when the output folder is not
    apart from what is read.
    """
    file = _weights_file(config)
    source = to_path(config.source_path)
    read = [source] if source.is_file() else [source, file.parent]
    check_apart(to_path(config.output_path), read, fresh=fresh, outside=True)
    return file


def _weights_file(config: ExportRun) -> Path:
    """The file with the weights to export; raises ArtefactError when there is none."""
    source = to_path(config.source_path)
    if config.peer:
        released(config.peer)
        if not source.is_file():
            raise ArtefactError(
                f"source_path = {config.source_path!r}: is no file; give the file of {config.peer}"
            )
    if not config.source_path or not source.exists():
        raise ArtefactError(
            f"source_path = {config.source_path!r}: no such run folder, checkpoint or file; correct it"
        )
    if config.checkpoint == "best":
        folder = best_weights(source)
        artefact.read_manifest(folder, "tokenizer")
        return folder / WEIGHTS_FILE
    return source if source.is_file() else _weights_folder(source) / WEIGHTS_FILE


def _weights_folder(source: Path) -> Path:
    """The folder with the export of a finished run, of a checkpoint, or of an unfinished run's newest checkpoint."""
    if (source / artefact.MANIFEST).is_file():
        kind = artefact.stated_manifest(source)["kind"]
        artefact.read_manifest(source, "checkpoint" if kind == "checkpoint" else "tokenizer")
        return source
    newest = checkpoint.newest_checkpoint(source / CHECKPOINT_FOLDER)
    if newest is None:
        raise ArtefactError(
            f"{source}: is neither a finished tokenizer nor a run with a checkpoint; train further, or correct the path"
        )
    logger.info("unfinished run: exporting %s", newest.name)
    return newest


def _from_run(found: Path) -> _Source:
    manifest = artefact.read_json(found / artefact.MANIFEST)
    step = manifest.get("step")
    if found.parent.name in (CHECKPOINT_FOLDER, BEST_FOLDER):
        run_folder = found.parents[1]
        metrics = last_metrics(run_folder, step)
    else:
        run_folder, metrics = found, artefact.metrics_of(manifest)
    chosen = best_text(found)
    origin = (
        manifest.get("source")
        or f"the run {run_folder.name!r} after {step} steps{chosen}{_trained_on(run_folder)}"
    )
    model = GloTokTokenizer.from_pretrained(found)
    return _Source(model, origin, metrics, optional_file(found, DISCRIMINATOR_FILE))


def _trained_on(run_folder: Path) -> str:
    """What crops the run was trained on; empty when its folder does not say."""
    path = run_folder / RUN_FILE
    facts = artefact.read_json(path) if path.is_file() else {}
    return f" on {facts['crops']}" if "crops" in facts else ""


def _from_peer(config: ExportRun) -> _Source:
    source = to_path(config.source_path)
    imported = import_tokenizer(source, config.model, weights=config.weights)
    model = GloTokTokenizer(config.model)
    model.load_state_dict(imported.tokenizer)
    if imported.left_out:
        logger.info("left out on purpose: %s", ", ".join(imported.left_out))
    origin = f"imported from {source.name} ({imported.layout} names, sha256 {imported.sha256})"
    return _Source(model, origin, {}, imported.discriminator)


def _export_released(config: ExportRun, output: Output) -> dict[str, Any]:
    """A released tokenizer of another system; returns the manifest."""
    source = to_path(config.source_path)
    # Read before the folder is begun: a file that does not fit must leave nothing behind.
    imported = import_peer(source, config.peer, weights=config.weights)
    output.begin(Unfinished.REPLACE)
    if imported.left_out:
        logger.info("left out on purpose: %s", ", ".join(imported.left_out))
    model = imported.model
    origin = f"imported from {source.name} ({config.peer}, {config.weights} weights, sha256 {imported.sha256})"
    write_peer_card(output.folder, model, config.peer, source=origin)
    write_peer(output.folder, model, imported.system, {"source": origin, "released": config.peer})
    return output.finish(source=origin, parameters=sum(model.module_parameters().values()))
