"""The device that a process works on: its one GPU, or the CPU."""

import torch


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
