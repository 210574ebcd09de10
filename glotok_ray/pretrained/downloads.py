"""Downloads of published weights: a server that stays silent is given up.

Read next: glotok_ray/pretrained/inception.py
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

# Many clusters drop packets to the outside unanswered.
_SILENCE_S = 20.0


@contextmanager
def impatient_sockets() -> Iterator[None]:
    """New sockets of this process have a timeout inside; torch.hub sets none of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
