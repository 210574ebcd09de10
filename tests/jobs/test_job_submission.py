"""The README's "by hand" commands: a token-protected cluster, a job submitted to it, strangers refused."""

import json
import urllib.error
from typing import Any

import pytest


@pytest.mark.ray
def test_a_submitted_job_runs_on_that_cluster_and_leaves_its_artefact(head_node: Any) -> None:
    output = head_node.folder / "shards"
    done = head_node.submit(
        *("python", "-m", "jobs.shard_images", "quickstart", "--output-path", str(output)),
        *("--crops-per-class", "3", "--validation-crops-per-class", "2"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert f":{head_node.gcs_port}" in said
    assert "succeeded" in said
    train = json.loads((output / "train" / "dataset.json").read_text())
    assert train["num_images"] == 3 * len(train["classes"])
    assert json.loads((output / "train" / "manifest.json").read_text())["kind"] == "shards"


@pytest.mark.ray
def test_without_the_token_nothing_is_submitted_or_listed(head_node: Any) -> None:
    stranger = head_node.folder / "stranger"
    stranger.mkdir()
    for environment, reason in (
        ({"HOME": str(stranger)}, "couldn't find an authentication token"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "Invalid authentication token"),
    ):
        refused = head_node.submit("touch", str(stranger / "ran"), **environment)
        assert refused.returncode != 0
        assert reason in refused.stdout + refused.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        head_node.list_jobs(token="")
    assert not (stranger / "ran").exists()
