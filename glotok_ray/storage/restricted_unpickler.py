"""An unpickler that knows tensors and nothing else: whatever other classes and functions a file names become blanks.

Training checkpoints hold callbacks and arguments of packages that are not installed here; torch's own safe reader
refuses such files as a whole. Given to torch.load as its `pickle_module`. Read next: glotok_ray/storage/weights.py
"""

import pickle
from collections.abc import Callable
from typing import IO, Any

# What torch.save writes for tensors in dictionaries; `torch.storage` also has a function that would load any pickle.
_KNOWN = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch.storage", "TypedStorage"),
    ("torch.storage", "UntypedStorage"),
}


class Blank:
    """Stands for anything that is not a tensor; takes every call that unpickling makes and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Blank":
        """Whatever the arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Lists of foreign classes are filled so."""

    def extend(self, items: Any) -> None:
        """Or so."""


# How torch writes a tensor that carries attributes, as FSDP's consolidated files hold them.
_TYPED_TENSOR = ("torch._tensor", "_rebuild_from_type_v2")


def _without_type(rebuild: Callable[..., Any], _: Any, arguments: Any, __: Any) -> Any:
    """In place of torch's function: the tensor itself, without the class and the attributes that the file names."""
    return rebuild(*arguments)


class Unpickler(pickle.Unpickler):
    """Imports nothing but what tensors are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name where it is known, else `Blank`."""
        if (module, name) == _TYPED_TENSOR:
            return _without_type
        is_storage = module == "torch" and name.endswith("Storage")
        if is_storage or (module, name) in _KNOWN:
            return super().find_class(module, name)
        return Blank


def load(file: IO[bytes], **options: Any) -> Any:
    """As pickle.load, for files that torch wrote before its zip format."""
    return Unpickler(file, **options).load()
