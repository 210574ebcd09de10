"""Sweeps over lambda_hist, bin count, alpha and other fields of a tokenizer. A search space is data: a list of fields.

Read next: glotok_ray/config/search.py
"""

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.overrides import override
from glotok_ray.config.pool import PoolConfig
from glotok_ray.config.search import ALPHA_FACTOR, WEIGHT, SearchField
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.recipes import evaluate_images, train_tokenizer

RELATION_SPACE = (
    SearchField(field=WEIGHT, values=(0.0,), low=0.001, high=0.3, log=True),
    SearchField(field="loss.relation.num_bins", low=16, high=128, log=True),
    SearchField(field=ALPHA_FACTOR, low=0.25, high=4.0, log=True),
)
"""lambda_hist over more than two decades and 0, bins and alpha around the paper's 0.01 and 40."""


def glotok_16k() -> SweepRun:
    """24 trials of up to 20,000 steps of glotok_16k under Optuna and ASHA, and three finalists with two more seeds;
    measured on 10,000 validation crops.
    """
    return SweepRun(
        output_path="runs/sweep_glotok_16k",
        space=RELATION_SPACE,
        search="optuna",
        startup_trials=8,
        num_trials=24,
        max_steps=20000,
        evaluate_every_steps=2500,
        scheduler="asha",
        num_finalists=3,
        tokenizer=train_tokenizer.glotok_16k(),
        evaluation=override(
            evaluate_images.glotok_16k(), {"num_images": 10000, "uniformity_repeats": 0}
        ),
    )


def quickstart() -> SweepRun:
    """4 short trials on the quickstart's shards and teacher, which are made first where they are missing."""
    return SweepRun(
        output_path="runs/quickstart_sweep",
        inputs="quickstart",
        num_trials=4,
        max_steps=60,
        tokenizer=train_tokenizer.quickstart(),
        evaluation=quickstart_reconstructions(),
    )


def quickstart_search() -> SweepRun:
    """12 trials of up to 32 steps at the quickstart's size under Optuna and ASHA, two at once, each in a process of its
    own; then the best and the baseline with two more seeds: a few minutes on 2 cores.
    """
    one_process = {
        "launcher": "local",
        "scaling.num_workers": 1,
        # A process of its own per trial: what it imports costs as much as the steps.
        "scaling.engine": "torch",
        "data.num_validation_images": 0,
    }
    return SweepRun(
        output_path="runs/quickstart_search",
        inputs="quickstart",
        space=(
            SearchField(field=WEIGHT, values=(0.0,), low=0.03, high=3.0, log=True),
            SearchField(field="loss.relation.num_bins", low=16, high=80, log=True),
            SearchField(field=ALPHA_FACTOR, low=0.5, high=2.0, log=True),
        ),
        search="optuna",
        num_trials=12,
        max_concurrent_trials=2,
        max_steps=32,
        evaluate_every_steps=8,
        scheduler="asha",
        num_finalists=1,
        tokenizer=override(train_tokenizer.quickstart(), one_process),
        evaluation=override(
            quickstart_reconstructions(), {"num_images": 100, "uniformity_repeats": 0}
        ),
    )


def quickstart_reconstructions() -> EvaluateRun:
    """The quickstart's evaluation of reconstructions alone, by one actor beside the trials."""
    changes = {
        "samples_path": "",
        "codes_path": "",
        "training_path": "",
        "generator_path": "",
        "num_images": 200,
        "uniformity_repeats": 1,
        "pool": PoolConfig(
            num_actors=1, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=50
        ),
    }
    return override(evaluate_images.quickstart(), changes)


RECIPES = {
    "glotok_16k": glotok_16k,
    "quickstart": quickstart,
    "quickstart_search": quickstart_search,
}
