"""A training in Weights & Biases, under one id however often it is started again.

Read next: glotok_ray/training/trackers.py
"""

import contextlib
import os
from collections.abc import Mapping

from glotok_ray.storage.places import writing_tree
from glotok_ray.training.tracked_run import TRACKER_FOLDER, TrackedRun

KEY_VARIABLE, MODE_VARIABLE = "WANDB_API_KEY", "WANDB_MODE"
_WITHOUT_KEY = ("offline", "disabled", "dryrun")


def check_key() -> None:
    """Raise ValueError where the package would ask for a key."""
    if os.environ.get(MODE_VARIABLE) not in _WITHOUT_KEY and not os.environ.get(KEY_VARIABLE):
        raise ValueError(
            f"tracking.trackers = 'wandb': {KEY_VARIABLE} is not set; set it in the environment of the nodes, or "
            f"{MODE_VARIABLE}=offline, which writes into the run's folder for a later `wandb sync`"
        )


class WandbTracker:
    """One run of Weights & Biases; its id is the key that lies in the run's folder."""

    def __init__(self, run: TrackedRun) -> None:
        """Go on with the run of that id, or begin one; raises what the package raises."""
        # It reports its own errors to its makers unless told otherwise.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        check_key()
        self._files = contextlib.ExitStack()
        # Of a run in an object store the files are sent at the end.
        folder = self._files.enter_context(writing_tree(run.folder / TRACKER_FOLDER))
        # Its service writes the last lines after a run's end, and has done so when it has ended: before they are sent.
        self._files.callback(wandb.teardown)
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=run.project,
            id=run.key,
            name=run.folder.name,
            resume="allow",
            config=dict(run.configuration),
            # Else it takes the name of the folder that the worker runs in.
            dir=str(folder),
            # Addresses of a repository may hold credentials, and prints belong to the log of the run.
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
            ),
        )
        # What is known of a checkpoint when it is written comes after lines of later steps, which its own count of
        # steps would refuse.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each metric."""
        self._run.log({**values, "step": step})

    def finish(self, values: Mapping[str, float], *, failed: bool) -> None:
        """End the run, its last numbers in the summary; a later start goes on with it."""
        try:
            self._run.summary.update({f"final/{name}": value for name, value in values.items()})
            self._run.finish(exit_code=int(failed))
        finally:
            self._files.close()
