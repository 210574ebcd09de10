"""The quickstart's sizes, chosen from a user's own images: a pure function of how many there are, and of what classes.

The embedded photographs need no change. Read next: glotok_ray/stages/quickstart.py
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.jobs import FARSampleRun, SampleRun, TeacherRun, XARSampleRun
from glotok_ray.config.overrides import override
from glotok_ray.config.quickstart import QuickstartRun
from glotok_ray.config.runs import AnyGeneratorRun, FARRun, TokenizerRun, XARRun
from glotok_ray.data.records import DatasetInfo
from glotok_ray.teacher import features
from glotok_ray.teacher.clustering import FEWEST_POINTS_PER_CENTROID

# Clusters of few vectors: so many, as long as each has this many vectors.
_CLUSTERS_OF_FEW, _VECTORS_OF_FEW = 64, 4
_TOKENS_PER_CODE = 8
_FEWEST_CODES = 16
# Beyond so many epochs FAR knows its images by heart, and without dropout others are less likely to it than by chance.
_EPOCHS_WITHOUT_DROPOUT, _DROPOUT = 20, 0.1
_SAMPLES_FACTOR = 2
_MOST_EVALUATED = 1200
_MOST_COMPARED = 5000

TrainingRun = TokenizerRun | AnyGeneratorRun


class DataSize(NamedTuple):
    """What there is to fit to."""

    train: int
    """Training images."""
    validation: int
    """Validation images."""
    classes: int


class Choice(NamedTuple):
    """A setting that follows from the data."""

    field: str
    value: Any
    why: str = ""
    """Told to the user; empty for what goes without saying."""


class Fitted(NamedTuple):
    """The run that fits the data, and one line about what was chosen and why; empty where nothing was."""

    quickstart: QuickstartRun
    said: str


def fit_to_data(
    quickstart: QuickstartRun, train: DatasetInfo, validation: DatasetInfo | None = None
) -> Fitted:
    """The quickstart for the data that its first stage made."""
    held_out = validation.num_images if validation else train.num_images
    return fit(quickstart, DataSize(train.num_images, held_out, len(train.classes)))


def fit(quickstart: QuickstartRun, size: DataSize) -> Fitted:
    """Every stage's settings for data of this size, each kind of stage by its own rule."""
    chosen = {
        item.name: list(_choices(getattr(quickstart, item.name), size))
        for item in dataclasses.fields(quickstart)
    }
    changes = {
        f"{section}.{choice.field}": choice.value
        for section, choices in chosen.items()
        for choice in choices
    }
    fitted = override(quickstart, changes)
    said = _said(quickstart, fitted, chosen)
    if said:
        said = (
            f"chosen for {size.train} training and {size.validation} validation images of {size.classes} "
            f"class{'es' if size.classes > 1 else ''}: {said}"
        )
    return Fitted(fitted, said)


def _choices(section: Any, size: DataSize) -> Iterator[Choice]:
    for kinds, choose in _RULES:
        if isinstance(section, kinds):
            yield from choose(section, size)


# ---------------------------------------------------------------------------------------- rules by kind of stage


def _teacher(run: TeacherRun, size: DataSize) -> Iterator[Choice]:
    """Up to all vectors of an image where images are few, and clusters that have enough of them."""
    images = min(size.train, run.max_images or size.train)
    most = features.grid_side(run.network) ** 2
    wanted = -(-FEWEST_POINTS_PER_CENTROID * run.kmeans.num_clusters // images)
    per_image = max(run.vectors_per_image, min(most, wanted))
    vectors = images * min(per_image, most)
    yield Choice("vectors_per_image", per_image, f"of {most}, as the images are few")
    if run.kmeans.clusters_per_class:
        return
    few = min(_CLUSTERS_OF_FEW, vectors // _VECTORS_OF_FEW)
    clusters = min(run.kmeans.num_clusters, max(vectors // FEWEST_POINTS_PER_CENTROID, few, 2))
    each = f"{vectors / clusters:.0f} of the {vectors} feature vectors each"
    yield Choice("kmeans.num_clusters", clusters, each)


def _tokenizer(run: TokenizerRun, size: DataSize) -> Iterator[Choice]:
    yield from _codebooks(run.model.codebooks, size.train * run.model.autoencoder.grid_size**2)
    validation = min(run.data.num_validation_images, size.validation)
    yield Choice("data.num_validation_images", validation)
    yield from _schedule(run, size.train)


def _xar(run: XARRun, size: DataSize) -> Iterator[Choice]:
    yield Choice("model.num_classes", size.classes)
    yield from _schedule(run, size.train)


def _far(run: FARRun, size: DataSize) -> Iterator[Choice]:
    yield from _codebooks(run.model.codebooks, size.train * run.model.grid_size**2)
    yield Choice("model.num_classes", size.classes)
    schedule = list(_schedule(run, size.train))
    yield from schedule
    epochs = {choice.field: choice.value for choice in schedule}.get("schedule.epochs", 0)
    if epochs > _EPOCHS_WITHOUT_DROPOUT:
        dropout = max(run.model.dropout, _DROPOUT)
        yield Choice("model.dropout", dropout, f"as each image is seen {epochs} times")


def _codebooks(codebooks: Sequence[Any], tokens: int) -> Iterator[Choice]:
    """Codes that the tokens of the training images can fill."""
    most = max(_FEWEST_CODES, tokens // _TOKENS_PER_CODE)
    for place, codebook in enumerate(codebooks):
        why = f"codes for {tokens} tokens"
        yield Choice(f"model.codebooks.{place}.size", min(codebook.size, most), why)


def _schedule(run: TrainingRun, images: int) -> Iterator[Choice]:
    """Batches that the images fill, and as many optimizer steps as the recipe has."""
    yield Choice("data.num_train_images", images)
    schedule, expected = run.schedule, run.data.num_train_images
    if images == expected:
        return
    workers = min(run.scaling.num_workers, images)
    batch = min(schedule.global_batch_size, images // workers * workers)
    steps = schedule.total_steps(schedule.steps_per_epoch(expected or images))
    per_epoch = images // batch
    epochs = -(-steps // per_epoch)
    evaluations = max(1, schedule.epochs // schedule.checkpoint_every_epochs)
    yield Choice("scaling.num_workers", workers, "one per image")
    yield Choice("schedule.global_batch_size", batch, "no more than the images")
    yield Choice("schedule.epochs", epochs, f"for {steps} steps as ever")
    yield Choice("schedule.checkpoint_every_epochs", -(-epochs // evaluations))
    # Within the last epoch, where it does not end just there: the learning rate falls until then.
    yield Choice("schedule.num_steps", steps)


def _samples(run: SampleRun, size: DataSize) -> Iterator[Choice]:
    """Equally many images of every class, about as many as the recipe has in all."""
    if size.classes <= run.num_images:
        each = run.num_images // size.classes
        yield Choice("num_images", each * size.classes, f"{each} of each class")
        return
    most = _SAMPLES_FACTOR * run.num_images
    why = "one of each class" if size.classes <= most else f"the first {most} classes, one of each"
    yield Choice("num_images", min(size.classes, most), why)


def _evaluation(run: EvaluateRun, size: DataSize) -> Iterator[Choice]:
    """A part of large sets."""
    if not run.num_images and size.validation > _MOST_EVALUATED:
        yield Choice("num_images", _MOST_EVALUATED, f"of {size.validation}, which bounds the time")
    if run.training_path and not run.training_images and size.train > _MOST_COMPARED:
        yield Choice("training_images", _MOST_COMPARED, f"of {size.train}, which bounds the time")


_RULES: tuple[tuple[Any, Callable[[Any, DataSize], Iterator[Choice]]], ...] = (
    (TeacherRun, _teacher),
    (TokenizerRun, _tokenizer),
    (XARRun, _xar),
    (FARRun, _far),
    ((XARSampleRun, FARSampleRun), _samples),
    (EvaluateRun, _evaluation),
)


# ---------------------------------------------------------------------------------------- what is said


def _said(before: QuickstartRun, after: QuickstartRun, chosen: dict[str, list[Choice]]) -> str:
    """The choices that changed something and have a reason, equal ones of several stages together."""
    stages: dict[str, list[str]] = {}
    for section, choices in chosen.items():
        for field, value, why in choices:
            changed = _value(getattr(before, section), field) != _value(
                getattr(after, section), field
            )
            if why and changed:
                stages.setdefault(f"{field} {value} ({why})", []).append(section)
    texts: dict[str, list[str]] = {}
    for text, names in stages.items():
        texts.setdefault(", ".join(names), []).append(text)
    return "; ".join(f"{names}: {', '.join(found)}" for names, found in texts.items())


def _value(section: Any, field: str) -> Any:
    for name in field.split("."):
        section = section[int(name)] if name.isdigit() else getattr(section, name)
    return section
