"""The eight stages of the quickstart: every job's own quickstart recipe, chained by folders."""

from glotok_ray.config import QuickstartRun
from glotok_ray.recipes import encode, evaluate, generator, sample, shard, teacher, tokenizer


def quickstart() -> QuickstartRun:
    """All eight stages on photographs that ship with the packages, at most 15 minutes on 2 cores."""
    return QuickstartRun(
        data=shard.quickstart(),
        teacher=teacher.quickstart(),
        tokenizer=tokenizer.quickstart(),
        codes=encode.quickstart(),
        generator=generator.quickstart(),
        samples=sample.quickstart(),
        evaluation=evaluate.quickstart(),
    )


RECIPES = {"quickstart": quickstart}
