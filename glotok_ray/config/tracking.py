"""Where a training's numbers go beside metrics.jsonl and TensorBoard, which are always there."""

from dataclasses import dataclass
from typing import Literal, get_args

from glotok_ray.config.rules import require

TrackerName = Literal["mlflow", "wandb"]
TRACKER_NAMES: tuple[str, ...] = get_args(TrackerName)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Services that rank 0 sends configuration and metrics to. Their addresses and keys come from the environment."""

    trackers: tuple[TrackerName, ...] = ()
    """"mlflow" needs the extra `mlflow`, and writes to MLFLOW_TRACKING_URI, or without one to a database in the run's
    folder. "wandb" needs the extra `wandb`, and sends with WANDB_API_KEY, or under WANDB_MODE=offline writes to the
    run's folder. A training has one id in each over all restarts.
    """
    project: str = "glotok"
    """MLflow's experiment, and the project of Weights & Biases."""

    def __post_init__(self) -> None:
        for name in self.trackers:
            require(
                name in TRACKER_NAMES,
                "tracking.trackers",
                self.trackers,
                f"{name!r} is unknown; there are {', '.join(TRACKER_NAMES)}",
            )
        require(
            len(set(self.trackers)) == len(self.trackers),
            "tracking.trackers",
            self.trackers,
            "names one twice; name each once",
        )
        require(
            bool(self.project) and "/" not in self.project,
            "tracking.project",
            self.project,
            "must be a name without a slash, and not empty",
        )
