"""The rows of xAR's ablations: each trained, sampled and measured alike.

Read next: glotok_ray/recipes/generator_ablations.py
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.jobs import XARSampleRun
from glotok_ray.config.overrides import bound_settings, override
from glotok_ray.config.runs import XARRun
from glotok_ray.config.sweeps import GeneratorAblationRun
from glotok_ray.data.recorded import check_classes
from glotok_ray.data.records import read_dataset
from glotok_ray.evaluation import inputs
from glotok_ray.on_ray import tune
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE, code_layout
from glotok_ray.recipes import sweep_parts
from glotok_ray.recipes.generator_ablations import ROWS
from glotok_ray.recipes.quickstart import chain
from glotok_ray.recipes.quickstart import quickstart as quickstart_recipe
from glotok_ray.recipes.sweep_parts import GeneratorParts
from glotok_ray.report.generator_ablations import ablation_tables
from glotok_ray.sampling.images import network_evaluations
from glotok_ray.stages import evaluate_images, quickstart, sample_images, train_generator
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.training.inputs import fitting_codes
from glotok_ray.training.plan import run_plan

logger = logging.getLogger(__name__)

_INPUTS = ("data", "teacher", "tokenizer", "codes")


class GeneratorRows:
    """`glotok_ray.stages.ablations.Rows` of xAR."""

    known = tuple(ROWS)
    columns = (
        "entity",
        "num_entities",
        "context",
        "fd_effnet",
        "loss",
        "images_per_s",
        "evaluations_per_image",
    )

    def __init__(self, config: GeneratorAblationRun, folder: Path) -> None:
        """The rows of `config`, whose paths are absolute; their parts lie in `folder`."""
        self._config, self._folder = config, folder

    @property
    def resources(self) -> dict[str, float]:
        """Those of a process that waits: it must leave the CPUs to the actors that sample and measure for it."""
        return tune.driver_resources()

    def parts(self, row: str) -> GeneratorParts:
        """Training, sampling and evaluation of one row, each in a folder of its own."""
        return sweep_parts.generator_row(self._config, self._folder, row)

    def check_settings(self, rows: Sequence[str]) -> None:
        """Raise ValueError for a field that a row cannot have."""
        for row in rows:
            self.parts(row)

    def make_inputs(self) -> None:
        """The quickstart's shards, teacher, tokenizer and codes."""
        make_quickstart_inputs(self._config)

    def check_inputs(self, rows: Sequence[str]) -> list[Path]:
        """The folders that all rows read; raises ArtefactError for what would stop a row later."""
        return check_inputs(self._config, [self.parts(row) for row in rows])

    def bound_settings(self) -> dict[str, Any]:
        """The settings that decide the metrics of a row."""
        return bound_settings(self._config)

    def measure(self, row: str) -> dict[str, Any]:
        """Train, sample and measure one row."""
        training, samples, evaluation = self.parts(row)
        logged = artefact.metrics_of(train_generator.run(training))
        sample_images.run(samples)
        distance = artefact.metrics_of(evaluate_images.run(evaluation))["samples_fd_effnet"]
        return {
            "entity": training.model.entity,
            "num_entities": training.model.num_entities,
            "context": training.flow.context,
            # None is an undefined distance.
            "fd_effnet": float("nan") if distance is None else distance,
            "loss": logged.get("train/flow_matching"),
            "images_per_s": logged.get("time/images_per_s"),
            "evaluations_per_image": network_evaluations(training.model, samples.sampler),
        }

    def shown(self, metrics: Mapping[str, Any]) -> str:
        """A row's metrics in words."""
        return f"FD-EffNet {metrics['fd_effnet']:.4g}"

    def tables(self, measured: Mapping[str, Mapping[str, Any]]) -> str:
        """xAR's tables with the rows' metrics."""
        scale = describe_scale(*self.parts(next(iter(measured))))
        return ablation_tables(measured, scale=scale)


def describe_scale(training: XARRun, samples: XARSampleRun, evaluation: EvaluateRun) -> str:
    """The size of a row in words."""
    model, schedule = training.model, training.schedule
    steps = run_plan(training).last_step
    return (
        f"{steps} steps of {schedule.global_batch_size} images, width {model.width}, depth {model.depth}, "
        f"{model.grid_size} x {model.grid_size} positions; {samples.num_images} samples in "
        f"{samples.sampler.num_steps} steps per entity at guidance {samples.sampler.guidance_scale:g}, against "
        f"{evaluation.num_images or 'all'} validation images"
    )


# ---------------------------------------------------------------------------------------- what the rows read


def make_quickstart_inputs(config: GeneratorAblationRun) -> None:
    """The quickstart's shards, teacher, tokenizer and codes, in the folders where the rows read them, each where it is
    not finished yet.
    """
    folder = to_path(config.generator.tokenizer_path).parent
    chained = chain(override(quickstart_recipe(), {"output_path": str(folder)}))
    for name, given, made in (
        (
            "generator.tokenizer_path",
            config.generator.tokenizer_path,
            chained.generator.tokenizer_path,
        ),
        (
            "generator.data.train_path",
            config.generator.data.train_path,
            chained.codes.output_path,
        ),
        ("evaluation.data_path", config.evaluation.data_path, chained.evaluation.data_path),
    ):
        if to_path(given) != to_path(made):
            raise ArtefactError(
                f'{name} = {given!r}: with inputs = "quickstart" it must be {made!r}, beside the tokenizer; correct '
                "it, or give inputs of your own and --inputs given"
            )
    for stage in quickstart.stages(chained):
        if stage.name in _INPUTS and not _is_finished(stage):
            tune.connect()  # a cluster without what rows need is told before the inputs are made, too
            logger.info("quickstart's %s: %s", stage.name, stage.title)
            stage.run(stage.settings)


def _is_finished(stage: quickstart.Stage) -> bool:
    # Shards are written as two folders, each with a manifest of its own.
    folders = [stage.folder / part for part in ("train", "validation")]
    wanted = folders if stage.name == "data" else [stage.folder]
    return all((folder / artefact.MANIFEST).is_file() for folder in wanted)


def check_inputs(config: GeneratorAblationRun, parts: Sequence[GeneratorParts]) -> list[Path]:
    """The folders that all rows read; raises ArtefactError for what would stop a row later."""
    found = {
        "codes": config.generator.data.train_path,
        "tokenizer": config.generator.tokenizer_path,
        "shards": config.evaluation.data_path,
    }
    for kind, path in found.items():
        artefact.verify_once(to_path(path), kind)
    for training, _, evaluation in parts:
        fitting_codes(training)
        inputs.check_inputs(evaluation)
    evaluation = config.evaluation
    for field, path in (
        ("samples.tokenizer_path", config.samples.tokenizer_path),
        ("evaluation.tokenizer_path", evaluation.tokenizer_path),
    ):
        if path:
            _check_same_tokenizer(field, path, found["tokenizer"])
    if evaluation.codes_path:
        inputs.baseline_codes(evaluation)
    # The samples are yet to come; their classes will be the codes', and their side the tokenizer's.
    images = inputs.check_images(evaluation, code_layout(to_path(found["tokenizer"])).image_size)
    codes = read_dataset(to_path(found["codes"]))
    check_classes(codes.classes, found["codes"], images.classes, evaluation.data_path)
    return [to_path(path) for path in found.values()]


def _check_same_tokenizer(field: str, path: str, of_the_codes: str) -> None:
    artefact.read_manifest(to_path(path), "tokenizer")
    weights = (to_path(each) / WEIGHTS_FILE for each in (path, of_the_codes))
    if len({artefact.sha256_of(file) for file in weights}) > 1:
        raise ArtefactError(
            f"{field} = {path!r}: has other weights than generator.tokenizer_path = {of_the_codes!r}, whose codes the "
            "rows learn; give the same, or leave it empty"
        )
