"""Guidance sweeps of every generator: its samples at several guidance scales, all measured alike.

At full size 10,000 images per value with a seed of their own: the 50,000 of glotok_ray/recipes/sample_images.py, which
are drawn at the best value afterwards, did not choose it. Read next: jobs/sweep_guidance.py
"""

from collections.abc import Callable

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.jobs import AnySampleRun, VARSampleRun, XARSampleRun
from glotok_ray.config.overrides import override
from glotok_ray.config.runs import FARRun
from glotok_ray.config.sweeps import AnyGuidanceRun, FARGuidanceRun, VARGuidanceRun, XARGuidanceRun
from glotok_ray.recipes import (
    evaluate_images,
    rq_transformers,
    sample_images,
    train_generator,
)

_SCALES = (1.0, 1.5, 2.0, 2.5, 3.0)
_QUICKSTART_SCALES = {
    "quickstart": (1.0, 2.0, 4.0, 6.0, 8.0),
    "quickstart_far": (1.0, 1.5, 2.0, 2.5, 3.0),
    "quickstart_ibq": (1.0, 1.5, 2.0, 2.5, 3.0),
    "quickstart_var": (0.0, 0.5, 1.0, 1.5, 2.0),
}
_NUM_IMAGES = 10000
_SEED = 1


def _recipe(name: str) -> Callable[[], AnyGuidanceRun]:
    """The recipe of the row `name` of the sampling recipes."""

    def recipe() -> AnyGuidanceRun:
        samples = sample_images.RECIPES[name]()
        if name not in _QUICKSTART_SCALES:
            samples = override(samples, {"num_images": _NUM_IMAGES, "seed": _SEED})
        return _sweep(name, samples)

    scales = ", ".join(f"{scale:g}" for scale in recipe().guidance_scales)
    recipe.__doc__ = f"Samples of {name} at guidance {scales}."
    return recipe


def _sweep(name: str, samples: AnySampleRun) -> AnyGuidanceRun:
    """The usual scales and the row's own."""
    unguided = 0.0 if isinstance(samples, VARSampleRun) else 1.0
    above = {scale - 1 + unguided for scale in _SCALES}
    usual = tuple(sorted({*above, samples.sampler.guidance_scale}))
    scales = _QUICKSTART_SCALES.get(name, usual)
    output, evaluation = f"runs/{name}_guidance", _evaluation(name)
    if isinstance(samples, XARSampleRun):
        return XARGuidanceRun(
            output_path=output, guidance_scales=scales, samples=samples, evaluation=evaluation
        )
    if isinstance(samples, VARSampleRun):
        return VARGuidanceRun(
            output_path=output, guidance_scales=scales, samples=samples, evaluation=evaluation
        )
    return FARGuidanceRun(
        output_path=output, guidance_scales=scales, samples=samples, evaluation=evaluation
    )


def _evaluation(name: str) -> EvaluateRun:
    """That of the row, or of the row that it is a faster sampling of, without what does not depend on guidance."""
    row = name if name in evaluate_images.RECIPES else name.removesuffix("_fast")
    fields = ("tokenizer_path", "codes_path", "generator_path", "samples_path")
    return override(evaluate_images.RECIPES[row](), dict.fromkeys(fields, ""))


def _has_null_label(name: str) -> bool:
    """Whether the generator of the row learns images of no class; the GPTs whose classes are codes do not."""
    if name in rq_transformers.RECIPES:
        return False
    run = train_generator.RECIPES[name.removesuffix("_fast")]()
    return not isinstance(run, FARRun) or run.model.variant.has_null_label


RECIPES: dict[str, Callable[[], AnyGuidanceRun]] = {
    name: _recipe(name) for name in sample_images.RECIPES if _has_null_label(name)
}
