"""The stages of the quickstart: every job's own quickstart recipe, chained by folders."""

from glotok_ray.config.sweeps import QuickstartRun
from glotok_ray.recipes import (
    build_teacher,
    encode_images,
    evaluate_images,
    sample_images,
    shard_images,
    train_generator,
    train_tokenizer,
)


def quickstart() -> QuickstartRun:
    """All stages on photographs that ship with the packages, at most 15 minutes on 2 cores."""
    return QuickstartRun(
        data=shard_images.quickstart(),
        teacher=build_teacher.quickstart(),
        tokenizer=train_tokenizer.quickstart(),
        codes=encode_images.quickstart(),
        generator=train_generator.quickstart(),
        samples=sample_images.quickstart(),
        far=train_generator.quickstart_far(),
        far_samples=sample_images.quickstart_far(),
        evaluation=evaluate_images.quickstart(),
        far_evaluation=evaluate_images.quickstart_far(),
    )


RECIPES = {"quickstart": quickstart}
