"""The memory that a worker has held at most, and the parameters of its models.

Read next: glotok_ray/training/engine.py
"""

import sys
from pathlib import Path

import torch
from torch import nn

from glotok_ray.training.memory import GIB

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory that this process has held since this was made, beyond what it held then.

    On CUDA what torch has allocated on the device; else resident memory, code and the allocator's slack included.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _forget_peak()
        # Where a past peak cannot be forgotten, only what exceeds it is seen.
        self._start = self._peak()

    def gib(self) -> float:
        """The peak so far, GiB."""
        return (self._peak() - self._start) / GIB

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _peak_resident_bytes()


def _forget_peak() -> None:
    try:
        _FORGET.write_text("5")
    except OSError:  # no Linux, or a container that forbids it
        return


def _peak_resident_bytes() -> int:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # Windows has no such module.
    import resource

    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


def count_parameters(module: nn.Module) -> int:
    """Scalars in all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
