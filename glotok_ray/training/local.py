"""A training in one plain process, without Ray: for a debugger and a profiler (`launcher = "local"`).

The run folder is the same as Ray's with one worker, and either goes on where the other stopped. Nothing watches the
process: it may stand in a debugger for hours, and an error ends it. Read next: glotok_ray/on_ray/train.py
"""

from collections.abc import Iterator

import torch

from glotok_ray.config.runs import AnyGeneratorRun, GeneratorRun, TokenizerRun
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import cache_facts
from glotok_ray.training.batches import MicroBatch
from glotok_ray.training.decode_place import decode_threads
from glotok_ray.training.generator_run import train_generator
from glotok_ray.training.plan import RunPlan, division, row_plan, row_reader
from glotok_ray.training.runs import BatchSource
from glotok_ray.training.shown_progress import ShownProgress
from glotok_ray.training.tokenizer_run import train_tokenizer
from glotok_ray.training.trainer_feed import trainer_batches
from glotok_ray.training.worker import Worker, only_worker


def fit(config: TokenizerRun | GeneratorRun, plan: RunPlan) -> None:
    """Train to the end of `plan`; raises ArtefactError for a loss that is not finite, and ValueError where the config
    asks for a GPU and there is none.
    """
    if config.scaling.use_gpu and not torch.cuda.is_available():
        raise ValueError(
            "scaling.use_gpu = True: this process sees no GPU, and launcher = 'local' trains in it; start it where one "
            "is, or pass --scaling.no-use-gpu"
        )
    worker = only_worker(config.scaling)
    worker.data_facts.add(cache_facts)
    with ShownProgress(config.name, plan):
        try:
            train(config, plan, worker, local_batches(config, plan, worker.device))
        except FloatingPointError as error:
            raise ArtefactError(str(error)) from error


def train(
    config: TokenizerRun | GeneratorRun, plan: RunPlan, worker: Worker, batches: BatchSource
) -> None:
    """Train on one worker what the config is of."""
    if isinstance(config, TokenizerRun):
        train_tokenizer(config, plan, worker, batches)
    elif isinstance(config, AnyGeneratorRun):
        train_generator(config, plan, worker, batches)


def local_batches(
    config: TokenizerRun | GeneratorRun, plan: RunPlan, device: torch.device
) -> BatchSource:
    """Micro batches read by threads of this process, for one worker: the same rows in the same order as Ray Data deals
    them.
    """
    order, parts, reader = row_plan(config, plan), division(config), row_reader(config, plan)

    def batches(first_step: int) -> Iterator[MicroBatch]:
        return trainer_batches(
            order,
            parts,
            reader,
            worker=0,
            steps=range(first_step, plan.last_step),
            device=device,
            num_threads=decode_threads(config.scaling),
        )

    return batches
