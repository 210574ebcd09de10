"""What a generator's folder holds: its weights, their average, generator.json and a copy of its tokenizer.

Only the model is read and written here; whether a run is finished is told by its manifest.
Read next: glotok_ray/sampling/images.py
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glotok_ray.config.generator import FARConfig, FlowConfig, XARConfig
from glotok_ray.config.overrides import from_dict
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.config.var import ModelConfig, VARConfig
from glotok_ray.nn.far import FAR
from glotok_ray.nn.next_scale import ScaleTokenizer
from glotok_ray.nn.rq_transformer import ResidualTokenizer, RQTransformer
from glotok_ray.nn.tokenizer_protocol import Rate
from glotok_ray.nn.var import VAR
from glotok_ray.nn.xar import XAR
from glotok_ray.pretrained import tokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.optional_files import optional_file
from glotok_ray.storage.places import copy_file, to_path
from glotok_ray.storage.weights import load_weights, save_weights, stored_tensor

GENERATOR_FILE = "generator.json"
WEIGHTS_FILE = "generator.safetensors"
AVERAGE_FILE = "generator_ema.safetensors"
TOKENIZER_FOLDER = "tokenizer"
"""Folder of the copy of the tokenizer whose codes the generator was trained on."""

CONFIGS: dict[str, type[ModelConfig]] = {
    "xar": XARConfig,
    "far": FARConfig,
    "var": VARConfig,
    "rq": RQConfig,
}
"""The model's config by the "architecture" of generator.json."""


def architecture_of(model: ModelConfig) -> str:
    """The "architecture" of generator.json for a model's config."""
    return next(name for name, kind in CONFIGS.items() if isinstance(model, kind))


_FIELDS = {"architecture": str, "model": dict, "tokenizer_sha256": str, "classes": list}


def build_generator(config: ModelConfig) -> XAR | FAR | VAR | RQTransformer:
    """The model that a config describes, its weights drawn anew."""
    if isinstance(config, VARConfig):
        return VAR(config)
    if isinstance(config, RQConfig):
        return RQTransformer(config)
    return XAR(config) if isinstance(config, XARConfig) else FAR(config)


def save_generator(
    folder: Path,
    raw: Mapping[str, Tensor],
    averaged: Mapping[str, Tensor] | None,
    facts: Mapping[str, Any],
) -> None:
    """Write the weights, their average where there is one, and generator.json with the `facts` that `read_facts` gives
    back; the caller writes the tokenizer's copy and the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS_FILE, raw)
    if averaged is None:
        # One that an earlier export left there would be taken for this one's.
        (folder / AVERAGE_FILE).unlink(missing_ok=True)
    else:
        save_weights(folder / AVERAGE_FILE, averaged)
    artefact.write_json(folder / GENERATOR_FILE, dict(facts))


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer in `source` into a generator's folder: it alone makes images of the generator's codes."""
    (folder / TOKENIZER_FOLDER).mkdir(exist_ok=True)
    for name in (tokenizer.WEIGHTS_FILE, tokenizer.CONFIG_FILE):
        copy_file(source / name, folder / TOKENIZER_FOLDER / name)


def read_facts(folder: Path) -> dict[str, Any]:
    """generator.json: "architecture" ("xar", "far", "var" or "rq"), "model" (its config), "flow" (its objective, of
    xar alone), "tokenizer_sha256" and "classes" (names); of imported weights their "licence". Raises ArtefactError that
    names the file and what it lacks.
    """
    path = folder / GENERATOR_FILE
    facts = artefact.read_json(path)
    if not isinstance(facts, dict):
        raise ArtefactError(f"{path}: must hold a JSON object; is {folder} a generator's folder?")
    architecture = facts.get("architecture")
    fields = _FIELDS | ({"flow": dict} if architecture == "xar" else {})
    for name, kind in fields.items():
        if not isinstance(facts.get(name), kind):
            raise ArtefactError(
                f"{path}: {name} = {facts.get(name)!r}: must be of type {kind.__name__}; correct the path, or train "
                "the generator again with this version"
            )
    if architecture not in CONFIGS:
        raise ArtefactError(
            f"{path}: architecture = {architecture!r}: must be one of {', '.join(CONFIGS)}; train the generator "
            "again with this version"
        )
    if "latent_scale" in facts and not _is_scale(facts["latent_scale"]):
        raise ArtefactError(
            f"{path}: latent_scale = {facts['latent_scale']!r}: must be a list of finite numbers above 0, one for each "
            "channel; restore the file, or export the generator again"
        )
    return facts


def _is_scale(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int | float)
        and not isinstance(item, bool)
        and math.isfinite(item)
        and item > 0
        for item in value
    )


def model_config(folder: Path) -> ModelConfig:
    """The config of the model in a generator's folder; raises ArtefactError when this version has no such model."""
    facts = read_facts(folder)
    model = _from_facts(folder, "model", CONFIGS[facts["architecture"]], facts)
    if len(facts["classes"]) != model.num_classes:
        raise ArtefactError(
            f"{folder / GENERATOR_FILE}: names {len(facts['classes'])} classes, and its model.num_classes = "
            f"{model.num_classes}; correct the names, or export the generator again"
        )
    scale = facts.get("latent_scale")
    if isinstance(model, XARConfig) and scale is not None and len(scale) != model.channels:
        raise ArtefactError(
            f"{folder / GENERATOR_FILE}: latent_scale has {len(scale)} numbers, and its model.channels = "
            f"{model.channels}; restore the file, or export the generator again"
        )
    return model


def flow_config(folder: Path) -> FlowConfig:
    """The objective that an xAR in a generator's folder was trained with; raises ArtefactError for others, which have
    none.
    """
    facts = read_facts(folder)
    if "flow" not in facts:
        raise ArtefactError(
            f"{folder / GENERATOR_FILE}: architecture = {facts['architecture']!r}: has no flow; correct the path"
        )
    return _from_facts(folder, "flow", FlowConfig, facts)


def load_generator(folder: Path, *, use_ema: bool) -> XAR | FAR | VAR | RQTransformer:
    """The frozen generator of a folder, on the CPU, in evaluation mode.

    `use_ema` takes the averaged weights where the folder has them. Raises ArtefactError when files are missing, do not
    fit each other, or are none of those that the folder's manifest lists.
    """
    model = build_generator(model_config(folder))
    average = optional_file(folder, AVERAGE_FILE) if use_ema else None
    load_weights(model, average or folder / WEIGHTS_FILE)
    check_scale(folder)
    return model.requires_grad_(False).eval()


def check_scale(folder: Path) -> None:
    """Raise ArtefactError when generator.json and the weights of an xAR have different scales of the latents: with
    another one every image would be off, and plausible.
    """
    facts = read_facts(folder)
    if "latent_scale" not in facts:
        return
    recorded = torch.tensor(facts["latent_scale"])
    for name in (WEIGHTS_FILE, AVERAGE_FILE):
        path = optional_file(folder, name)
        stored = stored_tensor(path, "latent_scale") if path else None
        if stored is None:
            continue
        if recorded.shape != stored.shape or not torch.allclose(recorded, stored, rtol=1e-5):
            raise ArtefactError(
                f"{path}: its latent_scale begins {stored[:3].tolist()}, and {GENERATOR_FILE} says "
                f"{recorded[:3].tolist()}; the files are of different exports: restore them, or export again"
            )


def find_tokenizer(folder: Path, tokenizer_path: str | Path | None = None) -> Path:
    """The folder of the tokenizer of the generator in `folder`: `tokenizer_path`, or else the copy that lies with it.

    Raises ArtefactError when there is none, and when its weights are not those that made the generator's codes.
    """
    found = to_path(tokenizer_path) if tokenizer_path else folder / TOKENIZER_FOLDER
    weights = found / tokenizer.WEIGHTS_FILE
    facts = read_facts(folder)
    expected = facts["tokenizer_sha256"]
    if not expected:
        remedy = (
            "what it draws, only the autoencoder that it was trained with decodes: take its latents from "
            "glotok_ray.sampling.flow.sample_latents"
            if facts["architecture"] == "xar"
            else "import it again, with the --tokenizer-path of the tokenizer that made its codes"
        )
        raise ArtefactError(
            f"{folder}: was imported without a tokenizer, so none is known to be its own; {remedy}"
        )
    if not weights.is_file():
        remedy = (
            "train a tokenizer first, or correct tokenizer_path"
            if tokenizer_path
            else f"{folder} holds no copy of its tokenizer, so give tokenizer_path"
        )
        raise ArtefactError(f"{weights}: no such file; {remedy}")
    digest = artefact.sha256_of(weights)
    if digest != expected:
        raise ArtefactError(
            f"{folder}: was trained on codes of the tokenizer with sha256 {expected}, but {found} has sha256 {digest}; "
            "pass the tokenizer_path of the run that made the generator's codes"
        )
    return found


def check_fit(generator: ModelConfig, decoder: TokenizerConfig | Rate) -> None:
    """Raise ArtefactError when the tokenizer of config `decoder`, or another system's of these grids, does not decode
    what the generator draws.
    """
    if isinstance(decoder, Rate):
        _check_grids(generator, decoder)
        return
    if isinstance(generator, VARConfig | RQConfig):
        draws, has = (
            ("several scales", "one scale")
            if isinstance(generator, VARConfig)
            else ("several depths", "one depth")
        )
        raise ArtefactError(
            f"generator draws codes of {draws}: the tokenizer has {has}; bring the tokenizer of the generator's codes"
        )
    # On another grid the decoder would give an image of another size, for which neither was trained.
    facts: dict[str, tuple[object, object]] = {
        "grid_size": (generator.grid_size, decoder.autoencoder.grid_size)
    }
    if isinstance(generator, XARConfig):
        facts["channels"] = (generator.channels, decoder.latent_width)
    else:
        facts["codebooks"] = (generator.code_counts, decoder.code_counts)
    for name, (have, need) in facts.items():
        if have != need:
            raise ArtefactError(
                f"generator.{name} = {have}: the tokenizer has {need}; bring the tokenizer of the generator's codes"
            )


def check_vectors(model: ModelConfig, tokenizer: object) -> None:
    """Raise ArtefactError when a tokenizer of the generator's grids does not have the vectors that VAR and
    RQ-Transformer read, or some of another width.
    """
    if isinstance(model, VARConfig):
        if not isinstance(tokenizer, ScaleTokenizer):
            raise ArtefactError(
                "generator draws codes of several scales, which this tokenizer does not add up to one map; bring the "
                "tokenizer of the generator's codes"
            )
        width = tokenizer.code_width
    elif isinstance(model, RQConfig):
        if not isinstance(tokenizer, ResidualTokenizer):
            raise ArtefactError(
                "generator reads the vectors of one codebook, which this tokenizer does not have; bring the tokenizer "
                "of the generator's codes"
            )
        width = tokenizer.codebook.shape[1]
    else:
        return
    if width != model.code_width:
        raise ArtefactError(
            f"generator.code_width = {model.code_width}: the tokenizer has {width}; bring the tokenizer of the "
            "generator's codes"
        )


def _check_grids(generator: ModelConfig, decoder: Rate) -> None:
    drawn = _drawn(generator)
    taken = [
        f"{' x '.join(map(str, grid.shape))} of {grid.num_codes} codes" for grid in decoder.grids
    ]
    if drawn != taken or (len(drawn) > 1 and not isinstance(generator, VARConfig)):
        raise ArtefactError(
            f"generator draws {', '.join(drawn)}: the tokenizer decodes {', '.join(taken)}, and of other systems' only "
            "those of a single grid, or of one per scale and branch for VAR, decode here; bring the tokenizer of the "
            "generator's codes"
        )


def _drawn(generator: ModelConfig) -> list[str]:
    """What a generator draws, grid by grid."""
    if isinstance(generator, XARConfig):
        return ["latents"]
    if isinstance(generator, VARConfig):
        sides, codes = generator.num_branches * generator.scale_sides, generator.num_codes
        return [f"{side} x {side} of {codes} codes" for side in sides]
    side = generator.grid_size
    if isinstance(generator, RQConfig):
        return [f"{side} x {side} x {generator.num_residuals} of {generator.num_codes} codes"]
    return [f"{side} x {side} of {size} codes" for size in generator.code_counts.values()]


def _from_facts(folder: Path, section: str, kind: type, facts: Mapping[str, Any]) -> Any:
    try:
        return from_dict(kind, facts[section])
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{folder / GENERATOR_FILE}: its {section} section is none of this version ({error}); correct the path, "
            "or train the generator again"
        ) from error
