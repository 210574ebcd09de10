"""An S3 server on loopback for tests and drills: moto's, in this process, which may be stopped and come back."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "glotok"
# Moto takes any.
_KEYS = {
    "AWS_ACCESS_KEY_ID": "loopback-key",
    "AWS_SECRET_ACCESS_KEY": "loopback-secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """Moto's server on a port of its own, with an empty bucket; what it holds outlives a stop."""

    def __init__(self) -> None:
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line per request
        self._make = ThreadedMotoServer
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Answer nothing any more."""
        self._server.stop()

    def start(self) -> None:
        """Come back at the same port."""
        self._server = self._make(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server, and the environment that leads this process and its children to it."""
    before = {name: os.environ.get(name) for name in (*_KEYS, "GLOTOK_S3_ENDPOINT")}
    server = S3Server()
    os.environ.update(_KEYS, GLOTOK_S3_ENDPOINT=server.address)
    from glotok_ray.storage.object_stores import client

    client("s3").mkdir(BUCKET)
    try:
        yield server
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
