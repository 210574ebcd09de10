"""A generator as a folder to publish: from a finished run, or from a peer's checkpoint file.

The folder holds generator.safetensors, generator.json, a model card and, where there is one, a copy of the tokenizer,
for `ImageGenerator.from_pretrained` and for every job that takes a generator_path.
Read next: glotok_ray/interop/generators.py
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from glotok_ray.config.generator import FlowConfig, XARConfig
from glotok_ray.config.jobs import ExportGeneratorRun
from glotok_ray.config.overrides import bound_settings, to_dict, with_absolute_paths
from glotok_ray.config.var import ModelConfig
from glotok_ray.interop.generator_card import PEER_FILE, Card, generator_card, licence_of
from glotok_ray.interop.generators import (
    PEER_MASKS,
    XAR_LATENT_SCALE,
    export_generator,
    import_generator,
    layout_of,
)
from glotok_ray.interop.tokenizer_card import CARD_FILE
from glotok_ray.pretrained.generator import (
    AVERAGE_FILE,
    build_generator,
    copy_tokenizer,
    find_tokenizer,
    load_generator,
    read_facts,
    save_generator,
)
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE, code_layout, read_any_tokenizer
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.storage import artefact, ownership
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.optional_files import optional_file
from glotok_ray.storage.output import Output, Unfinished, check_apart, look
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import save_weights
from glotok_ray.training.evaluated_checkpoints import best_text, best_weights
from glotok_ray.training.metrics_file import last_metrics

logger = logging.getLogger(__name__)

_BUFFERS = ("latent_scale",)


@dataclass(frozen=True)
class _Source:
    """What a run or a peer's file gives."""

    model: ModelConfig
    state: Mapping[str, Tensor]
    facts: dict[str, Any]
    origin: str
    metrics: Mapping[str, Any]
    tokenizer: Path | None
    """Folder of the tokenizer to copy."""
    licence: str = ""
    """Of a peer's weights."""


@ownership.holding()
def run(config: ExportGeneratorRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the folder, or recognise it; returns its manifest. Raises ArtefactError for what cannot be exported."""
    config = with_absolute_paths(config)
    check_inputs(config, fresh=fresh)
    source = _source(config)
    output = _look(config, source, fresh=fresh)
    if output.finished is not None:
        logger.info("already finished: %s", output.folder)
        return output.finished
    # Read before the folder is begun: what does not fit must leave nothing behind.
    found = _from_peer(config, source) if source.is_file() else _from_run(config, source)
    parameters = sum(tensor.numel() for name, tensor in found.state.items() if name not in _BUFFERS)
    peers = export_generator(found.state, found.model) if config.layout == "peer" else {}
    folder = output.begin(Unfinished.REPLACE)
    save_generator(folder, found.state, None, found.facts)
    if peers:
        save_weights(folder / PEER_FILE, peers, masks=PEER_MASKS)
    if found.tokenizer:
        copy_tokenizer(found.tokenizer, folder)
    card = Card(
        folder=folder.name,
        source=found.origin,
        parameters=parameters,
        has_tokenizer=found.tokenizer is not None,
        peer_layout=layout_of(found.model) if peers else "",
        licence=found.licence,
        tokenizer_system=code_layout(found.tokenizer).system if found.tokenizer else "",
    )
    (folder / CARD_FILE).write_text(generator_card(card, found.facts, found.metrics))
    return output.finish(source=found.origin, parameters=parameters)


def check_inputs(config: ExportGeneratorRun, *, fresh: bool = False) -> None:
    """Raise ArtefactError when there is nothing to export, an unfinished run, or an output folder that is not apart
    from what is read.
    """
    source = to_path(config.source_path)
    if not config.source_path or not source.exists():
        raise ArtefactError(
            f"source_path = {config.source_path!r}: no such run folder or file; correct it"
        )
    output = to_path(config.output_path)
    check_apart(output, [source], fresh=fresh, outside=True)
    if config.tokenizer_path:
        check_apart(output, [config.tokenizer_path], fresh=fresh)
    if source.is_dir():
        folder = _source(config)
        check_apart(output, [folder], fresh=fresh, outside=True)
        artefact.read_manifest(folder, "generator")
        if config.checkpoint == "best" and config.weights == "model" and _is_averaged(folder):
            raise ArtefactError(
                f"weights = 'model': {folder} holds averaged weights alone, by which it was found best; pass --weights "
                "ema, or --checkpoint last"
            )


def _source(config: ExportGeneratorRun) -> Path:
    """The file, or the folder that holds the chosen weights of a run."""
    source = to_path(config.source_path)
    return best_weights(source) if config.checkpoint == "best" else source


def _is_averaged(folder: Path) -> bool:
    return optional_file(folder, AVERAGE_FILE) is not None


def _look(config: ExportGeneratorRun, source: Path, *, fresh: bool) -> Output:
    settings = bound_settings(config)
    if config.tokenizer_path:
        settings["tokenizer_sha256"] = artefact.sha256_of(_tokenizer_weights(config))
    if source.is_file():
        settings["source_sha256"] = artefact.sha256_of(source)
    return look(
        to_path(config.output_path),
        "generator",
        settings,
        [] if source.is_file() else [source],
        fresh=fresh,
        made_by="export_generator",
    )


def _tokenizer_weights(config: ExportGeneratorRun) -> Path:
    """The given tokenizer's weights, its manifest verified."""
    folder = to_path(config.tokenizer_path)
    artefact.read_manifest(folder, "tokenizer")
    return folder / WEIGHTS_FILE


def _from_run(config: ExportGeneratorRun, source: Path) -> _Source:
    manifest = artefact.stated_manifest(source)
    facts = read_facts(source)
    use_ema = config.weights == "ema"
    averaged = use_ema and _is_averaged(source)
    model = load_generator(source, use_ema=use_ema)
    chosen = best_text(source)
    name = source.parents[1].name if chosen else source.name
    made = f"trained by the run {name!r}, after {manifest.get('step')} steps"
    kind = "averaged over the steps" if averaged else "the last step's"
    return _Source(
        model=model.config,
        state=model.state_dict(),
        facts=facts,
        origin=manifest.get("source") or f"{made} ({kind}){chosen}",
        metrics=last_metrics(source.parents[1], manifest["step"])
        if chosen
        else artefact.metrics_of(manifest),
        tokenizer=find_tokenizer(source, config.tokenizer_path or None)
        if facts["tokenizer_sha256"] or config.tokenizer_path
        else None,
        licence=facts.get("licence", ""),
    )


def _from_peer(config: ExportGeneratorRun, source: Path) -> _Source:
    model = config.model
    tokenizer, digest = _tokenizer_of_peer(config, model)
    imported = import_generator(source, model, weights=config.weights)
    if imported.left_out:
        logger.info("left out on purpose: %s", ", ".join(imported.left_out))
    facts: dict[str, Any] = {
        "architecture": config.architecture,
        "model": to_dict(model),
        "tokenizer_sha256": digest,
        "classes": class_names(model.num_classes),
    }
    if isinstance(model, XARConfig):
        facts["flow"] = to_dict(FlowConfig())
        facts["latent_scale"] = [XAR_LATENT_SCALE] * model.channels
    # An export of this folder is bound by it, too.
    facts["licence"] = licence_of(imported.layout, model)
    return _Source(
        model=model,
        state=imported.tensors,
        facts=facts,
        origin=f"imported from {source.name} ({imported.layout} names, sha256 {imported.sha256})",
        metrics={},
        tokenizer=tokenizer,
        licence=facts["licence"],
    )


def _tokenizer_of_peer(config: ExportGeneratorRun, model: ModelConfig) -> tuple[Path | None, str]:
    """The folder and the digest of the tokenizer that decodes a peer's generator; None and "" without one.

    A checkpoint does not tell which tokenizer it was trained with, so the given one is believed where sizes fit.
    """
    if not config.tokenizer_path:
        return None, ""
    if isinstance(model, XARConfig):
        raise ArtefactError(
            f"tokenizer_path = {config.tokenizer_path!r}: the released xAR draws latents of MAR's KL-16 autoencoder, "
            "which no tokenizer of this package decodes; leave it empty"
        )
    folder, weights = to_path(config.tokenizer_path), _tokenizer_weights(config)
    with torch.device("meta"):
        generator = build_generator(model)
    # Refuses codebooks of other names or sizes, and other scales.
    ImageGenerator(generator, read_any_tokenizer(folder))
    return folder, artefact.sha256_of(weights)


def class_names(num_classes: int) -> list[str]:
    """ImageNet's, in the order of its folders, as all of the peers' generators have them; else numbers."""
    names = list(ImageNetInfo().label_names())
    return names if num_classes == len(names) else [str(label) for label in range(num_classes)]
