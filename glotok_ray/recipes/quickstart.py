"""The stages of the quickstart: every job's own quickstart recipe, chained by folders."""

from operator import attrgetter
from typing import Any, TypeVar

from glotok_ray.config.overrides import override
from glotok_ray.config.quickstart import QuickstartRun
from glotok_ray.config.rules import require
from glotok_ray.config.runs import FARRun, TokenizerRun, XARRun
from glotok_ray.recipes import (
    build_teacher,
    encode_images,
    evaluate_images,
    sample_images,
    shard_images,
    train_generator,
    train_tokenizer,
)
from glotok_ray.storage.places import to_path

Stage = TypeVar("Stage")


def quickstart() -> QuickstartRun:
    """All stages on photographs that ship with the packages, 11 to 15 minutes on 2 cores."""
    return QuickstartRun(
        data=shard_images.quickstart(),
        teacher=build_teacher.quickstart(),
        tokenizer=_on_one_core(train_tokenizer.quickstart()),
        codes=_on_one_core(encode_images.quickstart()),
        generator=_on_one_core(train_generator.quickstart()),
        samples=sample_images.quickstart(),
        far=_on_one_core(train_generator.quickstart_far()),
        far_samples=_on_one_core(sample_images.quickstart_far()),
        evaluation=evaluate_images.quickstart(),
        far_evaluation=_on_one_core(evaluate_images.quickstart_far()),
    )


def _on_one_core(stage: Stage) -> Stage:
    """The stage with one worker or actor, as two lanes of stages share two cores: two workers would wait for each other
    at every step, and two processes of everything take twice the time to start. The last stages of the longer lane keep
    two, since the other core is free by then.
    """
    if isinstance(stage, TokenizerRun | XARRun | FARRun):
        batch = stage.schedule.global_batch_size
        one: dict[str, Any] = {"scaling.num_workers": 1, "schedule.micro_batch_size": batch}
    else:
        one = {"pool.num_actors": 1}
    return override(stage, one)


STAGES = {
    "data": "shards of images",
    "teacher": "clustered features and their cosine histogram",
    "tokenizer": "GloTok tokenizer",
    "twin": "the same tokenizer without the relation loss",
    "codes": "codes of the training images",
    "generator": "xAR generator",
    "samples": "images drawn from xAR",
    "far": "FAR generator",
    "far_samples": "images drawn from FAR",
    "evaluation": "metrics of reconstructions, xAR's samples and baselines",
    "far_evaluation": "metrics of FAR's samples",
    "twin_evaluation": "metrics of the twin's reconstructions and codebooks",
}
"""The stages before the report, in order, by the section of their settings, which also names their folder."""

LANES = (
    ("tokenizer", "codes", "generator", "samples", "evaluation"),
    ("twin", "twin_evaluation", "far", "far_samples", "far_evaluation"),
)
"""The stages behind the teacher in two rows that run side by side where the cluster has room for both."""

NEEDED = {"far": "codes"}
"""What a stage waits for that is not in its own lane."""

EXPECTED_SECONDS = {
    "data": 17,
    "teacher": 27,
    "tokenizer": 250,
    "twin": 245,
    "codes": 24,
    "generator": 330,
    "samples": 100,
    "far": 350,
    "far_samples": 50,
    "evaluation": 65,
    "far_evaluation": 30,
    "twin_evaluation": 46,
    "report": 3,
}
"""About what each stage takes on two cores beside the other lane's, for the time left over all of them while no earlier
run tells; what the first stages take corrects the others.
"""


def chain(quickstart: QuickstartRun) -> QuickstartRun:
    """The same run with every stage's folders under `output_path`, each reading what the one before wrote."""
    return override(quickstart, _chained(quickstart))


def check_chained(quickstart: QuickstartRun, recipe: QuickstartRun) -> None:
    """Raise ValueError for a field of `quickstart` that `chain` would replace and that is not as in `recipe`, of which
    the run was made: somebody has given it.
    """
    for name, chained in _chained(quickstart).items():
        value = attrgetter(name)(quickstart)
        require(
            value in (chained, attrgetter(name)(recipe)),
            name,
            value,
            f"must be {chained!r}, which follows from the quickstart's other fields; leave it out, or run "
            "the stage's own job",
        )


def _chained(quickstart: QuickstartRun) -> dict[str, Any]:
    root = to_path(quickstart.output_path)
    data, tokenizer, codes = str(root / "data"), str(root / "tokenizer"), str(root / "codes")
    train_data, validation_data = f"{data}/train", f"{data}/validation"
    return {
        "output_path": str(root),
        "data.output_path": data,
        "teacher.data_path": train_data,
        "teacher.output_path": str(root / "teacher"),
        "tokenizer.output_path": str(root),
        "tokenizer.name": "tokenizer",
        "tokenizer.teacher_path": str(root / "teacher"),
        "tokenizer.data.train_path": train_data,
        "tokenizer.data.validation_path": validation_data,
        "codes.data_path": train_data,
        "codes.tokenizer_path": tokenizer,
        "codes.output_path": codes,
        "generator.output_path": str(root),
        "generator.name": "generator",
        "generator.tokenizer_path": tokenizer,
        "generator.data.train_path": codes,
        "samples.generator_path": str(root / "generator"),
        "samples.tokenizer_path": tokenizer,
        "samples.output_path": str(root / "samples"),
        "far.output_path": str(root),
        "far.name": "far",
        "far.tokenizer_path": tokenizer,
        "far.data.train_path": codes,
        "far_samples.generator_path": str(root / "far"),
        "far_samples.tokenizer_path": tokenizer,
        "far_samples.output_path": str(root / "far_samples"),
        "far_evaluation.data_path": validation_data,
        # A file of Inception's weights that is given once serves both generators.
        "far_evaluation.inception_path": quickstart.evaluation.inception_path,
        "far_evaluation.training_path": train_data,
        "far_evaluation.generator_path": str(root / "far"),
        "far_evaluation.samples_path": str(root / "far_samples"),
        "far_evaluation.output_path": str(root / "far_evaluation"),
        "evaluation.tokenizer_path": tokenizer,
        "evaluation.data_path": validation_data,
        "evaluation.samples_path": str(root / "samples"),
        "evaluation.codes_path": codes,
        "evaluation.training_path": train_data,
        "evaluation.generator_path": str(root / "generator"),
        "evaluation.output_path": str(root / "evaluation"),
    }


RECIPES = {"quickstart": quickstart}
