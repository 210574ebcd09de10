"""The flags of a step: what is not finite is named, what is carried along comes back, and both are forgotten."""

import pytest
import torch

from glotok_ray.training.finite import StepFlags
from glotok_ray.training.worker import LocalWorker

NAN, INFINITY = float("nan"), float("inf")


def terms(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_every_term_of_every_micro_batch_is_named_once():
    flags = StepFlags(LocalWorker())
    flags.add(terms(one=1.0, two=NAN, three=1.0))
    flags.add(terms(critic=-INFINITY))
    flags.add(terms(one=1.0, two=NAN, three=INFINITY))
    flags.add(terms(critic=0.0))
    with pytest.raises(
        FloatingPointError, match=r"^step 4: two, three, critic not finite; .*--initial-path"
    ):
        flags.verdict(4)


def test_a_verdict_forgets():
    flags = StepFlags(LocalWorker())
    flags.add(terms(one=NAN))
    with pytest.raises(FloatingPointError):
        flags.verdict(0)
    flags.add(terms(one=1.0))
    flags.verdict(1)
    flags.verdict(2)


def test_what_is_carried_is_summed_beside_the_terms_in_one_reduction():
    class Triple(LocalWorker):
        calls = 0

        def all_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return 3 * tensor

    worker = Triple()
    flags = StepFlags(worker)
    flags.carry("due", 1.0)
    flags.carry("seconds", 2.5)
    flags.add(terms(one=1.0, two=2.0))
    flags.verdict(0)
    assert flags.sums == {"due": 3.0, "seconds": 7.5}
    assert worker.calls == 1
    flags.add(terms(one=1.0))
    flags.verdict(1)
    assert flags.sums == {}


def test_what_is_carried_arrives_with_a_loss_that_is_not_finite():
    flags = StepFlags(LocalWorker())
    flags.carry("due", 1.0)
    flags.add(terms(one=NAN))
    with pytest.raises(FloatingPointError, match="one not finite"):
        flags.verdict(0)
    assert flags.sums == {"due": 1.0}
