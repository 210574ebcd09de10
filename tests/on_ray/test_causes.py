"""Causes out of the texts in which Ray Data wraps them."""

import traceback

import pytest
from ray.exceptions import RayTaskError, UserCodeException

from glotok_ray.on_ray.causes import cause_line, innermost
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.retries import StorageError


def wrapped(error):
    """As a task of Ray Data raises it in the driver: the original is in the text alone."""
    try:
        try:
            raise error
        except BaseException as cause:
            text = (
                "UDF failed.\nTo change retry attempts, configure `ray.data`.\n\nif you believe so."
            )
            raise UserCodeException(text) from cause
    except UserCodeException as shell:
        text = traceback.format_exc()
        shell.__cause__ = shell.__context__ = None
        return RayTaskError("submit", text, shell).as_instanceof_cause()


def raised_from(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("CUDA out of memory.\nSee docs"),
            "RuntimeError: CUDA out of memory. See docs",
        ),
        (OSError(28, "No space left", "/a/b"), "OSError: [Errno 28] No space left: '/a/b'"),
        (MemoryError(), "MemoryError"),
        (KeyError("image"), "KeyError: 'image'"),
        (raised_from(RuntimeError("last"), ValueError("first")), "RuntimeError: last"),
        (StorageError("/a: away; bring it back"), "/a: away; bring it back"),
        (raised_from(ArtefactError("a: bad; mend it"), KeyError("k")), "a: bad; mend it"),
    ],
)
def test_the_cause_is_read_out_of_the_text(error, line):
    found = innermost(wrapped(error))
    assert cause_line(found) == line
    if isinstance(error, ArtefactError | StorageError):
        assert type(found) is type(error)


def test_a_text_without_a_cause_is_told_as_it_is():
    found = innermost(RayTaskError("f", "nothing to read", UserCodeException("odd")))
    assert cause_line(found) == "UserCodeException: odd"


def test_an_endless_text_is_cut():
    line = cause_line(RuntimeError("x" * 5000))
    assert line.startswith("RuntimeError: xxx")
    assert line.endswith("x ...")
    assert len(line) == 604
