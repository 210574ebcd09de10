"""The agent of spot nodes against a loopback server that answers like each cloud's metadata service."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from glotok_ray.on_ray import preemption_agent
from glotok_ray.on_ray.preemption_agent import notice_of
from glotok_ray.training.preemption import VARIABLE, PreemptionNotice

ACTION = '{"action": "terminate", "time": "2026-11-28T23:00:00Z"}'
EVENT = {"EventType": "Preempt", "Resources": ["node-7"], "NotBefore": "soon"}


class Service(ThreadingHTTPServer):
    """What the machine's cloud says; `answers` may change at any time."""

    answers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_PUT(self) -> None:
        known = self.path == "/latest/api/token"
        known = known and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self._answer("secret" if known else None)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        entitled = {
            "/latest": self.headers.get("X-aws-ec2-metadata-token") == "secret",
            "/computeMetadata": self.headers.get("Metadata-Flavor") == "Google",
            "/metadata": self.headers.get("Metadata") == "true",
        }
        allowed = any(path.startswith(f"{start}/") and may for start, may in entitled.items())
        self._answer(self.server.answers.get(path) if allowed else None)

    def _answer(self, text: str | None) -> None:
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(**answers: str) -> Iterator[tuple[Service, str]]:
    service = Service(("127.0.0.1", 0), Handler)
    service.answers = {f"/{path}": text for path, text in answers.items()}
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    try:
        yield service, f"http://127.0.0.1:{service.server_address[1]}"
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


AWS = "latest/meta-data/spot/instance-action"
GCP = "computeMetadata/v1/instance/preempted"
EVENTS, NAME = "metadata/scheduledevents", "metadata/instance/compute/name"


@pytest.mark.parametrize(
    ("cloud", "answers", "words"),
    [
        ("aws", {}, ""),
        ("aws", {AWS: ACTION}, ACTION),
        ("gcp", {GCP: "FALSE"}, ""),
        ("gcp", {GCP: "TRUE"}, "preempted"),
        ("azure", {EVENTS: json.dumps({"Events": []})}, ""),
        (
            "azure",
            {EVENTS: json.dumps({"Events": [EVENT]}), NAME: "node-7"},
            "Preempt, not before soon",
        ),
        ("azure", {EVENTS: json.dumps({"Events": [EVENT]}), NAME: "node-8"}, ""),
        (
            "azure",
            {EVENTS: json.dumps({"Events": [EVENT | {"EventType": "Reboot"}]}), NAME: "node-7"},
            "",
        ),
    ],
)
def test_each_clouds_notice_is_understood(cloud: str, answers: dict[str, str], words: str) -> None:
    with serving(**answers) as (_, base):
        assert notice_of(cloud, base) == words


def test_a_notice_that_comes_later_is_written_for_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notice.json"
    monkeypatch.setenv(VARIABLE, str(path))
    notice = PreemptionNotice()
    with serving(**{GCP: "FALSE"}) as (service, base):
        told: list[tuple[str, bool]] = []

        def drain_node(words: str) -> None:
            told.append((words, path.exists()))

        arguments = {"cloud": "gcp", "base": base, "interval_s": 0.01, "drain_node": drain_node}
        agent = threading.Thread(target=preemption_agent.watch, kwargs=arguments, daemon=True)
        agent.start()
        agent.join(0.2)
        assert agent.is_alive()
        assert not notice.is_new()
        service.answers[f"/{GCP}"] = "TRUE"
        agent.join(5)
        assert not agent.is_alive()
    assert json.loads(path.read_text())["words"] == "preempted"
    # Drained before the workers are told, who would else come back to it.
    assert told == [("preempted", False)]
    assert [notice.is_new(), notice.is_new()] == [True, False]
    # A worker that starts afterwards is not told again.
    assert not PreemptionNotice().is_new()


def test_a_service_that_is_silent_is_told_once_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "notice.json"))
    answers = iter([OSError("away"), OSError("away"), "gone"])

    def answer(*_: str) -> str:
        found = next(answers)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(preemption_agent, "notice_of", answer)
    preemption_agent.watch("aws", "http://here", interval_s=0)
    assert [message for message in caplog.messages if "does not answer" in message] == [
        "http://here: does not answer (away); it is asked again"
    ]
    assert "aws takes this node back: gone" in caplog.messages[-1]
