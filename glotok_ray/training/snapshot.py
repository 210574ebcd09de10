"""What a worker must write, copied to host memory, so that training goes on while it is written.

Files are added by name; nothing touches a disk before `write`, or before the writer of checkpoints takes them.
Read next: glotok_ray/training/checkpoint_writer.py
"""

import functools
import io
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glotok_ray.storage import artefact
from glotok_ray.storage.weights import NOT_WRITTEN, check_finite, write_weights

Content = Callable[[io.BufferedIOBase], None]


class HostMemory:
    """Buffers of the copies, by file, which stay from one snapshot to the next.

    Fresh memory is handed out page by page as it is first touched, and pinned memory costs more still; so at most one
    snapshot at a time may be in use.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, list[Tensor]] = {}

    def copy(self, file: str, position: int, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of `tensor` as the file's tensor number `position`, at most the next; of one on CUDA the copy may
        still be under way, into pinned memory.
        """
        buffers = self._buffers.setdefault(file, [])
        held = buffers[position] if position < len(buffers) else None
        if held is None or held.shape != tensor.shape or held.dtype != dtype:
            held = torch.empty_like(
                tensor, dtype=dtype, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False
            )
            buffers[position : position + 1] = [held]
        return held.copy_(tensor, non_blocking=True)


class Snapshot:
    """The files of one worker, at one moment."""

    def __init__(self, memory: HostMemory | None = None) -> None:
        """With the `memory` of the snapshot before, whose content is then gone."""
        self.files: dict[str, Content] = {}
        """By name, relative to the folder, with "/" between folders: what writes the content to a stream."""
        self._memory = memory or HostMemory()
        self._prefix = ""

    def within(self, folder: str) -> "Snapshot":
        """The same snapshot, whose names from here on lie in a sub-folder."""
        inner = Snapshot(self._memory)
        inner.files, inner._prefix = self.files, f"{self._prefix}{folder}/"
        return inner

    @torch.no_grad()
    def add_state(
        self, name: str, state: Any, *, weights: Callable[[Any], Mapping[str, Tensor]] | None = None
    ) -> None:
        """Add a file for torch.load: anything that pickles, its tensors copied, the rest as it is now.

        `weights` picks from the copy what is refused when it is written with numbers that are not finite; of optimizers
        it must pick nothing, since their padding may hold anything.
        """
        name = self._prefix + name
        stream = io.BytesIO()
        structure = _Structure(stream, functools.partial(self._memory.copy, name))
        structure.dump(state)
        self.files[name] = functools.partial(
            _write_state, name, stream.getvalue(), structure.copies, weights
        )

    @torch.no_grad()
    def add_weights(
        self, name: str, tensors: Iterable[tuple[str, Tensor]], *, keep: bool = True
    ) -> None:
        """Add a safetensors file, floating-point numbers in fp32; without `keep` the tensors are passed over, one by
        one, as a gathering of all workers needs.
        """
        name, state = self._prefix + name, {}
        for key, tensor in tensors:
            if keep:
                dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
                state[key] = self._memory.copy(name, len(state), tensor, dtype)
        if keep:
            self.files[name] = functools.partial(write_weights, tensors=state, name=name)

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add a small file as it is."""

        def write(stream: io.BufferedIOBase) -> None:
            stream.write(content)

        self.files[self._prefix + name] = write

    def complete(self) -> None:
        """Wait until all copies are there; from then on their sources may change."""
        # Of a process that trains on CPUs, no device shall be woken.
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def write(self, folder: Path) -> None:
        """Write all files under `folder`, here and now."""
        self.complete()
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with artefact.hashed_writer(path) as stream:
                content(stream)


class _Structure(pickle.Pickler):
    """Pickles everything but tensors, in whose places numbers stand; they are copied."""

    def __init__(self, stream: io.BytesIO, copy: Callable[..., Tensor]) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.copies: list[Tensor] = []
        self._copy = copy
        # With the tensors, so that no other object gets their ids meanwhile.
        self._seen: dict[int, tuple[int, Tensor]] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """The number of a tensor, None for everything else."""
        if not isinstance(obj, Tensor):
            return None
        if id(obj) not in self._seen:
            position = len(self.copies)
            self.copies.append(self._copy(position, obj.detach(), obj.dtype))
            self._seen[id(obj)] = position, obj
        return self._seen[id(obj)][0]


class _Restored(pickle.Unpickler):
    """What `_Structure` pickled, in this process and a moment ago, with the copies in the places of tensors."""

    def __init__(self, structure: bytes, copies: list[Tensor]) -> None:
        super().__init__(io.BytesIO(structure))
        self._copies = copies

    def persistent_load(self, pid: int) -> Tensor:
        """The copy of that number."""
        return self._copies[pid]


def _write_state(
    name: str,
    structure: bytes,
    copies: list[Tensor],
    weights: Callable[[Any], Mapping[str, Tensor]] | None,
    stream: Any,
) -> None:
    state = _Restored(structure, copies).load()
    if weights is not None:
        check_finite(weights(state), name, NOT_WRITTEN)
    # Torch's older format: its zip writer turns a full disk's OSError into another error, on which nobody tries again.
    torch.save(state, stream, _use_new_zipfile_serialization=False)
