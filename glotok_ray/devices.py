"""The device that a process works on, and whether Triton's kernels run there; models and losses ask here too."""

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)


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
