"""Which recipe stands for which row of the paper's Table 2, and for which model.

Read next: glotok_ray/recipes/compare_generators.py
"""

from collections.abc import Mapping

from glotok_ray.config.samplers import SamplerConfig
from glotok_ray.config.var import ModelConfig
from glotok_ray.recipes import sample_images, train_generator

ROWS: Mapping[int, str] = {
    1: "taming_gpt_small",
    2: "vqgan_lc_gpt",
    3: "gpt_b",
    4: "gpt_xxl",
    5: "gpt_3b",
    6: "ibq_b",
    7: "ibq_xxl",
    8: "imagefolder_var_d17",
    9: "var_d16",
    10: "var_d24",
    11: "var_d30",
    12: "far_b_fqgan",
    13: "far_l_fqgan",
    14: "far_b",
    15: "far_b_2x",
    16: "far_l",
    17: "xar_b_llamagen",
    18: "xar_b",
    19: "xar_b_2x",
    20: "xar_h",
}
"""By the row's place in the table, from 1: its recipe of `jobs.train_generator`, `jobs.sample_images` and
`jobs.evaluate_images`.
"""


def recipe_of(name: str, model: ModelConfig) -> str:
    """The recipe of a run, by its name where it has one's and its model, else by its model alone; empty where none is,
    or where several are.
    """
    found = [each for each, recipe in train_generator.RECIPES.items() if recipe().model == model]
    named = [each for each in found if name in (each, f"{each}_imported")]
    if named:
        return named[0]
    return found[0] if len(found) == 1 else ""


def row_of(recipe: str) -> int | None:
    """The row that a recipe stands for."""
    return next((row for row, name in ROWS.items() if name == recipe), None)


def sampler_of(model: ModelConfig, default: SamplerConfig) -> SamplerConfig:
    """The sampler of the first recipe with such a model, else `default`. Recipes of one model share their settings."""
    for name, recipe in train_generator.RECIPES.items():
        if name in sample_images.RECIPES and recipe().model == model:
            return sample_images.RECIPES[name]().sampler
    return default
