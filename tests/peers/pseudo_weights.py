"""Weights that anyone regenerates from the names of a released file alone, and outputs of the systems' own code under
them (golden.json, whose "_how" states the recipe).
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.released import System, rename
from glotok_ray.storage.weights import misfits

HERE = Path(__file__).parent
GOLDEN: dict[str, Any] = json.loads((HERE / "golden.json").read_text())
# The file promises agreement to about 1e-4 relative, and rounds what it shows to five or six digits.
_RELATIVE, _ROUNDED = 1e-4, 2e-5


def released_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in a released file, buffers included, under its own names."""
    found = json.loads((HERE / "shapes" / f"{name}.json").read_text())["shapes"]
    return {key: tuple(shape) for key, shape in found.items()}


def released_buffers(name: str) -> set[str]:
    """Those names of a released file that are no parameters."""
    return set(json.loads((HERE / "shapes" / f"{name}.json").read_text())["buffers_in_state_dict"])


def pseudo_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """The parameter of that name in a released file."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) >= 2:
        values /= np.sqrt(values.size / shape[0])
    elif name.endswith(("weight", "gamma")):
        values = 1 + 0.1 * values
    else:
        values = 0.1 * values
    return torch.from_numpy(values.astype(np.float32))


def pseudo_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """All parameters of a released file under its own names; give the shapes of what the test reads."""
    return {name: pseudo_tensor(name, shape) for name, shape in shapes.items()}


def golden_images(low: float, side: int) -> Tensor:
    """The image that the golden numbers were made of: uniform in [low, 1]."""
    return torch.from_numpy(
        np.random.RandomState(0).uniform(low, 1, (1, 3, side, side)).astype(np.float32)
    )


def assert_tensor_matches(found: Tensor, golden: Mapping[str, Any]) -> None:
    """Mean, deviation, largest magnitude and five values, in the layout that the golden entry names."""
    values = found.detach().contiguous().double().flatten()
    assert values.numel() == golden["numel"]
    scale = golden["absmax"]
    tolerance = _RELATIVE * scale + _ROUNDED
    shown = {
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "absmax": values.abs().max().item(),
        **{place: values[int(place)].item() for place in golden["at"]},
    }
    expected = {**{key: golden[key] for key in ("mean", "std", "absmax")}, **golden["at"]}
    wrong = {
        key: (shown[key], expected[key])
        for key in expected
        if abs(shown[key] - expected[key]) > tolerance
    }
    assert not wrong, f"found and golden: {wrong}"


def assert_codes_match(found: Tensor, golden: Mapping[str, Any]) -> None:
    """The first eight and last four codes, and the CRC of all."""
    codes = found.detach().contiguous().long().flatten().numpy().astype("<i8")
    assert codes.size == golden["numel"]
    assert codes[:8].tolist() == golden["first8"]
    assert codes[-4:].tolist() == golden["last4"]
    assert zlib.crc32(codes.tobytes()) == golden["crc32_int64_le"]


def random_codes(high: int, *shapes: tuple[int, ...], seed: int = 1) -> list[Tensor]:
    """RandomState(1).randint(0, high, shape), one after the other."""
    random = np.random.RandomState(seed)
    return [torch.from_numpy(random.randint(0, high, shape).astype(np.int64)) for shape in shapes]


def parameter_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """`released_shapes` without buffers."""
    buffers = released_buffers(name)
    return {key: shape for key, shape in released_shapes(name).items() if key not in buffers}


def pseudo_model(
    system: System, config: Any, shapes: Mapping[str, tuple[int, ...]]
) -> PeerTokenizer:
    """The system's model with pseudo-weights, made under the released names."""
    wanted = {name: shape for name, shape in shapes.items() if _is_read(name, system, config)}
    return model_of(system, config, pseudo_weights(wanted))


def model_of(system: System, config: Any, tensors: Mapping[str, Tensor]) -> PeerTokenizer:
    """The model of a file's tensors, prepared and renamed as an import does. Every tensor of ours must be named by one
    of theirs; tensors of theirs must be used or left out on purpose.
    """
    renamed = _renamed(system, config, tensors)
    with torch.device("meta"):
        model = system.tokenizer(config)
    assert misfits(renamed, model.state_dict()) == ""
    model.load_state_dict(renamed, assign=True)
    return model.requires_grad_(False).eval()


def released_names(system: System, config: Any, name: str) -> dict[str, tuple[int, ...]]:
    """All tensors of a released file, buffers included, under our names; without those that are left out."""
    shapes = released_shapes(name)
    tensors = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    renamed = _renamed(system, config, tensors)
    return {key: tuple(value.shape) for key, value in renamed.items()}


def _renamed(system: System, config: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    table = system.names(config)
    prepared = system.prepare(tensors, config).items()
    return {new: value for name, value in prepared if (new := rename(name, table)) is not None}


def _is_read(name: str, system: System, config: Any) -> bool:
    return rename(name, system.names(config)) is not None
