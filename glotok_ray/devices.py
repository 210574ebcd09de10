"""The device that a process works on, and whether Triton's kernels run there; models and losses ask here too."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

logger = logging.getLogger(__name__)

_META_STANDS_FOR = ContextVar("meta_stands_for", default="meta")


@contextmanager
def meta_stands_for_gpu() -> Iterator[None]:
    """Within, modules take a tensor of the meta device for one of a GPU, and choose what they would run there."""
    before = _META_STANDS_FOR.set("cuda")
    try:
        yield
    finally:
        _META_STANDS_FOR.reset(before)


def device_type(device: torch.device) -> str:
    """The kind of device, "cuda" or "cpu", for which modules choose; of the meta device what it stands for, if
    anything.
    """
    return _META_STANDS_FOR.get() if device.type == "meta" else device.type


@contextmanager
def full_precision() -> Iterator[None]:
    """Within, GPUs multiply fp32 numbers as fp32; by default their convolutions round the factors to TF32's 10 bits.

    It concerns the whole process, so no other thread should compute meanwhile.
    """
    # torch has no stub of the first one.
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def chosen_device(*, use_gpu: bool) -> torch.device:
    """The GPU that this process sees, or the CPU; call it in the process that works there.

    Raises ValueError when a GPU is asked for and torch sees none.
    """
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            "pool.use_gpu = True: torch sees no GPU in the actor; install a CUDA build, or pass "
            "--pool.no-use-gpu"
        )
    return torch.device("cuda")


def kernel_works(probe: Callable[[], object], *, device: int, what: str, instead: str) -> bool:
    """Whether `probe`, which launches a kernel on the GPU, can do so; Triton needs a C compiler for its launcher.

    Warns once per call where it cannot: `what` is computed as `instead` says. Raises what torch says of memory that is
    short, or of an earlier fault, since the machine lacks nothing then.
    """
    try:
        probe()
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # missing packages, compilers and drivers each have their own
        # The driver's own answer, where a kernel's code finds no room.
        if "out of memory" in str(error):
            raise
        logger.warning(
            "%s: Triton does not work on GPU %d (%s), so %s; install triton and a C compiler",
            what,
            device,
            error,
            instead,
        )
        return False
    return True
