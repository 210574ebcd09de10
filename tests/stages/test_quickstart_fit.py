"""Settings that follow from a user's images, over a table of data sets; no Ray."""

from pathlib import Path

import pytest

from glotok_ray.config import override
from glotok_ray.data.sources import ImageSource
from glotok_ray.recipes.quickstart import chain, quickstart
from glotok_ray.stages.quickstart_fit import DataSize, fit
from glotok_ray.stages.shard_images import ShardTask, write_task
from glotok_ray.teacher import features
from glotok_ray.training.schedule import learning_rate
from tests.own_pictures import LONE, write_own_pictures

TRAININGS = ("tokenizer", "twin", "generator", "far")
SIZES = [
    DataSize(*size)
    for size in (
        *((1, 1, 1), (2, 1, 1), (2, 1, 2), (3, 2, 2), (9, 1, 1), (18, 2, 1), (15, 5, 5)),
        *((40, 10, 10), (99, 17, 17), (270, 30, 17), (300, 300, 300), (601, 300, 300)),
        *((1999, 201, 3), (4100, 600, 10), (4500, 500, 300), (4700, 300, 300), (5000, 600, 1)),
    )
]
RECIPE = chain(quickstart())


def embedded() -> DataSize:
    data = RECIPE.data
    classes = RECIPE.generator.model.num_classes
    return DataSize(
        classes * data.crops_per_class, classes * data.validation_crops_per_class, classes
    )


def test_the_embedded_photographs_need_no_change() -> None:
    fitted = fit(RECIPE, embedded())
    assert fitted.quickstart == RECIPE
    assert fitted.said == ""


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_trainings_fit_the_images(size: DataSize) -> None:
    fitted = fit(RECIPE, size).quickstart
    for name in TRAININGS:
        run, recipe = getattr(fitted, name), getattr(RECIPE, name)
        schedule, workers = run.schedule, run.scaling.num_workers
        assert run.data.num_train_images == size.train
        assert workers == min(recipe.scaling.num_workers, size.train)
        assert schedule.global_batch_size <= min(size.train, recipe.schedule.global_batch_size)
        # Raises for batches that the workers cannot share.
        assert schedule.accumulation_steps(workers) >= 1
        total = schedule.total_steps(schedule.steps_per_epoch(size.train))
        assert total == recipe.schedule.epochs * recipe.schedule.steps_per_epoch(
            recipe.data.num_train_images
        )
        # The learning rate falls as it does over the recipe's own data.
        assert learning_rate(total - 1, total, run.optimizer) < 0.01 * run.optimizer.learning_rate
        assert schedule.epochs / schedule.checkpoint_every_epochs <= recipe.schedule.epochs
    assert fitted.generator.model.num_classes == fitted.far.model.num_classes == size.classes
    assert fitted.tokenizer.data.num_validation_images <= size.validation


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_clusters_and_codes_have_vectors_enough(size: DataSize) -> None:
    fitted = fit(RECIPE, size).quickstart
    teacher, model = fitted.teacher, fitted.tokenizer.model
    each = min(teacher.vectors_per_image, features.grid_side(teacher.network) ** 2)
    vectors = min(size.train, teacher.max_images) * each
    assert 2 <= teacher.kmeans.num_clusters <= RECIPE.teacher.kmeans.num_clusters
    assert vectors >= 4 * teacher.kmeans.num_clusters
    tokens = size.train * model.num_tokens
    for codebook, recipe in zip(model.codebooks, RECIPE.tokenizer.model.codebooks, strict=True):
        assert 16 <= codebook.size <= recipe.size
        assert codebook.size == 16 or codebook.size <= tokens / 8
    assert fitted.far.model.code_counts == fitted.twin.model.code_counts == model.code_counts


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_samples_cover_the_classes(size: DataSize) -> None:
    fitted = fit(RECIPE, size).quickstart
    for name in ("samples", "far_samples"):
        number, recipe = getattr(fitted, name).num_images, getattr(RECIPE, name).num_images
        assert number % size.classes == 0
        assert size.classes <= number <= recipe


def test_very_many_classes_and_images_are_bounded() -> None:
    fitted, said = fit(RECIPE, DataSize(200_000, 20_000, 5000))
    assert fitted.samples.num_images == 2 * RECIPE.samples.num_images
    assert fitted.evaluation.num_images == fitted.far_evaluation.num_images == 1200
    assert fitted.evaluation.training_images == 5000
    schedule = RECIPE.generator.schedule
    steps = schedule.epochs * schedule.steps_per_epoch(RECIPE.generator.data.num_train_images)
    assert fitted.generator.schedule.num_steps == steps
    assert fitted.generator.schedule.stop_after_steps == 0
    assert "evaluation, far_evaluation: num_images 1200 (of 20000" in said


def test_what_was_chosen_is_said_in_one_line_with_the_reasons() -> None:
    said = fit(RECIPE, DataSize(270, 30, 17)).said
    assert said.startswith("chosen for 270 training and 30 validation images of 17 classes: ")
    assert "\n" not in said
    each = RECIPE.samples.num_images // 17
    assert f"samples, far_samples: num_images {17 * each} ({each} of each class)" in said
    assert "steps as ever" in said
    assert "num_train_images" not in said


@pytest.mark.parametrize(
    ("images", "own", "dropout"),
    [(4100, 0.0, 0.0), (1025, 0.0, 0.0), (900, 0.0, 0.1), (300, 0.0, 0.1), (300, 0.3, 0.3)],
)
def test_far_has_dropout_where_it_sees_an_image_often(
    images: int, own: float, dropout: float
) -> None:
    mine = override(RECIPE, {"far.model.dropout": own})
    assert fit(mine, DataSize(images, 60, 10)).quickstart.far.model.dropout == dropout
    was_said = "model.dropout 0.1 (as each image" in fit(mine, DataSize(300, 60, 10)).said
    assert was_said == (own == 0)


def test_settings_of_the_user_stay_where_they_fit() -> None:
    mine = override(
        RECIPE, {"tokenizer.schedule.stop_after_steps": 7, "teacher.kmeans.num_clusters": 5}
    )
    fitted = fit(mine, DataSize(20_000, 100, 4)).quickstart
    assert fitted.tokenizer.schedule.stop_after_steps == 7
    assert fitted.teacher.kmeans.num_clusters == 5


def test_a_folder_as_users_have_it_is_read_but_for_what_holds_no_picture(tmp_path: Path) -> None:
    classes = ("coffee", "chelsea", "flower")
    written = write_own_pictures(tmp_path / "mine", per_class=10, classes=classes)
    run = override(
        quickstart().data, {"source": str(tmp_path / "mine"), "output_path": str(tmp_path / "out")}
    )
    source = ImageSource.of(run)
    assert source.classes == tuple(sorted([*classes, LONE]))
    assert {item.kind: item.files for item in source.left_out} == {
        ".heic": 1,
        ".txt": 1,
        "outside of the class folders": 1,
    }
    rows = source.rows()
    assert sum(map(len, rows.values())) == written + 1  # the torn one too
    assert {row.label for row in rows["validation"]} == {
        label for label, name in enumerate(source.classes) if name != LONE
    }
    (tmp_path / "out").mkdir()
    task = ShardTask(str(tmp_path / "out"), "all.parquet", [*rows["train"], *rows["validation"]])
    found = write_task(task, run)
    assert found.info.rows == written
    assert list(found.unreadable) == ["coffee/torn.jpg"]
    assert {"laid on white", "16 bits scaled to 8"} <= set(found.changed.values())
    assert found.turned > 0
