"""Drivers that are killed at a named point: forks of one prepared process, each a driver of its own on one cluster."""

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from glotok_ray import faults
from glotok_ray.stages import ablations, quickstart, sweep_tokenizer

# The forks find these imported.
PREPARED = (ablations, quickstart, sweep_tokenizer)


def run_with_fault(stage: Callable[[Any], Any], settings: Any, fault: str, log: Path) -> int:
    """The exit code of a process that runs the stage with this fault: -9 for one that was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    address = ray.get_runtime_context().gcs_address if ray.is_initialized() else ""
    process = context.Process(target=_drive, args=(stage, settings, fault, str(log), address))
    process.start()
    process.join(timeout=300)
    assert process.exitcode is not None, f"{fault}: still runs; see {log}"
    return process.exitcode


def _drive(stage: Callable[[Any], Any], settings: Any, fault: str, log: str, address: str) -> None:
    os.environ[faults.VARIABLE] = fault
    if address:
        os.environ["RAY_ADDRESS"] = address
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    stage(settings)
