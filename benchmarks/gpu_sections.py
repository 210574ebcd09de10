"""The sections of `benchmarks.gpu_check`, in the order of their importance, and the process that one runs in."""

import importlib
import os
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

from benchmarks.gpu_host import collectives, host_waits, overlap
from benchmarks.gpu_kernels import adam, relation
from benchmarks.gpu_norm import normalization
from benchmarks.gpu_place import LeftOut, Place, Row
from benchmarks.gpu_training import compiled, tokenizer, train_and_sample


class Section(NamedTuple):
    """One part of the check."""

    rows: Callable[[Place], Iterator[Row]]
    limit_s: float
    """After so long it is ended; what it has told by then stays."""


SECTIONS = {
    "relation": Section(relation, 60),
    "group_norm": Section(normalization, 30),
    "tokenizer": Section(tokenizer, 90),
    "adam": Section(adam, 45),
    "host_waits": Section(host_waits, 45),
    "xar_b": Section(partial(train_and_sample, name="xar_b"), 60),
    "collectives": Section(collectives, 20),
    "xar_h": Section(partial(train_and_sample, name="xar_h"), 90),
    "overlap": Section(overlap, 45),
    "compile": Section(compiled, 240),
}


class Told(NamedTuple):
    """What a section's process says beside rows: how it ended."""

    status: str
    """"ready", "ok", "left out" or "failed"."""
    reason: str = ""


def serve(connection: Connection, place: Place) -> None:
    """Be ready to run one section, whose name then comes; send its rows as they are found, and how it ended."""
    # stdout is the answer's alone, and DeepSpeed's log would go there.
    os.dup2(2, 1)
    importlib.import_module("deepspeed")
    connection.send(Told("ready"))
    name = connection.recv()
    try:
        for row in SECTIONS[name].rows(place):
            connection.send(row)
    except LeftOut as reason:
        connection.send(Told("left out", str(reason)))
    except BaseException as error:
        traceback.print_exc()
        connection.send(Told("failed", f"{type(error).__name__}: {error}"))
    else:
        connection.send(Told("ok"))
