"""What an actor of a pool makes of errors, in this process."""

import pickle

import pytest

from glotok_ray.config import PoolConfig
from glotok_ray.on_ray import actor_pool
from glotok_ray.on_ray.actor_pool import _OF_A_UNIT, _Actor, map_shards
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError


def actor_that_raises(error, *, caught, in_constructor=False):
    """The answer of an actor to one unit."""

    class Worker:
        def __init__(self) -> None:
            if in_constructor:
                raise error

        def __call__(self, unit):
            raise error

    pool = PoolConfig(num_actors=1, use_gpu=False)
    return _Actor(Worker, {}, pool, caught)({"unit": [pickle.dumps(1)]})


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ArtefactError("a: broken; mend it"), "a: broken; mend it"),
        (KeyError("image"), "KeyError: 'image'"),
        (OSError("Couldn't deserialize thrift"), "OSError: Couldn't deserialize thrift"),
        (FloatingPointError("nan"), "FloatingPointError: nan"),
    ],
)
def test_a_damaged_unit_is_told_and_the_actor_lives(error, text):
    answer = actor_that_raises(error, caught=_OF_A_UNIT)
    assert answer == {"result": [b""], "error": [text], "is_units": [True]}


@pytest.mark.parametrize("error", [StorageError("away"), RuntimeError("CUDA"), MemoryError()])
def test_what_is_not_the_units_fault_ends_the_job(error):
    with pytest.raises(type(error)):
        actor_that_raises(error, caught=_OF_A_UNIT)


def test_an_actor_that_cannot_be_made_ends_the_job():
    answer = actor_that_raises(ValueError("no weights"), caught=_OF_A_UNIT, in_constructor=True)
    assert answer == {"result": [b""], "error": ["no weights"], "is_units": [False]}
    with pytest.raises(OSError, match="gone"):
        actor_that_raises(OSError("gone"), caught=(ValueError,))


def test_nothing_to_do_needs_no_cluster(monkeypatch):
    monkeypatch.setattr(actor_pool.cluster, "connect", lambda: pytest.fail("connected"))
    pool = PoolConfig(num_actors=1, use_gpu=False)
    assert list(map_shards([], object, {}, pool, stage="nothing", sizes=[])) == []
