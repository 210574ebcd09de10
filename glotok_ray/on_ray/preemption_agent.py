"""Asks a spot node's cloud whether it will take the node back, has Ray drain the node, on which nothing new is then
placed, and tells the workers on it, which save at once and leave.

    python -m glotok_ray.on_ray.preemption_agent --cloud aws

runs beside Ray on every worker node (cluster/*.yaml start it). Read next: glotok_ray/training/preemption.py
"""

import argparse
import json
import logging
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

from glotok_ray.storage import artefact
from glotok_ray.training.preemption import notice_path

logger = logging.getLogger(__name__)

METADATA = "http://169.254.169.254"
"""Where a machine of any of the three clouds asks about itself."""
# AWS gives two minutes, Google and Azure thirty seconds.
NOTICE_S = {"aws": 120.0, "gcp": 30.0, "azure": 30.0}
_INTERVAL_S = 2.0
# Ray answers in milliseconds; the workers are told in any case.
_DRAIN_S = 5.0
_TIMEOUT_S = 2.0


def notice_of(cloud: str, base: str = METADATA) -> str:
    """The cloud's words when it will take this node back, empty otherwise; raises OSError when it does not answer."""
    return {"aws": _aws, "gcp": _gcp, "azure": _azure}[cloud](base)


def _aws(base: str) -> str:
    # Version 2 of the service: a token first.
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
    token = _ask(f"{base}/latest/api/token", headers, method="PUT")
    try:
        return _ask(
            f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}
        )
    except urllib.error.HTTPError as error:
        if error.code == 404:  # nothing is planned
            return ""
        raise


def _gcp(base: str) -> str:
    url = f"{base}/computeMetadata/v1/instance/preempted"
    answer = _ask(url, {"Metadata-Flavor": "Google"})
    return "preempted" if answer.strip() == "TRUE" else ""


def _azure(base: str) -> str:
    headers = {"Metadata": "true"}
    name_url = f"{base}/metadata/instance/compute/name?api-version=2021-02-01&format=text"
    events_url = f"{base}/metadata/scheduledevents?api-version=2020-07-01"
    events = json.loads(_ask(events_url, headers)).get("Events", [])
    found = [event for event in events if event.get("EventType") == "Preempt"]
    name = _ask(name_url, headers).strip() if found else ""
    for event in found:
        if name in event.get("Resources", []):
            return f"Preempt, not before {event.get('NotBefore') or 'now'}"
    return ""


def _ask(url: str, headers: dict[str, str], *, method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    # No proxy: the address is the machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT_S) as answer:
        return answer.read().decode()


def watch(
    cloud: str,
    base: str = METADATA,
    *,
    interval_s: float = _INTERVAL_S,
    drain_node: Callable[[str], None] = lambda _: None,
) -> None:
    """Ask until there is a notice, call `drain_node` with the cloud's words, then write it: workers that leave must not
    come back to this node. A service that does not answer is asked again.
    """
    silent = False
    while True:
        try:
            words = notice_of(cloud, base)
            silent = False
        except (OSError, ValueError) as error:
            words = ""
            if not silent:
                logger.warning("%s: does not answer (%s); it is asked again", base, error)
            silent = True
        if words:
            draining = threading.Thread(target=drain_node, args=(words,), daemon=True)
            draining.start()
            draining.join(_DRAIN_S)
            path = notice_path()
            artefact.write_json(path, {"cloud": cloud, "words": words, "unix_s": int(time.time())})
            logger.warning("%s takes this node back: %s; its workers save (%s)", cloud, words, path)
            draining.join()
            return
        time.sleep(interval_s)


def drain(words: str, notice_s: float, *, address: str = "auto", node_id: str = "") -> None:
    """Tell Ray that this node, or the one of that id, goes within `notice_s` seconds; raises RuntimeError where Ray
    does not take it.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die, get_node_ip_address
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
    from ray.core.generated.autoscaler_pb2 import (
        DRAIN_NODE_REASON_PREEMPTION,  # pyright: ignore[reportAttributeAccessIssue]
    )

    client = GcsClient(address=canonicalize_bootstrap_address_or_die(address))
    if not node_id:
        here = get_node_ip_address()
        nodes = client.get_all_node_info(timeout=10).items()
        alive = [
            found.hex()
            for found, facts in nodes
            if facts.node_manager_address == here and facts.state == 0
        ]
        if len(alive) != 1:
            raise RuntimeError(f"{len(alive)} nodes live at {here}; name this one by --node-id")
        node_id = alive[0]
    deadline_ms = int(1000 * (time.time() + notice_s))
    accepted, why = client.drain_node(node_id, DRAIN_NODE_REASON_PREEMPTION, words, deadline_ms)
    if not accepted:
        raise RuntimeError(f"Ray does not drain node {node_id}: {why}")
    logger.warning("Ray drains node %s", node_id)


def main(argv: Sequence[str] | None = None) -> int:
    """Watch this node; returns 0 once it is taken back and drained, and 1 where Ray does not drain it."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(prog="python -m glotok_ray.on_ray.preemption_agent")
    parser.add_argument("--cloud", required=True, choices=("aws", "gcp", "azure"))
    parser.add_argument("--metadata", default=METADATA, metavar="URL")
    parser.add_argument("--ray-address", default="auto", metavar="HOST:PORT")
    parser.add_argument("--node-id", default="", help="where several nodes share an address")
    flags = parser.parse_args(argv)
    failed = []

    def drain_node(words: str) -> None:
        try:
            drain(words, NOTICE_S[flags.cloud], address=flags.ray_address, node_id=flags.node_id)
        except Exception as error:  # Ray raises several unrelated types
            failed.append(error)
            logger.warning("the node is not drained: %s", " ".join(str(error).split()))

    # It takes seconds, which a notice may not have.
    import ray  # noqa: F401

    watch(flags.cloud, flags.metadata, drain_node=drain_node)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
