"""Comparisons of generators under one protocol.

Read next: jobs/compare_generators.py
"""

from collections.abc import Callable

from glotok_ray.config.evaluation import DOWNLOAD, EvaluateRun
from glotok_ray.config.generator_comparison import CompareGeneratorsRun
from glotok_ray.config.pool import PoolConfig
from glotok_ray.recipes import table_2 as rows


def table_2() -> CompareGeneratorsRun:
    """The generators of the paper's Table 2 that are there, trained or imported: 50,000 images each, FID and Inception
    Score beside the published ones; 8 GPUs. In place of a recipe: FOLDER ...
    """
    names = [path for name in rows.ROWS.values() for path in (name, f"{name}_imported")]
    return CompareGeneratorsRun(
        generator_paths=tuple(f"runs/{name}" for name in names),
        skip_missing=True,
        output_path="runs/table_2",
        evaluation=EvaluateRun(
            data_path="data/imagenet/validation",
            inception_path=DOWNLOAD,
            statistics_path="runs/statistics",
            adm_protocol=True,
        ),
    )


def quickstart() -> CompareGeneratorsRun:
    """The quickstart's xAR and FAR, quickstart_ibq and quickstart_var, those that are there: 800 images each."""
    pool = PoolConfig(
        num_actors=2, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=50
    )
    return CompareGeneratorsRun(
        generator_paths=tuple(
            f"runs/quickstart/{name}" for name in ("generator", "far", "ibq", "var")
        ),
        skip_missing=True,
        output_path="runs/quickstart/generators",
        num_images=800,
        timed_images=50,
        use_gpu=False,
        pool=pool,
        evaluation=EvaluateRun(
            data_path="runs/quickstart/data/validation", feature_size=48, pool=pool
        ),
    )


RECIPES: dict[str, Callable[[], CompareGeneratorsRun]] = {
    "table_2": table_2,
    "quickstart": quickstart,
}
