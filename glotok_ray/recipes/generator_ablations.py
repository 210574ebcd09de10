"""Ablations of xAR: what is predicted at once, how large a cell is, and what an entity sees of earlier ones.

Rows are one xAR run with something changed (`ROWS`), at full size and at a small one alike.
Read next: glotok_ray/stages/ablations.py
"""

from collections.abc import Callable
from typing import Any

from glotok_ray.config.overrides import override
from glotok_ray.config.runs import XARRun
from glotok_ray.config.sweeps import GeneratorAblationRun
from glotok_ray.recipes import evaluate_images, sample_images, train_generator

_PUBLISHED_GRID = 16


def _row(*, cell_size: int = 8, **changes: Any) -> Callable[[XARRun], XARRun]:
    """The published entity and context, with `changes` of the model's or the flow's fields; the cell takes the share of
    the grid that it has of the published one.
    """
    published = {"entity": "cell", "context": "random"} | changes
    sections = {"context": "flow"}
    dotted = {f"{sections.get(name, 'model')}.{name}": value for name, value in published.items()}

    def change(run: XARRun) -> XARRun:
        side = -(-cell_size * run.model.grid_size // _PUBLISHED_GRID)
        return override(run, dotted | {"model.cell_size": side})

    return change


ROWS: dict[str, Callable[[XARRun], XARRun]] = {
    "cell_8": _row(),
    "token": _row(entity="token"),
    "cell_2": _row(cell_size=2),
    "cell_4": _row(cell_size=4),
    "image": _row(entity="image"),
    "subsample": _row(entity="subsample"),
    "scale": _row(entity="scale"),
    "clean": _row(context="clean"),
    "increasing": _row(context="increasing"),
    "decreasing": _row(context="decreasing"),
}
"""What makes a row of xAR's ablation tables of an xAR run of any size; "cell_8" is the published xAR, and numbers count
positions of its grid of 16 x 16.
"""


def ablations() -> GeneratorAblationRun:
    """All ten rows of xar_b at the 400 epochs of xAR's own ablations, one after another; 32 GPUs per row."""
    samples_alone = {"tokenizer_path": "", "codes_path": ""}
    return GeneratorAblationRun(
        output_path="runs/xar_b_ablations",
        generator=override(train_generator.xar_b(), {"schedule.epochs": 400}),
        samples=sample_images.xar_b(),
        evaluation=override(evaluate_images.xar_b(), samples_alone),
    )


def ablations_tiny() -> GeneratorAblationRun:
    """All ten rows at the quickstart's size, whose inputs are made first: 128 steps and 200 images each, 2 cores."""
    samples_alone = {
        "tokenizer_path": "",
        "codes_path": "",
        "training_path": "",
        "generator_path": "",
    }
    return GeneratorAblationRun(
        output_path="runs/xar_ablations_tiny",
        inputs="quickstart",
        generator=override(train_generator.quickstart(), {"schedule.epochs": 1}),
        samples=override(sample_images.quickstart(), {"num_images": 200, "sampler.num_steps": 6}),
        evaluation=override(evaluate_images.quickstart(), samples_alone),
    )


RECIPES = {
    "ablations": ablations,
    "ablations_tiny": ablations_tiny,
}
