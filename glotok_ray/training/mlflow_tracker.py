"""A training in MLflow, under one run however often it is started again.

Read next: glotok_ray/training/trackers.py
"""

import os
import time
from collections.abc import Mapping
from typing import Any

from glotok_ray.storage.places import is_remote
from glotok_ray.training.tracked_run import TRACKER_FOLDER, TrackedRun

ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"
_KEY_TAG = "glotok.run"
_LONGEST_PARAMETER = 6000


def check_address(folder_is_remote: bool) -> None:
    """Raise ValueError for an address that holds credentials, and where one is needed and missing."""
    address = os.environ.get(ADDRESS_VARIABLE, "")
    if "@" in address.partition("://")[2].partition("/")[0]:
        # Without the value: it is secret.
        raise ValueError(
            f"{ADDRESS_VARIABLE}: an address holds no credentials; give them as MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or as MLFLOW_TRACKING_TOKEN"
        )
    if not address and folder_is_remote:
        raise ValueError(
            f"tracking.trackers = 'mlflow': {ADDRESS_VARIABLE} is not set, and a run folder in an object store can "
            "hold no database; set it to a server's address, or leave mlflow out"
        )


class MLflowTracker:
    """One run of MLflow; found again by the key that lies in the run's folder."""

    def __init__(self, run: TrackedRun) -> None:
        """Go on with the run of that key, or begin one; raises what MLflow raises."""
        # It tells its makers of its use unless told otherwise.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Its import takes seconds, which a training without it need not pay.
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=_address(run))
        experiment = self._experiment(run.project)
        found = self._client.search_runs(
            [experiment], filter_string=f"tags.`{_KEY_TAG}` = '{run.key}'", max_results=1
        )
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {_KEY_TAG: run.key, "glotok.folder": str(run.folder)}
        begun = self._client.create_run(experiment, run_name=run.folder.name, tags=tags)
        self._run = begun.info.run_id
        parameters = [Param(*item) for item in _flat(run.configuration).items()]
        # As many as a server takes at once.
        for start in range(0, len(parameters), 100):
            self._client.log_batch(self._run, params=parameters[start : start + 100])

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except MlflowException:
            # Another run may have made it in between.
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each metric."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=points)

    def finish(self, values: Mapping[str, float], *, failed: bool) -> None:
        """End the run, its last numbers under final/; a later start goes on with it."""
        self.log(
            int(values.get("step", 0)), {f"final/{name}": value for name, value in values.items()}
        )
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


def _address(run: TrackedRun) -> str:
    if os.environ.get(ADDRESS_VARIABLE) or is_remote(run.folder):
        return os.environ[ADDRESS_VARIABLE]
    folder = run.folder / TRACKER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder.absolute()}/mlflow.db"


def _flat(values: Any, name: str = "") -> dict[str, str]:
    """Dotted names and their values as text, of at most the length that MLflow takes."""
    if isinstance(values, dict) and values:
        inner = [_flat(part, f"{name}.{key}" if name else key) for key, part in values.items()]
        return {key: value for found in inner for key, value in found.items()}
    return {name: str(values)[:_LONGEST_PARAMETER]}
