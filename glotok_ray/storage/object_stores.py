"""Clients of object stores, one per process and scheme, and what their errors are called here.

Requests that fail for want of an answer are sent again with growing pauses, so that a server that is away for a minute
costs time alone. Credentials come from the environment or the store's own files, never from an address.
Read next: glotok_ray/storage/object_paths.py
"""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from glotok_ray.storage.retries import StorageError, patiently

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ENDPOINT_VARIABLES = ("GLOTOK_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""The address of an S3 server other than Amazon's: the first of them that is set counts."""
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}
"""The package behind each scheme. S3 alone is tested."""
_EXTRA = {"s3": "glotok-ray[s3]"}
# With pauses of 0.1 s that grow 1.7-fold to 15 s these are about 100 s.
_TRIES = 15
_LISTING_MINUTES = 100 / 60
_CONNECT_S, _READ_S = 10, 60
_CONNECTIONS = 32
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# Of a conditional write: the object is there, or another writer is at it.
_CONFLICTS = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


def scheme_of(text: str) -> str:
    """The scheme of an address such as s3://bucket/prefix; empty for a path."""
    found = _ADDRESS.match(text)
    return found.group(1).lower() if found else ""


def check_client(scheme: str, text: str) -> None:
    """Raise ValueError in one line where the address `text` is of a scheme that is not known, or its package is
    missing.
    """
    if scheme not in PACKAGES:
        raise ValueError(f"{text}: {scheme}:// is not supported; there is {', '.join(PACKAGES)}")
    package = PACKAGES[scheme]
    try:
        __import__(package)
    except ImportError as error:
        wanted = _EXTRA.get(scheme, package)
        raise ValueError(
            f"{text}: {scheme}:// needs the package {package} ({error}); run: pip install '{wanted}'"
        ) from None


def client(scheme: str) -> Any:
    """The fsspec file system of a scheme, the same for every call in a process."""
    return _client(scheme, endpoint(), os.getpid())


def endpoint() -> str:
    """The address of the S3 server; empty for Amazon's."""
    return next(filter(None, map(os.environ.get, ENDPOINT_VARIABLES)), "")


# A child that was forked has no thread of the client's, so it gets a client of its own.
@functools.lru_cache(maxsize=8)
def _client(scheme: str, address: str, process: int) -> Any:
    check_client(scheme, f"{scheme}://")
    if scheme != "s3":
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False)
    import s3fs
    from s3fs.core import set_custom_error_handler

    set_custom_error_handler(_is_passing)
    found = s3fs.S3FileSystem(
        endpoint_url=address or None,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            # Our own tries are enough.
            "retries": {"mode": "standard", "max_attempts": 1},
            "connect_timeout": _CONNECT_S,
            "read_timeout": _READ_S,
            "max_pool_connections": _CONNECTIONS,
        },
    )
    found.retries = _TRIES
    return found


def _is_passing(error: BaseException) -> bool:
    """Whether a request may succeed when it is sent again: no answer, or one that blames the server."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status in (500, 502, 503, 504)
    return isinstance(error, ConnectionError | HTTPClientError)


@contextlib.contextmanager
def answering(where: object) -> Iterator[None]:
    """Errors of a store's client as OSError (or its kinds), with `where` in the text and without credentials."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{where}: no such object") from None
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise
    except Exception as error:
        if is_conflict(error):
            raise FileExistsError(f"{where}: exists already") from None
        if not (isinstance(error, OSError) or _is_of_a_client(error)):
            raise
        kind = PermissionError if _is_refusal(error) else OSError
        text = f"{where}: {error}"
        if type(error).__name__ == "NoCredentialsError":
            text += (
                "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, on every node"
            )
        # The cause might print a request with its headers.
        raise kind(_without_secrets(text)) from None


def is_conflict(error: BaseException) -> bool:
    """Whether a write that must make an object found one."""
    for found in (error, error.__cause__):
        response = getattr(found, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", "")) in _CONFLICTS
    return False


def _is_of_a_client(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in (
        "aiobotocore",
        "aiohttp",
        "botocore",
        "fsspec",
        "gcsfs",
        "s3fs",
    )


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError"


def _without_secrets(text: str) -> str:
    for secret in filter(None, map(os.environ.get, _SECRET_VARIABLES)):
        text = text.replace(secret, "***")
    return text


def listing(action: Callable[[], Result], where: Any) -> Result:
    """The result of `action`, whose requests the client does not send again by itself; raises OSError."""

    def answer() -> Result:
        try:
            with answering(where):
                return action()
        except (FileNotFoundError, PermissionError) as error:
            raise _Final(error) from None

    try:
        return patiently(answer, where, minutes=_LISTING_MINUTES, doing="listing")
    except _Final as final:
        raise final.error from None
    except StorageError as error:
        raise OSError(str(error)) from None


class _Final(Exception):  # noqa: N818 - it carries an error past those that try again
    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error
