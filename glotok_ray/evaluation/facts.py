"""The protocol of every metric as data: what was measured, with which code, settings and draws.

A metric's own function gives what it alone knows; here is what all share, and what a samples folder says of itself.
Read next: glotok_ray/report/measured.py
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.data.records import DATASET
from glotok_ray.evaluation.entries import Metrics, truncation_texts
from glotok_ray.evaluation.extractors import EFFNET, LPIPS_SHA256, Network
from glotok_ray.evaluation.inputs import measured_tokenizer
from glotok_ray.evaluation.plan import SAMPLES, VALIDATION
from glotok_ray.pretrained.generator import WEIGHTS_FILE as GENERATOR_WEIGHTS
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import MANIFEST
from glotok_ray.storage.places import to_path

PACKAGE = "glotok-ray"
EQUALLY_OFTEN = "equally often"
"""How our samples come by their classes: image i has class i mod their number."""
_SAMPLES_FILE = "samples.npz"
# Fields of a sampler as facts name them; a sampler has those that it has.
_SAMPLER_FACTS = {
    "guidance_scale": "guidance",
    "num_steps": "steps",
    "last_num_steps": "last_steps",
    **{
        name: name
        for name in (
            *("guidance_schedule", "guidance_interval", "solver", "final_time", "snap"),
            *("temperature", "top_k", "top_p", "precision", "use_ema"),
        )
    },
}
# Metrics of EfficientNet's features that do not name it themselves.
_OF_EFFNET = ("_own_class", "_nearest_training")
_OF_TOKENIZER = ("reconstruction_", "retention_", "baseline_", "probe_", "decoded_")
_LPIPS = "reconstruction_lpips"
_SAMPLES, _BASELINE, _GENERATOR = "samples_", "baseline_", "generator_"


def with_facts(
    metrics: Metrics,
    config: EvaluateRun,
    networks: Sequence[Network],
    *,
    crops: str,
    counts: Mapping[str, int],
    digests: Mapping[str, str],
) -> Metrics:
    """The metrics, each with its protocol as data: facts of its own before those that all share.

    Those of samples also have, as data and as a sentence, what their folder says of how they were drawn. `crops` says
    what the validation crops are, `counts` how many images there are of each kind, `digests` are those of
    `file_digests`.
    """
    common = _common(config, crops)
    sampling = sampling_facts(config.samples_path)
    (effnet,) = (network for network in networks if network.key == EFFNET)
    tokenizer = _digest("tokenizer_sha256", config.tokenizer_path, WEIGHTS_FILE)
    generator = _digest("generator_sha256", config.generator_path, GENERATOR_WEIGHTS)
    lpips = {"weights_sha256": digests[LPIPS_SHA256]} if config.lpips_path else {}
    own_tokenizer = (*_OF_TOKENIZER, *(f"{name}_" for name in _codebooks(config)))
    found: Metrics = {}
    for name, entry in metrics.items():
        # As many images are made of a baseline's codes as there are samples.
        kind = SAMPLES if name.startswith((_SAMPLES, _BASELINE)) else VALIDATION
        facts = common | {"num_images": counts[kind]}
        facts |= sampling if name.startswith(_SAMPLES) else {}
        facts |= tokenizer if name.startswith(own_tokenizer) else {}
        facts |= generator if name.startswith(_GENERATOR) else {}
        facts |= effnet.facts() if name.endswith(_OF_EFFNET) else {}
        facts |= lpips if name == _LPIPS else {}
        facts |= entry.get("facts", {})
        protocol = entry["protocol"]
        if name.startswith(_SAMPLES) and (sentence := sampling_text(sampling)):
            protocol = f"{protocol} {sentence}"
        found[name] = {**entry, "protocol": protocol, "facts": facts | _reference(facts, config)}
    return found


def code_facts() -> dict[str, str]:
    """The git commit of this code, empty outside a checkout, and the version of the package; empty where it runs
    uninstalled.
    """
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return {"commit": artefact.git_commit(), "version": version}


def sampling_facts(samples_path: str) -> dict[str, Any]:
    """How samples were drawn, as their folder's manifest says; empty for images of others, which have none."""
    folder = to_path(samples_path)
    if not samples_path or not (folder / MANIFEST).is_file():
        return {}
    manifest = artefact.stated_manifest(folder)
    facts: dict[str, Any] = {"class_sampling": EQUALLY_OFTEN}
    if _SAMPLES_FILE in manifest["files"]:
        facts["samples_sha256"] = manifest["files"][_SAMPLES_FILE]["sha256"]
    # Older versions did not note their settings.
    config = manifest.get("config", {})
    if "seed" in config:
        facts["sampling_seed"] = config["seed"]
    sampler = config.get("sampler", {})
    return facts | {
        fact: sampler[field] for field, fact in _SAMPLER_FACTS.items() if field in sampler
    }


def sampling_text(facts: Mapping[str, Any]) -> str:
    """The facts of samples as a sentence; empty where nothing is known of their guidance."""
    if "guidance" not in facts:
        return ""
    parts = [f"guidance {facts['guidance']:g}"]
    if schedule := facts.get("guidance_schedule"):
        parts[0] += f" ({schedule})"
    if solver := facts.get("solver"):
        parts.append(f"solver {solver} with {facts['steps']} steps per entity")
    if "temperature" in facts:
        parts.append(f"temperature {facts['temperature']:g}")
    parts += truncation_texts(facts)
    seed = f"seed {facts['sampling_seed']}" if "sampling_seed" in facts else "seed not stated"
    return f"Samples were drawn with {', '.join(parts)}, {seed}, classes {facts['class_sampling']}."


def _codebooks(config: EvaluateRun) -> Sequence[str]:
    model = measured_tokenizer(config)
    return model.grid_names if model else ()


def _common(config: EvaluateRun, crops: str) -> dict[str, Any]:
    data = _digest("data_sha256", config.data_path, DATASET)
    return {**code_facts(), "crop": crops, "seed": config.seed, **data}


def _digest(fact: str, folder: str, file: str) -> dict[str, str]:
    """The sha256 of a file in a folder; nothing where it is not there."""
    path = to_path(folder) / file
    return {fact: artefact.sha256_of(path)} if folder and path.is_file() else {}


def _reference(facts: Mapping[str, Any], config: EvaluateRun) -> dict[str, str]:
    """What tells the crops apart that a metric compares with, where it does not say so itself."""
    reference = facts.get("reference", "")
    if "reference_sha256" in facts or not isinstance(reference, str):
        return {}
    if "validation crops" in reference:
        return _digest("reference_sha256", config.data_path, DATASET)
    if "codes_path" in reference:
        return _digest("reference_sha256", config.codes_path, DATASET)
    if "training crops" in reference:
        return _digest("reference_sha256", config.training_path, DATASET)
    return {}
