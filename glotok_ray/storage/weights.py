"""Weights in files: a state dict as safetensors, and back into a module that must fit it exactly.

Read next: glotok_ray/nn/tokenizer.py
"""

import io
import json
import math
import pickle
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glotok_ray.storage import restricted_unpickler
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import writing

# Where training scripts put a model's tensors, in the order of trust: raw weights first, since an average lags behind.
NESTS = ("model", "state_dict", "module", "ema")
# Under these, training scripts keep a moving average: FQGAN's and LlamaGen's, and xAR's.
AVERAGES = ("ema", "model_ema")
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
# What DistributedDataParallel and torch.compile put before every name.
_WRAPPERS = ("module.", "_orig_mod.")
_SHOWN_NAMES = 5
# Per kind of misfit: a whole branch and more, and still a message that can be read.
_LISTED = 60
_SAFETENSORS_NAMES = {
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What weights are in files. Of eight bits they are codes that mean nothing without scales, which lie elsewhere."""
_BY_SAFETENSORS_NAME = {name: dtype for dtype, name in _SAFETENSORS_NAMES.items()} | {
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "I8": torch.int8,
    "C64": torch.complex64,
}
BRING_ANOTHER = "weights must be finite: fetch the file again, or take an earlier checkpoint"
"""The remedy where a file of others is read."""
_EXPORT_ANOTHER = (
    "weights must be finite: export an earlier checkpoint of the run, or train it again"
)
NOT_WRITTEN = (
    "weights must be finite, so nothing is written; earlier checkpoints stay as they are: go on from one of them with "
    "a lower learning rate or in fp32"
)
"""The remedy where weights of ours would be written."""
DROP_CHECKPOINT = "weights must be finite: remove the checkpoint's folder, and the run goes on from the one before it"
"""The remedy where a run goes on."""
# What safetensors and torch raise for damaged files and for files of another kind.
_UNREADABLE = (
    ValueError,
    TypeError,
    OSError,
    SafetensorError,
    RuntimeError,
    EOFError,
    LookupError,
    AttributeError,
    pickle.UnpicklingError,
)


def save_weights(path: Path, state: Mapping[str, Tensor], *, masks: Collection[str] = ()) -> None:
    """Write a state dict as safetensors, in fp32 and contiguous.

    Raises ArtefactError, before anything is written, for numbers that are not finite, but for those of the tensors
    named in `masks`, and OSError where the disk takes no more.
    """
    tensors = {
        name: (value.detach().float() if value.is_floating_point() else value.detach())
        .cpu()
        .contiguous()
        .clone()
        for name, value in state.items()
    }
    check_finite(used(tensors, masks), path, NOT_WRITTEN)
    try:
        with writing(path) as local:
            save_file(tensors, str(local))
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({error})") from error


def write_weights(
    stream: io.BufferedIOBase, tensors: Mapping[str, Tensor], *, name: str = "weights"
) -> None:
    """Write CPU tensors to a stream as safetensors, without a copy of them all in memory, which its own library makes.
    `name` is the file's, for errors.

    Raises KeyError for a dtype other than fp32, int64, int32, uint8 and bool, and ArtefactError for numbers that are
    not finite.
    """
    check_finite(tensors, name, NOT_WRITTEN)
    # The widest numbers first, so that each tensor starts at a multiple of its width.
    order = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
    header, start = {}, 0
    for key in order:
        value = tensors[key]
        end = start + value.numel() * value.element_size()
        header[key] = {
            "dtype": _SAFETENSORS_NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)
    for key in order:
        values: Any = tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy()
        stream.write(memoryview(values))


def load_weights(module: nn.Module, path: Path) -> None:
    """Read a state dict into `module`; raises ArtefactError that lists what does not fit."""
    try:
        state = load_file(str(at_hand(path)))
    except Exception as error:  # safetensors raises its own untyped errors for damaged headers
        raise _not_readable(path, error) from error
    problems = misfits(state, module.state_dict())
    if problems:
        raise misfitting(path, problems)
    check_finite(state, path, _EXPORT_ANOTHER)
    module.load_state_dict(state)


def misfitting(path: Path, problems: str) -> ArtefactError:
    """The error of a file with the `problems` of `misfits`."""
    return ArtefactError(
        f"{path}: its tensors do not fit the config beside it: {problems}; export both again"
    )


def stored_shapes(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file on the meta device: shapes and dtypes alone, without reading the values."""
    try:
        with safe_open(str(at_hand(path)), framework="pt") as file:
            slices = {name: file.get_slice(name) for name in list(file.keys())}
            return {
                name: torch.empty(
                    part.get_shape(), dtype=_BY_SAFETENSORS_NAME[part.get_dtype()], device="meta"
                )
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise _not_readable(path, error) from error
    except KeyError as error:
        raise _not_readable(path, ValueError(f"it holds numbers of the kind {error}")) from error


def stored_tensor(path: Path, name: str) -> Tensor | None:
    """One tensor of a safetensors file, without reading the others; None when it holds none of that name."""
    try:
        with safe_open(str(at_hand(path)), framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _not_readable(path, error) from error


def check_stored(path: Path) -> None:
    """Raise ArtefactError when a safetensors file of ours holds numbers that are not finite; one tensor at a time is
    read, so that a driver can look before it starts a cluster.
    """
    try:
        with safe_open(str(at_hand(path)), framework="pt") as file:
            broken = _not_finite((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _not_readable(path, error) from error
    _refuse(broken, path, _EXPORT_ANOTHER)


def check_finite(tensors: Mapping[str, Tensor], source: object, remedy: str) -> None:
    """Raise ArtefactError that names `source`, the tensors with NaN or infinite values, how many there are, and the
    remedy. Whole numbers and tensors on the meta device pass.
    """
    _refuse(_not_finite(tensors.items()), source, remedy)


def _not_finite(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Tensors with values that are not finite, and how many of how many these are."""
    broken = {}
    for name, value in tensors:
        if value.is_meta or not value.numel():
            continue
        value = torch.view_as_real(value) if value.is_complex() else value
        if not value.is_floating_point():
            continue
        # Numbers of eight bits have no arithmetic of their own.
        value = value.detach() if value.element_size() > 1 else value.detach().float()
        # One pass without a second tensor; a NaN among the values is both extremes.
        least, greatest = torch.aminmax(value)
        if not (math.isfinite(least) and math.isfinite(greatest)):
            count = int(torch.isfinite(value).logical_not().sum())
            broken[name] = f"{count:,} of {value.numel():,}"
    return broken


def _refuse(broken: Mapping[str, str], source: object, remedy: str) -> None:
    if broken:
        some = [f"{name} ({count} values)" for name, count in broken.items()][:_SHOWN_NAMES]
        more = f" and {len(broken) - len(some)} more" if len(broken) > len(some) else ""
        raise ArtefactError(
            f"{source}: {len(broken)} of its tensors hold NaN or infinite values: {', '.join(some)}{more}; {remedy}"
        )


def _not_readable(path: Path, error: Exception) -> ArtefactError:
    return ArtefactError(f"{path}: not readable as safetensors ({error}); export the model again")


def read_tensors(path: Path, *, purpose: str, suffixes: Sequence[str]) -> Any:
    """What a foreign .safetensors file or torch checkpoint holds, on the CPU; nothing in it is executed.

    Objects that are neither tensors nor plain Python come back as blanks. Raises ArtefactError in the caller's words:
    it was read as `purpose`, whose files end in `suffixes`.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(str(at_hand(path)))
        # torch.load trusts its pickle_module, and this one imports nothing but tensors.
        return torch.load(
            at_hand(path),
            map_location="cpu",
            weights_only=False,
            pickle_module=restricted_unpickler,
        )
    except _UNREADABLE as error:
        raise ArtefactError(
            f"{path}: not readable as {purpose} ({error}); bring one of {', '.join(suffixes)}"
        ) from error


def unnested(loaded: Mapping[str, Any], nests: Sequence[str] = NESTS) -> Mapping[str, Any]:
    """The first of the entries `nests` that holds a dictionary, or else `loaded` itself."""
    for nest in nests:
        if isinstance(loaded.get(nest), Mapping):
            return loaded[nest]
    return loaded


def read_checkpoint(path: Path, *, purpose: str) -> Mapping[str, Any]:
    """The dictionary in a peer's checkpoint, for `weights_in`; nothing in it is executed.

    Raises ArtefactError for a missing file and for one that holds something else than a dictionary.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such checkpoint; correct the path")
    loaded = read_tensors(path, purpose=purpose, suffixes=CHECKPOINT_SUFFIXES)
    if not isinstance(loaded, Mapping):
        raise ArtefactError(
            f"{path}: holds a {type(loaded).__name__}, not a dictionary of tensors; bring a checkpoint"
        )
    return loaded


def weights_in(
    path: Path, loaded: Mapping[str, Any], weights: Literal["model", "ema"]
) -> Mapping[str, Any]:
    """The model's entries in a checkpoint: its raw weights where there are some, or the moving average alone.

    Raises ArtefactError for a file without the average that is asked for, ValueError for another word.
    """
    if weights not in ("model", "ema"):
        raise ValueError(f'weights = {weights!r}: must be "model" or "ema"')
    if weights == "model":
        return unnested(loaded, (*NESTS, *AVERAGES))
    if not any(isinstance(loaded.get(nest), Mapping) for nest in AVERAGES):
        raise ArtefactError(
            f"{path}: has no {' or '.join(AVERAGES)} entry (there is {shown_names(loaded)}); "
            'take weights = "model"'
        )
    return unnested(loaded, AVERAGES)


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among the entries, `FLOATS` in fp32, without what wrappers of a model put before all names."""
    tensors = {
        name: value.detach().float() if value.dtype in FLOATS else value.detach()
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    # A module may be wrapped twice, in either order.
    while wrapper := _common_wrapper(tensors):
        tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def _common_wrapper(names: Collection[str]) -> str:
    """The wrapper that all names begin with; empty where there is none."""
    return next(
        (it for it in _WRAPPERS if names and all(each.startswith(it) for each in names)), ""
    )


def used(tensors: Mapping[str, Tensor], left_out: Collection[str]) -> dict[str, Tensor]:
    """The tensors without those that an import leaves out, such as masks, which hold infinities rightly."""
    return {name: value for name, value in tensors.items() if name not in left_out}


def shown_names(names: Mapping[str, Any]) -> str:
    """The first names, for messages."""
    some = [str(name) for name in names][:_SHOWN_NAMES]
    return (", ".join(some) + (", ..." if len(names) > len(some) else "")) or "nothing"


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Missing, extra and misshapen tensors, and those of another kind of number, in words; empty where all fit."""
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "extra": sorted(found.keys() - expected.keys()),
        "misshapen": [
            f"{name} {tuple(found[name].shape)} for {tuple(value.shape)}"
            for name, value in expected.items()
            if name in found and found[name].shape != value.shape
        ],
        "of another kind of number": [
            f"{name} {_dtype(found[name])} for {_dtype(value)}"
            for name, value in expected.items()
            if name in found and not same_kind(found[name], value)
        ],
    }
    return "; ".join(
        f"{len(names)} {problem} ({', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''})"
        for problem, names in problems.items()
        if names
    )


def same_kind(found: Tensor, expected: Tensor) -> bool:
    """Whether a file's numbers can be those of a tensor: for weights `FLOATS` alone, since what a quantised file has in
    their shapes are codes. Counters, which conversions to half precision make fractions too, may be any real numbers.
    """
    return found.dtype in FLOATS if expected.is_floating_point() else not found.is_complex()


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
