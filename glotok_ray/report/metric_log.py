"""metrics.jsonl of a training run: its lines, and one metric over the steps.

Read next: glotok_ray/report/curves.py
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

MetricLog = Sequence[Mapping[str, Any]]


def read_metric_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics.jsonl that hold metrics; a last line that was cut off by a crash is left out."""
    lines = path.read_text().splitlines()
    found = []
    for number, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines) - 1:
                raise ValueError(f"{path}: line {number + 1} is not JSON ({error})") from None
    return [line for line in found if "event" not in line]


def metric_names(log: MetricLog) -> list[str]:
    """The "train/..." names in the log, sorted, then the "eval/..." names."""
    names = {name for line in log for name in line if name.startswith(("train/", "eval/"))}
    return sorted(names, key=lambda name: (not name.startswith("train/"), name))


def points(log: MetricLog, name: str) -> Float[ndarray, "2 n"]:
    """Steps and finite values of one metric."""
    found = [
        (line["step"], line[name])
        for line in log
        if isinstance(line.get(name), int | float) and np.isfinite(line[name])
    ]
    return np.array(found, dtype=np.float64).reshape(-1, 2).T
