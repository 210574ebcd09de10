"""Asks a spot node's cloud whether it will take the node back, and tells the workers on it, which save at once.

    python -m glotok_ray.on_ray.preemption_agent --cloud aws

runs beside Ray on every worker node (cluster/*.yaml start it). Read next: glotok_ray/training/preemption.py
"""

import argparse
import json
import logging
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

from glotok_ray.storage import artefact
from glotok_ray.training.preemption import notice_path

logger = logging.getLogger(__name__)

METADATA = "http://169.254.169.254"
"""Where a machine of any of the three clouds asks about itself."""
# AWS gives two minutes, Google and Azure thirty seconds.
_INTERVAL_S = 2.0
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


def watch(cloud: str, base: str = METADATA, *, interval_s: float = _INTERVAL_S) -> None:
    """Ask until there is a notice, and write it; a service that does not answer is asked again."""
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
            path = notice_path()
            artefact.write_json(path, {"cloud": cloud, "words": words, "unix_s": int(time.time())})
            logger.warning("%s takes this node back: %s; its workers save (%s)", cloud, words, path)
            return
        time.sleep(interval_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Watch this node; returns 0 once it is taken back."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(prog="python -m glotok_ray.on_ray.preemption_agent")
    parser.add_argument("--cloud", required=True, choices=("aws", "gcp", "azure"))
    parser.add_argument("--metadata", default=METADATA, metavar="URL")
    flags = parser.parse_args(argv)
    watch(flags.cloud, flags.metadata)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
