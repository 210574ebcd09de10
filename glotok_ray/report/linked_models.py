"""What the tables say of a tokenizer, a generator and a set of samples: sizes, parameters, training and sampling.

Read from their folders without reading a weight. Read next: glotok_ray/report/paper_rows.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glotok_ray.config.generator import FARConfig, XARConfig
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.config.var import ModelConfig, VARConfig
from glotok_ray.pretrained.generator import (
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    model_config,
    read_facts,
)
from glotok_ray.pretrained.tokenizer import CONFIG_FILE, code_layout, tokenizer_config
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE as TOKENIZER_WEIGHTS
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import MANIFEST
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import stored_shapes
from glotok_ray.teacher.histogram import FACTS_FILE


class Training(NamedTuple):
    """How long a model was trained; None where its folder does not say."""

    steps: int | None
    global_batch_size: int | None
    epochs: int | None

    def text(self) -> str:
        """As in "1,536 steps of 16 images"."""
        if self.steps is None:
            return "steps not stated"
        batch = f" of {self.global_batch_size:,} images" if self.global_batch_size else ""
        return f"{self.steps:,} steps{batch}"


class LinkedTokenizer(NamedTuple):
    """A tokenizer that an evaluation names."""

    name: str
    folder: Path
    model: TokenizerConfig | None
    """None for another system's."""
    parameters: int
    training: Training
    loss: Mapping[str, Any]
    """The run's loss section; empty for an import."""
    teacher: str
    """The teacher's network or centroid file; empty where it has none or its folder is gone."""
    peer: str = ""
    """The name of another system; empty for ours."""
    peer_codes: int = 0
    """Codes of another system's first grid, which its others share."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per codebook, in the model's order."""
        if self.model is None:
            return (self.peer_codes,)
        return tuple(codebook.size for codebook in self.model.codebooks)

    @property
    def relation_weight(self) -> float | None:
        """lambda_hist; None for an import."""
        return self.loss["relation_weight"] if self.loss else None


class LinkedGenerator(NamedTuple):
    """A generator that an evaluation's samples were drawn from."""

    name: str
    folder: Path
    architecture: str
    """"xAR", "FAR", "GPT", "IBQ", "VAR" or "RQ-Transformer"."""
    parameters: int
    tokens: int
    """Codes per image, or latents where the generator has no codes."""
    training: Training


class LinkedSamples(NamedTuple):
    """Samples that an evaluation measured."""

    folder: Path
    num_images: int
    classes: tuple[str, ...]
    generator_path: str
    tokenizer_path: str
    sampling: str
    """Guidance, steps and seed in a few words."""


def read_tokenizer(folder: Path) -> LinkedTokenizer:
    """The facts of a tokenizer's folder; raises ArtefactError where it is not there or not finished."""
    return _tokenizer(folder, _opened(folder, "tokenizer"))


def read_own_tokenizer(generator: Path) -> LinkedTokenizer:
    """The facts of the tokenizer that lies with a finished generator, which has no manifest of its own: how long it was
    trained, it does not say. Raises ArtefactError where there is none.
    """
    return _tokenizer(generator / TOKENIZER_FOLDER, {})


def _tokenizer(folder: Path, manifest: Mapping[str, Any]) -> LinkedTokenizer:
    config, layout = artefact.read_json(folder / CONFIG_FILE), code_layout(folder)
    return LinkedTokenizer(
        name=str(config.get("name") or folder.name),
        folder=folder,
        model=None if layout.system else tokenizer_config(folder),
        parameters=_parameters(folder / TOKENIZER_WEIGHTS),
        training=_training(manifest, config),
        loss=config.get("loss", {}),
        teacher=_teacher(config.get("teacher_path", "")),
        peer=layout.system,
        peer_codes=layout.columns[0].num_codes,
    )


def read_generator(folder: Path) -> LinkedGenerator:
    """The facts of a generator's folder; raises ArtefactError where it is not there or not finished."""
    manifest = _opened(folder, "generator")
    path, model = folder / CONFIG_FILE, model_config(folder)
    config = artefact.read_json(path) if path.is_file() else {}
    return LinkedGenerator(
        name=str(config.get("name") or folder.name),
        folder=folder,
        architecture=_architecture(read_facts(folder)["architecture"], model),
        parameters=_parameters(folder / WEIGHTS_FILE),
        tokens=_tokens(model),
        training=_training(manifest, config),
    )


def read_samples(folder: Path) -> LinkedSamples:
    """The facts of a folder of samples; raises ArtefactError where it is not there or not finished."""
    manifest = _opened(folder, "samples")
    # Older versions did not note their settings.
    config: dict[str, Any] = manifest.get("config", {})
    return LinkedSamples(
        folder=folder,
        num_images=manifest["num_images"],
        classes=tuple(manifest["classes"]),
        generator_path=config.get("generator_path", ""),
        tokenizer_path=config.get("tokenizer_path", ""),
        sampling=sampling_text(config),
    )


def _opened(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a finished folder of that kind, whose files have their sizes."""
    if (folder / MANIFEST).is_file():
        manifest = artefact.stated_manifest(folder)
        if manifest["kind"] == kind:
            artefact.check_sizes(folder)
            return manifest
    return artefact.read_manifest(folder, kind)  # which says what is wrong


def _parameters(path: Path) -> int:
    return sum(tensor.numel() for tensor in stored_shapes(path).values())


def _training(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> Training:
    schedule = config.get("schedule", {})
    return Training(manifest.get("step"), schedule.get("global_batch_size"), schedule.get("epochs"))


def _teacher(path: str) -> str:
    if not path or not (to_path(path) / FACTS_FILE).is_file():
        return ""
    provenance = artefact.read_json(to_path(path) / FACTS_FILE)["provenance"]
    return str(provenance.get("network") or to_path(path).name)


def _architecture(name: str, model: ModelConfig) -> str:
    if isinstance(model, FARConfig):
        trunk = {"llama": "GPT", "ibq": "IBQ", "gpt": "GPT"}[model.variant.block]
        return "FAR" if model.head_depth and trunk == "GPT" else trunk
    return {"xar": "xAR", "var": "VAR", "rq": "RQ-Transformer"}[name]


def _tokens(model: ModelConfig) -> int:
    if isinstance(model, VARConfig | RQConfig):
        return model.num_indices
    if isinstance(model, XARConfig):
        return model.num_tokens
    return model.num_positions * len(model.codebooks)


def sampling_text(config: Mapping[str, Any]) -> str:
    """The settings of a sampling in a few words."""
    if not config:
        return "guidance not stated"
    sampler = config["sampler"]
    steps = f", {sampler['num_steps']} steps" if "num_steps" in sampler else ""
    return f"guidance {sampler['guidance_scale']:g}{steps}, seed {config['seed']}"
