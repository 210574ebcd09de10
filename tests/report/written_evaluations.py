"""Finished evaluations and what they link to, tiny, written without training or measuring anything."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from glotok_ray.config import (
    EvaluateRun,
    FARSampleRun,
    TokenizerRun,
    XARSampleRun,
    override,
    to_dict,
)
from glotok_ray.recipes import sample_images, train_generator, train_tokenizer
from glotok_ray.storage import artefact
from tests.report.written_run import write_samples

CLASSES = ["<b>cats</b>", "dogs"]
SIDE = 16
ADM = {
    "image_size": 256,
    "num_classes": 1000,
    "crops": "ADM's crop of the original images",
}
"""What a manifest says of ImageNet's validation images."""


def write_tokenizer(folder: Path, changes: dict[str, Any] | None = None) -> TokenizerRun:
    """A tokenizer's folder of 600 parameters, 24 steps of 16 images; returns its run."""
    folder.mkdir(parents=True)
    run = override(
        train_tokenizer.quickstart(), {"name": folder.name, "teacher_path": "", **(changes or {})}
    )
    artefact.write_json(folder / "config.json", to_dict(run))
    save_file({"weight": torch.zeros(20, 30)}, str(folder / "tokenizer.safetensors"))
    artefact.write_manifest(folder, "tokenizer", step=24)
    return run


def write_generator(folder: Path) -> None:
    """An xAR's folder of 50 parameters, 7 steps of 16 images."""
    folder.mkdir(parents=True)
    run = override(train_generator.quickstart(), {"name": folder.name, "model.num_classes": 2})
    artefact.write_json(folder / "config.json", to_dict(run))
    facts = {"architecture": "xar", "model": to_dict(run.model), "flow": to_dict(run.flow)}
    facts |= {"tokenizer_sha256": "0", "classes": CLASSES}
    artefact.write_json(folder / "generator.json", facts)
    save_file({"weight": torch.zeros(5, 10)}, str(folder / "generator.safetensors"))
    artefact.write_manifest(folder, "generator", step=7)


def write_sampled(folder: Path, generator: Path, tokenizer: Path | None) -> None:
    """Six samples of two classes; without a tokenizer's folder the generator's own decoded them."""
    write_samples(folder, [0, 1] * 3)
    changes = {"generator_path": str(generator), "tokenizer_path": str(tokenizer or "")}
    run: XARSampleRun | FARSampleRun = override(sample_images.quickstart(), changes)
    artefact.write_manifest(
        folder, "samples", num_images=6, classes=CLASSES, architecture="xar", config=to_dict(run)
    )


def entry(value: float | None, std: float | None = None, **more: Any) -> dict[str, Any]:
    """An entry of metrics.json."""
    found = {"label": "label", "value": value, "protocol": "<i>how</i> it was measured", **more}
    return found if std is None else {**found, "std": std}


def write_evaluation(
    folder: Path,
    metrics: dict[str, Any],
    *,
    facts: dict[str, Any] | None = None,
    num_images: int = 6,
    **links: Path,
) -> Path:
    """An evaluation's folder with kept images; `links` are paths of its config. Returns the folder."""
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, size=(6, SIDE, SIDE, 3), dtype=np.uint8)
    if "reconstruction_psnr" in metrics:
        np.savez(folder / "reconstructions.npz", inputs=images, reconstructions=images)
        np.savez(folder / "retention.npz", inputs=images, both=images, visual=images)
    artefact.write_json(folder / "metrics.json", metrics)
    config = override(EvaluateRun(), {name: str(path) for name, path in links.items()})
    said = {"image_size": SIDE, "num_classes": 2, "crops": "crops of the data set"}
    artefact.write_manifest(
        folder, "evaluation", num_images=num_images, config=to_dict(config), **(facts or said)
    )
    return folder


def write_runs(root: Path) -> list[Path]:
    """A tokenizer, a generator and its samples, and the evaluation of all of them."""
    write_tokenizer(root / "tokenizer")
    write_generator(root / "generator")
    write_sampled(root / "samples", root / "generator", root / "tokenizer")
    metrics = {
        "reconstruction_psnr": entry(22.5, 2.0),
        "reconstruction_fd_effnet": entry(1800.0),
        "samples_fd_effnet": entry(3400.0),
        "semantic_tsne_density_cv": entry(0.21, 0.01),
        "semantic_tsne_normalized_entropy": entry(0.997),
        "semantic_tsne_gini": entry(None),
    }
    evaluation = write_evaluation(
        root / "evaluation",
        metrics,
        tokenizer_path=root / "tokenizer",
        samples_path=root / "samples",
    )
    return [evaluation]
