"""Import RQ-Transformer from its released files, and export one under the names that its code loads.

Read next: glotok_ray/nn/rq_transformer.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from glotok_ray.config.rq import RQConfig
from glotok_ray.interop.name_rows import renamed, under_peer_names
from glotok_ray.nn.rq_transformer import RQTransformer
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import (
    BRING_ANOTHER,
    check_finite,
    misfits,
    read_checkpoint,
    tensors_of,
    unnested,
)

RQ_LAYOUT = "rq_transformer"
"""Name of the layout, beside those of `glotok_ray.interop.generator_layouts.LAYOUTS`."""

_ENTRIES = {"model": ("state_dict",), "ema": ("state_dict_ema",)}


def _block_names(peer: str, ours: str) -> tuple[tuple[str, str], ...]:
    parts = (
        ("ln1", "attention_norm"),
        ("ln2", "mlp_norm"),
        ("attn.query", "attention.query"),
        ("attn.key", "attention.key"),
        ("attn.value", "attention.value"),
        ("attn.proj", "attention.projection"),
        # Number 1 of the peer's sequence is the GELU.
        ("mlp.0", "mlp.first"),
        ("mlp.2", "mlp.second"),
    )
    return tuple((f"{peer}.blocks.#.{theirs}", f"{ours}.#.{mine}") for theirs, mine in parts)


_NAMES = (
    ("cond_emb", "class_embedding"),
    ("pos_emb_cond", "class_position"),
    ("pos_emb_hw", "positions"),
    ("pos_emb_d", "depth_positions"),
    ("input_mlp", "input_projection"),
    ("head_mlp", "head_projection"),
    *_block_names("body_transformer", "blocks"),
    *_block_names("head_transformer", "head_blocks"),
    ("classifier.layer_norm", "norm"),
    ("classifier.linear", "output"),
)
"""(RQ-Transformer's name, our name) of a module or parameter; "#" stands for one number."""
_LEADING_AXES = {"pos_emb_cond": 2, "pos_emb_hw": 1, "pos_emb_d": 1}
"""Axes of length 1 before its tables of positions."""


def our_name(name: str) -> str:
    """Our name of the peer's tensor; unknown names come back as they are."""
    return renamed(name, _NAMES) or name


def peer_name(name: str) -> str | None:
    """The peer's name of our tensor; None where it has none."""
    return renamed(name, tuple((ours, peer) for peer, ours in _NAMES))


def import_rq(
    path: str | Path, config: RQConfig, *, weights: Literal["model", "ema"] = "model"
) -> dict[str, Tensor]:
    """The state dict of `RQTransformer(config)` in fp32 from a released file; nothing in it is executed.

    The raw weights, which its authors' code takes, or their average. Raises ArtefactError that lists all that does not
    fit or is not finite, and for a file without the average.
    """
    path = to_path(path)
    loaded = read_checkpoint(path, purpose="a checkpoint of RQ-Transformer")
    if weights == "ema" and "state_dict_ema" not in loaded:
        raise ArtefactError(f"{path}: has no state_dict_ema entry; take weights = 'model'")
    tensors = tensors_of(unnested(loaded, _ENTRIES[weights]))
    expected = expected_state(config)
    found: dict[str, Tensor] = {}
    for peer, value in tensors.items():
        flat = value.flatten(0, _LEADING_AXES[peer]) if _leads(peer, value) else value
        name = our_name(peer)
        # Two of a file must not become one.
        found[f"{name} from {peer}" if name in found else name] = flat
    problems = misfits(found, expected)
    if problems:
        raise ArtefactError(
            f"{path}: its names and shapes do not fit the generator's config (RQ-Transformer: width {config.width}, "
            f"{config.depth} blocks and {config.head_depth} of the head): {problems}; choose the size that fits, of "
            "rq_480m, rq_821m, rq_1400m or rq_3800m"
        )
    check_finite(tensors, path, BRING_ANOTHER)
    return found


def export_rq(state: Mapping[str, Tensor], config: RQConfig) -> dict[str, Tensor]:
    """The state dict of `RQTransformer(config)` as the peer's own code loads it, strictly.

    Raises ValueError for the state of another model.
    """
    return under_peer_names(
        state,
        expected_state(config),
        peer_name,
        lambda peer, value: (1,) * _LEADING_AXES.get(peer, 0) + value.shape,
    )


def expected_state(config: RQConfig) -> dict[str, Tensor]:
    """Names and shapes of `RQTransformer(config)`, on the meta device."""
    with torch.device("meta"):
        return RQTransformer(config).state_dict()


def _leads(peer: str, value: Tensor) -> bool:
    leading = _LEADING_AXES.get(peer, 0)
    return leading > 0 and value.ndim > leading and value.shape[:leading] == (1,) * leading
