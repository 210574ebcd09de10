"""Short trainings of a tokenizer, measured by their reconstructions: what a sweep's trials and ablations' rows share.

The loss is never the measure: its meaning changes with bins and alpha. The teacher is re-binned for each training, not
rebuilt. Read next: glotok_ray/stages/train_tokenizer.py
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import override
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.sweeps import SweepRun, TokenizerAblationRun
from glotok_ray.data.records import read_dataset
from glotok_ray.devices import chosen_device
from glotok_ray.evaluation import inputs as evaluation_inputs
from glotok_ray.evaluation.in_process import measure_reconstructions
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.on_ray import tune
from glotok_ray.recipes import build_teacher as teacher_recipes
from glotok_ray.recipes import shard_images as shard_recipes
from glotok_ray.recipes.sweep_parts import check_lengths, evaluation_path
from glotok_ray.stages import build_teacher, evaluate_images, shard_images, train_tokenizer
from glotok_ray.storage import artefact
from glotok_ray.storage.places import local_twin, to_path
from glotok_ray.teacher.cosine_distance import cosine_distance
from glotok_ray.teacher.histogram import load_teacher
from glotok_ray.training import inputs

METRICS = ("psnr", "fd_effnet", "semantic_usage", "visual_usage")


def train_and_measure(
    recipe: TokenizerRun, evaluation: EvaluateRun, *, step: int | None = None
) -> dict[str, Any]:
    """The metrics of one training, which lies beside its evaluation; with `step` it stops there, and the evaluation's
    folder is named after it. What trains in this process (`launcher = "local"`) is measured in it, too.
    """
    if step is not None:
        recipe = override(recipe, {"schedule.stop_after_steps": step})
    train_tokenizer.run(recipe)
    folder = to_path(recipe.output_path)
    entries = _measured(recipe, _evaluation_of(recipe, evaluation, step))
    logged = artefact.metrics_of(artefact.read_manifest(folder / recipe.name, "tokenizer"))
    metrics = {
        short: logged[name]
        for short, name in (
            ("relation_kl", "eval/relation_kl"),
            ("images_per_s", "time/images_per_s"),
        )
        if name in logged
    }
    return {**reconstruction_metrics(entries), **metrics}


def reconstruction_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """The measures and what explains them, from metrics.json."""
    names = {
        "psnr": "reconstruction_psnr",
        "fd_effnet": "reconstruction_fd_effnet",
        **({"fid": "reconstruction_fid"} if "reconstruction_fid" in metrics else {}),
        **{name: name for name in metrics if name.endswith("_usage")},
    }
    # None is an undefined metric, such as the PSNR of images that are all reproduced exactly.
    values = {short: metrics[name]["value"] for short, name in names.items()}
    return {short: float("nan") if value is None else value for short, value in values.items()}


def shown_metrics(metrics: Mapping[str, Any]) -> str:
    """A training's metrics in words; what is undefined is None where it was read from a file."""
    values = [math.nan if metrics[name] is None else metrics[name] for name in METRICS[:2]]
    return "PSNR {:.4g}, FD-EffNet {:.4g}".format(*values)


def _measured(recipe: TokenizerRun, evaluation: EvaluateRun) -> dict[str, Any]:
    """The entries of metrics.json."""
    path = to_path(evaluation.output_path) / "metrics.json"
    if recipe.launcher == "ray":
        evaluate_images.run(evaluation)
    elif not path.is_file():
        device = chosen_device(use_gpu=recipe.scaling.use_gpu)
        # Read once more and removed, all in this process: no store need see them.
        parts = local_twin(path.parent.with_name(f"{path.parent.name}.parts"))
        artefact.write_json(path, measure_reconstructions(evaluation, parts, device))
    return artefact.read_json(path)


def cosine_distance_of(recipe: TokenizerRun) -> float:
    """How far the cosines of a finished training's codebook are from the teacher's
    (`glotok_ray.teacher.cosine_distance`), whatever its bins and alpha.
    """
    model = GloTokTokenizer.from_pretrained(to_path(recipe.output_path) / recipe.name)
    codes = model.quantizer(recipe.loss.relation.codebook).codebook.detach()
    return cosine_distance(load_teacher(to_path(recipe.teacher_path)), codes)


def _evaluation_of(
    recipe: TokenizerRun, evaluation: EvaluateRun, step: int | None = None
) -> EvaluateRun:
    folder = to_path(recipe.output_path)
    name = recipe.name if step is None else f"{recipe.name}_step_{step:07d}"
    paths = {
        "tokenizer_path": str(folder / recipe.name),
        "output_path": str(evaluation_path(folder, name)),
    }
    return override(evaluation, paths)


def make_inputs(config: SweepRun | TokenizerAblationRun) -> None:
    """The quickstart's shards and teacher, in the folders where they are read; finished ones are recognised."""
    train_path = to_path(config.tokenizer.data.train_path)
    folder = train_path.parent
    validation_path = config.evaluation.data_path
    if train_path != folder / "train" or to_path(validation_path) != folder / "validation":
        raise ValueError(
            f"evaluation.data_path = {validation_path!r}, tokenizer.data.train_path = {str(train_path)!r}: "
            'with inputs = "quickstart" they must be validation and train of one folder, which receives the shards; '
            "correct them, or give shards of your own and --inputs given"
        )
    made = (train_path, to_path(validation_path), to_path(config.tokenizer.teacher_path))
    if not all(map(artefact.is_finished, made)):
        tune.connect()  # a cluster without what trials need is told before the inputs are made, too
    shard_images.run(override(shard_recipes.quickstart(), {"output_path": str(folder)}))
    places = {"data_path": str(train_path), "output_path": config.tokenizer.teacher_path}
    build_teacher.run(override(teacher_recipes.quickstart(), places))


def check_inputs(
    config: SweepRun | TokenizerAblationRun, recipes: Iterable[TokenizerRun]
) -> list[Path]:
    """The folders that all trainings read, verified here once for all of them; raises ArtefactError for what would stop
    one of them later, and ValueError where one is shorter than max_steps.
    """
    found = [
        to_path(config.tokenizer.data.train_path),
        to_path(config.tokenizer.teacher_path),
        to_path(config.evaluation.data_path),
    ]
    trainings = list(recipes)
    for recipe in trainings:
        evaluation_inputs.check_inputs(_evaluation_of(recipe, config.evaluation))
    for path, kind in zip(found, ("shards", "teacher", "shards"), strict=True):
        artefact.verify_once(path, kind)
    if config.tokenizer.data.validation_path:
        artefact.verify_once(to_path(config.tokenizer.data.validation_path), "shards")
    check_lengths(config, trainings, read_dataset(found[0]).num_images)
    for recipe in trainings:
        inputs.check_inputs(recipe)
    evaluation_inputs.check_images(config.evaluation, config.tokenizer.model.autoencoder.image_size)
    return found


def require_teacher(tokenizer: TokenizerRun) -> None:
    """Raise ValueError without one: rows without relation learning are measured against it as well."""
    if not tokenizer.teacher_path:
        raise ValueError("tokenizer.teacher_path = '': a sweep needs a teacher; give its folder")
