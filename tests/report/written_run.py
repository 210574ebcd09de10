"""The files of a finished quickstart, tiny, written without training anything."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.storage import artefact

HOSTILE = '<script>alert("x")</script>'
SIDE = 16
NUM_SAMPLES = 6


def write_run(folder: Path) -> None:
    """All parts of the page, with markup wherever a user's text can appear."""
    for name in ("data/train", "tokenizer", "twin", "generator", "far", "evaluation"):
        (folder / name).mkdir(parents=True)
    write_training(folder, [HOSTILE, "plain"])
    for name in ("samples", "far_samples"):
        write_samples(folder / name, [0, 1] * (NUM_SAMPLES // 2))
    _write_evaluation(folder / "evaluation")
    _write_metrics(folder)
    _write_logs(folder)
    stage = {"stage": "data", "summary": HOSTILE, "seconds": 61.0, "status": "made", "folder": "f"}
    artefact.write_json(folder / "stages.json", [stage])
    artefact.write_json(folder / "config.json", {"data": {"source": HOSTILE}})
    artefact.write_json(folder / "versions.json", {"ray": HOSTILE})


def write_training(folder: Path, classes: list[str], *, side: int = SIDE, each: int = 5) -> None:
    """Real crops: the pixels of an image are its label in its first channel."""
    training = folder / "data" / "train"
    training.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1)
    rows = []
    for number in range(each):
        for label in range(len(classes)):
            image = noise.integers(0, 256, size=(side, side, 3), dtype=np.uint8)
            image[..., 0] = label
            rows.append(Row(f"{number}-{label}", encode_png(image), label))
    halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
    shards = [
        write_shard(training / f"part-{index}.parquet", half) for index, half in enumerate(halves)
    ]
    write_dataset(
        training, classes=classes, form="crop", image_size=side, shards=shards, details={}
    )


def write_samples(folder: Path, labels: list[int], *, side: int = SIDE) -> None:
    """Samples of noise, the image format's hardest case."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(labels), side, side, 3)
    images = np.random.default_rng(2).integers(0, 256, size=shape, dtype=np.uint8)
    np.savez(folder / "samples.npz", arr_0=images)
    keys = [str(index) for index in range(len(labels))]
    pyarrow.parquet.write_table(
        pyarrow.table({"key": keys, "label": labels}), folder / "samples.parquet"
    )


def _write_evaluation(folder: Path) -> None:
    shape = (6, SIDE, SIDE, 3)
    images = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    np.savez(folder / "reconstructions.npz", inputs=images, reconstructions=images)
    np.savez(folder / "retention.npz", inputs=images, both=images, visual=images, semantic=images)
    np.savez(folder / "code_counts.npz", semantic=np.arange(8), visual=np.arange(8))
    for name in ("baseline_uniform", "baseline_marginal"):
        np.savez(folder / f"{name}.npz", images=images)


def _write_metrics(folder: Path) -> None:
    metric = {"label": HOSTILE, "value": 21.5, "protocol": HOSTILE, "std": 0.5}
    own_class = {"label": "own", "value": 0.7, "protocol": "p", "chance": 0.5}
    values = {
        "reconstruction_psnr": 21.5,
        "reconstruction_ssim": 0.61,
        "samples_fd_effnet": 30.0,
        "baseline_uniform_fd_effnet": 90.0,
        "baseline_marginal_fd_effnet": 60.0,
        "semantic_tsne_gini": None,
        "semantic_tsne_density_cv": 3.0,
        "validation_own_class": 0.9,
        "validation_nearest_training": 5.25,
        "samples_nearest_training": 4.75,
        "generator_loss": 1.25,
        "generator_loss_shuffled_labels": 1.5,
        "retention_visual_psnr": 17.5,
        "retention_semantic_psnr": 12.5,
    }
    metrics = {name: {**metric, "value": value} for name, value in values.items()}
    metrics["samples_own_class"] = own_class
    metrics["reconstruction_psnr_band_5"] = {**metric, "value": 26.25, "chance": 24.75}
    metrics["retention_visual_psnr_chroma"] = {**metric, "value": 31.5}
    artefact.write_json(folder / "evaluation/metrics.json", metrics)
    far = {"samples_fd_effnet": {**metric, "value": 70.0}}
    far["samples_own_class"] = {**own_class, "value": 0.6}
    twin = {"semantic_tsne_density_cv": {**metric, "value": 9.0}}
    for name, found in (("far_evaluation", far), ("twin_evaluation", twin)):
        (folder / name).mkdir()
        artefact.write_json(folder / name / "metrics.json", found)


def _write_logs(folder: Path) -> None:
    lines = [{"step": step, "train/total": 1 / (step + 1), HOSTILE: 1} for step in range(4)]
    lines.append({"step": 4, "eval/psnr": 20.0, "eval/relation_kl": 0.01})
    for name in ("tokenizer", "twin", "generator", "far"):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / name / "metrics.jsonl").write_text(text + '{"step": 5, "tr')
    histogram = [0.2, 0.5, 0.3]
    for name, final in (("tokenizer", 0.001), ("twin", 0.4)):
        relation = {"bins": [-1, 0, 1], "kl_initial": 0.5, "kl_final": final}
        relation |= dict.fromkeys(("teacher", "student_initial", "student_final"), histogram)
        artefact.write_json(folder / name / "relation.json", relation)
