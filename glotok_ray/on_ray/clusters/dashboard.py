"""Grafana's dashboard of trainings: a panel for each metric that workers export.

Read next: glotok_ray/on_ray/watched_metrics.py
"""

import json
from typing import Any

from glotok_ray.on_ray.watched_metrics import RANK_TAG, RUN_TAG, WATCHED, WatchedMetric

_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 8
_SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard() -> str:
    """The text of cluster/grafana.json, as Grafana imports it."""
    content = {
        "title": "GloTok training",
        "uid": "glotok-training",
        "description": "Written by `python -m jobs.write_cluster`: change on_ray/watched_metrics.py.",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "tags": ["ray", "glotok"],
        "templating": {"list": _variables()},
        "panels": [_panel(place, metric) for place, metric in enumerate(WATCHED)],
    }
    return json.dumps(content, indent=2) + "\n"


def _variables() -> list[dict[str, Any]]:
    runs = f"label_values({WATCHED[-1].exported}, {RUN_TAG})"
    return [
        {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"},
        {
            "name": RUN_TAG,
            "label": "Run",
            "type": "query",
            "datasource": _SOURCE,
            "definition": runs,
            "query": {"query": runs, "refId": "runs"},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _panel(place: int, metric: WatchedMetric) -> dict[str, Any]:
    row, column = divmod(place, _COLUMNS)
    # Two starts of a worker may both be known for a moment.
    labels = f"{RUN_TAG}, {RANK_TAG}" if metric.of_each_rank else RUN_TAG
    legend = f"{{{{{RUN_TAG}}}}}" + (f" rank {{{{{RANK_TAG}}}}}" if metric.of_each_rank else "")
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": metric.description.partition(",")[0],
        "description": metric.description,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": metric.unit or "short"}, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {
                "refId": "A",
                "datasource": _SOURCE,
                "expr": f'max by ({labels}) ({metric.exported}{{{RUN_TAG}=~"$run"}})',
                "legendFormat": legend,
            }
        ],
    }
