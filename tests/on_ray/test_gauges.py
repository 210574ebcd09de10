"""What Prometheus reads of a training, and that Grafana's dashboard shows what is exported."""

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from glotok_ray.config import QuickstartRun
from glotok_ray.on_ray.watched_metrics import WATCHED
from glotok_ray.training.metrics_file import last_metrics
from glotok_ray.training.plan import run_folder

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"
LINE = {
    "step": 40,
    "time/images_per_s": 512.0,
    "time/step_median_s": 0.25,
    "time/data_share": 0.03,
    "train/flow_matching": 0.75,
    "train/gradient_norm": 1.5,
    "memory/peak_gib": 6.5,
    "run/restarts": 2,
    "data/store_peak_gib": 1.0,
}
OF_RANK_0 = {
    "glotok_images_per_second": 512.0,
    "glotok_step_seconds": 0.25,
    "glotok_data_wait_ratio": 0.03,
    "glotok_loss": 0.75,
    "glotok_gradient_norm": 1.5,
    "glotok_memory_peak_gibibytes": 6.5,
    "glotok_restarts": 2.0,
    "glotok_step": 40.0,
}
OF_OTHERS = ("glotok_step_seconds", "glotok_data_wait_ratio", "glotok_memory_peak_gibibytes")


def test_every_panel_shows_a_metric_that_workers_export() -> None:
    exported = {metric.exported for metric in WATCHED}
    content = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in content["panels"] for target in panel["targets"]]
    queries.append(content["templating"]["list"][1]["definition"])
    named = [set(re.findall(r"\bray_\w+", query)) for query in queries]
    assert all(named)
    assert set().union(*named) == exported


def test_every_metric_but_mfu_is_logged_by_trainings(finished: tuple[QuickstartRun, Any]) -> None:
    """A metric that nothing logs would be an empty panel; a CPU has no peak that MFU is measured against."""
    config, _ = finished
    runs = (config.tokenizer, config.generator, config.far)
    logged = set().union(*(last_metrics(run_folder(run)) for run in runs))
    unknown = {name for metric in WATCHED for name in metric.logged if name not in logged}
    assert unknown == {"time/mfu"}


def endpoint_values(run: str) -> dict[tuple[str, str], float]:
    """Values by name and rank, of a run, from the endpoint that Prometheus reads on this node."""
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        match = re.fullmatch(r"ray_(glotok_\w+)\{(.*)\} (\S+)", line)
        if match and f'run="{run}"' in match[2]:
            rank = re.search(r'rank="(\d+)"', match[2])
            found[match[1], rank[1] if rank else ""] = float(match[3])
    return found


def test_the_metrics_of_two_ranks_stand_on_the_nodes_endpoint(ray_cluster: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Rank:
        def __init__(self, rank: int) -> None:
            from glotok_ray.on_ray.gauges import WorkerGauges

            self._gauges = WorkerGauges("watched", rank)

        def set(self) -> None:
            self._gauges.set({**LINE, "time/mfu": None})

    ranks = [Rank.remote(rank) for rank in (0, 1)]
    ray.get([rank.set.remote() for rank in ranks])
    expected = {
        (name, "0" if name in OF_OTHERS else ""): value for name, value in OF_RANK_0.items()
    }
    expected |= {(name, "1"): OF_RANK_0[name] for name in OF_OTHERS}
    deadline = time.monotonic() + 60
    while (found := endpoint_values("watched")) != expected and time.monotonic() < deadline:
        time.sleep(1)
    for rank in ranks:
        ray.kill(rank)
    assert found == pytest.approx(expected)
