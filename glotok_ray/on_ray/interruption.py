"""Trainings that are ended from outside: by Ctrl-C, SIGTERM, or because another job has taken over their folder.

Read next: glotok_ray/storage/ownership.py
"""

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import ray
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray.exceptions import RayError
from ray.train.v2._internal.constants import (
    DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE,
    get_env_vars_to_propagate,
)
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from glotok_ray.on_ray import cluster
from glotok_ray.storage import ownership

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_WATCH_S = 5.0
_ABORT_S = 60.0
_LOOK_S = 1.0


class AbortedWithDriver(DataParallelTrainer):
    """Ray Train's trainer, whose workers are ended before Ctrl-C or SIGTERM comes out of `fit`.

    Ray's own handler of SIGINT exits with 0, as if all were done, and stays when `fit` has returned. In a thread beside
    the main one there is none, and nothing in Ray that ends a training.
    """

    _controller: Any = None
    _is_aborted = False

    def fit(self) -> Any:
        """As Ray's; KeyboardInterrupt and SystemExit are raised when the workers have been told to end, and killed."""
        try:
            return super().fit()
        except (KeyboardInterrupt, SystemExit):
            self.abort()
            raise

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        """As Ray's, with the controller known to `abort` in every thread, and no handler of SIGINT."""
        variables = {
            RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE
        } | get_env_vars_to_propagate()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(TrainController)
        actor = actor.options(
            num_cpus=0, scheduling_strategy=here, runtime_env={"env_vars": variables}
        )
        self._controller = controller = actor.remote(**settings)
        if self._is_aborted:  # by another thread, while there was no controller
            ray.kill(controller)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())

    def abort(self) -> None:
        """Have the workers end, and kill them if they do not, from whatever thread; what has not begun does not."""
        self._is_aborted = True
        if self._controller is not None and self._outlives_abort(self._controller):
            with contextlib.suppress(RayError):
                ray.kill(self._controller)

    def _outlives_abort(self, controller: Any) -> bool:
        """Have the controller end its workers and itself; whether it is still there afterwards."""
        answer = controller.abort.remote()
        deadline = time.monotonic() + _ABORT_S
        while time.monotonic() < deadline:
            if ray.wait([answer], timeout=_LOOK_S)[0]:
                try:
                    ray.get(answer)
                except RayError:
                    return False  # it ends itself behind its workers
                return True
            if cluster.private_node_ended():
                return False  # all actors end with it
        logger.warning("the workers did not end within %g s and are killed", _ABORT_S)
        return True


def wait_for(work: Callable[[], Answer], abort: Callable[[], None]) -> Answer:
    """What `work` returns. In a thread, which no signal reaches, such as a trial's of Ray Tune, the wait looks for
    itself, and ends by `abort` where `ownership.check_held` raises, such as for a folder that is lost.
    """
    if threading.current_thread() is threading.main_thread():
        return work()
    answer: Future[Answer] = Future()
    _in_thread("training", work, answer)
    try:
        while not wait([answer], timeout=_WATCH_S).done:
            ownership.check_held()
    except BaseException:
        abort()
        raise
    return answer.result()


def side_by_side(works: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """What all of `works` return, of which the first runs in this thread, and each other one in a thread of its own.

    When all have ended, the first error of those that failed is raised, with the others' as its notes. Ctrl-C and
    SIGTERM end all, where they look by `ownership.check_held`.
    """
    first, *others = works
    answers: list[Future[Answer]] = [Future() for _ in works]
    threads = [
        _in_thread("beside", work, answer) for work, answer in zip(others, answers[1:], strict=True)
    ]
    try:
        _answer(first, answers[0])
        wait(answers)
    except (KeyboardInterrupt, SystemExit):
        with ownership.ending_other_threads():
            for thread in threads:
                thread.join(_ABORT_S + 2 * _WATCH_S)
        raise
    errors = [error for answer in answers if (error := answer.exception()) is not None]
    for error in errors[1:]:
        errors[0].add_note("and beside it:\n" + "".join(traceback.format_exception(error)))
    return [answer.result() for answer in answers]


def _in_thread(name: str, work: Callable[[], Answer], answer: "Future[Answer]") -> threading.Thread:
    def run() -> None:
        try:
            _answer(work, answer)
        except BaseException as error:
            answer.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def _answer(work: Callable[[], Answer], answer: "Future[Answer]") -> None:
    """Have what `work` returns, or its error, in `answer`; what ends a process comes out."""
    try:
        answer.set_result(work())
    except Exception as error:
        answer.set_exception(error)
