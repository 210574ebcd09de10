"""The line of progress goes on where the file of metrics cannot be read for a while, as one in an object store."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glotok_ray.training import shown_progress
from glotok_ray.training.shown_progress import ShownProgress


def test_a_file_that_cannot_be_read_costs_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan: Any = SimpleNamespace(
        folder=tmp_path, last_step=4, schedule=SimpleNamespace(global_batch_size=2)
    )
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 4, "train/total": 1.5}) + "\n")
    read = shown_progress.latest_metrics

    def away(folder: Path) -> dict[str, Any]:
        monkeypatch.setattr(shown_progress, "latest_metrics", read)
        raise OSError(16, "the remote file no longer exists")

    monkeypatch.setattr(shown_progress, "latest_metrics", away)
    shown = ShownProgress("training", plan)
    with caplog.at_level(logging.INFO):
        shown._show()
        assert "loss" not in caplog.text
        with shown:
            pass
    assert "loss 1.5" in caplog.text
