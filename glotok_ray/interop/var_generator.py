"""Import VAR's transformer and ImageFolder's from their released files, and export one under the names that their code
loads.

Read next: glotok_ray/nn/var.py
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glotok_ray.config.var import VARConfig
from glotok_ray.interop.name_rows import renamed, under_peer_names
from glotok_ray.nn.var import VAR
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import (
    BRING_ANOTHER,
    check_finite,
    misfits,
    read_checkpoint,
    tensors_of,
    unnested,
    used,
)

VAR_LAYOUT, IMAGEFOLDER_LAYOUT = "var", "imagefolder_var"
"""Names of the layouts, beside those of `glotok_ray.interop.generator_layouts.LAYOUTS`: the second has several
branches, and one name more where its inputs are masked.
"""

_NAMES = (
    ("pos_start", "start"),
    ("pos_1LC", "positions"),
    ("word_embed", "input_projection"),
    # An embedding of one row.
    ("empty_emb.weight", "masked_input"),
    ("class_emb", "class_embedding"),
    ("lvl_embed", "level_embedding"),
    # Number 0 of the peer's sequences is the SiLU.
    ("shared_ada_lin.1", "shared_modulation"),
    ("blocks.#.ada_lin.1", "blocks.#.modulation"),
    ("blocks.#.ada_gss", "blocks.#.modulation_offset"),
    ("blocks.#.attn.mat_qkv", "blocks.#.attention.query_key_value"),
    ("blocks.#.attn.q_bias", "blocks.#.attention.query_bias"),
    ("blocks.#.attn.v_bias", "blocks.#.attention.value_bias"),
    ("blocks.#.attn.scale_mul_1H11", "blocks.#.attention.head_scale"),
    ("blocks.#.attn.proj", "blocks.#.attention.projection"),
    ("blocks.#.ffn.fc1", "blocks.#.mlp_first"),
    ("blocks.#.ffn.fc2", "blocks.#.mlp_second"),
    ("head_nm.ada_lin.1", "final_modulation"),
    ("head", "output"),
)
"""(VAR's name, our name) of a module or parameter; "#" stands for one number."""
# Constants that the code has in its buffers.
_LEFT_OUT = re.compile(r"^lvl_1L$|^attn_bias_for_masking$|\.zero_k_bias$")


def our_name(name: str) -> str | None:
    """Our name of VAR's tensor; None for a constant. Unknown names come back as they are."""
    return None if _LEFT_OUT.search(name) else renamed(name, _NAMES) or name


def peer_name(name: str) -> str | None:
    """VAR's name of our tensor; None where it has none."""
    return renamed(name, tuple((ours, peer) for peer, ours in _NAMES))


def import_var(path: str | Path, config: VARConfig) -> dict[str, Tensor]:
    """The state dict of `VAR(config)` in fp32 from a released file or a training file; nothing in it is executed.

    The number of heads shows in its shapes and the scales in its lvl_1L, the order of branches does not. Raises
    ArtefactError that lists all that does not fit or is not finite.
    """
    path = to_path(path)
    loaded = read_checkpoint(path, purpose="a checkpoint of VAR")
    tensors = tensors_of(unnested(unnested(loaded, ("trainer",)), ("var_wo_ddp", "model")))
    found: dict[str, Tensor] = {}
    left_out = [name for name in tensors if our_name(name) is None]
    expected = expected_state(config)
    for peer, value in used(tensors, left_out).items():
        name = our_name(peer) or peer
        place = f"{name} from {peer}" if name in found else name
        shape = expected[name].shape if name in expected else value.shape
        # VAR keeps axes of length 1 in its tables.
        fits = [size for size in value.shape if size > 1] == [size for size in shape if size > 1]
        found[place] = value.reshape(shape) if fits else value
    problems = misfits(found, expected)
    if problems:
        raise ArtefactError(
            f"{path}: its names and shapes do not fit the generator's config (VAR: width {config.width}, depth "
            f"{config.depth}, {config.num_heads} heads, modulation {config.modulation}, {config.num_branches} branches "
            f"of {config.num_codes} codes, input_masking {config.input_masking}): {problems}; choose the config that "
            "fits: var_d16, var_d20, var_d24, var_d30 or imagefolder_var_d17, whose empty_emb takes an input_masking "
            "above 0"
        )
    _check_scales(path, tensors, config)
    check_finite(used(tensors, left_out), path, BRING_ANOTHER)
    return found


def _check_scales(path: Path, tensors: Mapping[str, Tensor], config: VARConfig) -> None:
    # Other sides of as many scales and positions have tensors of the same shapes; the scale of each position tells.
    stated, expected = tensors.get("lvl_1L"), _levels(config)
    if stated is not None and not (
        stated.numel() == expected.numel() and torch.equal(stated.flatten().long(), expected)
    ):
        raise ArtefactError(
            f"{path}: its lvl_1L states scales of {_lengths(stated)} positions, but the config's scale_sides = "
            f"{config.scale_sides} give {_lengths(expected)}; correct scale_sides, or bring another file"
        )


def _lengths(levels: Tensor) -> str:
    counts = torch.unique_consecutive(levels.flatten(), return_counts=True)[1]
    return ", ".join(str(count) for count in counts.tolist())


def _levels(config: VARConfig) -> Tensor:
    """The number of the scale of each position."""
    lengths = torch.tensor(config.scale_lengths)
    return torch.arange(len(lengths)).repeat_interleave(lengths)


def layout_of_scales(config: VARConfig) -> str:
    """VAR's layout, or ImageFolder's, whose code alone knows branches and masked inputs."""
    of_branches = config.num_branches > 1 or config.input_masking > 0
    return IMAGEFOLDER_LAYOUT if of_branches else VAR_LAYOUT


def export_var(state: Mapping[str, Tensor], config: VARConfig) -> dict[str, Tensor]:
    """The state dict of `VAR(config)` as VAR's own code, or ImageFolder's, loads it, strictly, with the constants that
    it keeps there; ImageFolder's mask is that of a model built without xformers, which has no padding.

    Raises ValueError for the state of another model.
    """
    peers = under_peer_names(state, expected_state(config), peer_name, _peer_shape)
    return peers | _constants(config)


def expected_state(config: VARConfig) -> dict[str, Tensor]:
    """Names and shapes of `VAR(config)`, on the meta device."""
    with torch.device("meta"):
        return VAR(config).state_dict()


def _peer_shape(peer: str, value: Tensor) -> tuple[int, ...]:
    last = peer.rpartition(".")[2]
    if last == "scale_mul_1H11":
        return (1, len(value), 1, 1)
    if peer == "empty_emb.weight":
        return (1, len(value))
    leading = {"pos_start": 2, "pos_1LC": 1, "ada_gss": 2}.get(last, 0)
    return (1,) * leading + tuple(value.shape)


def _constants(config: VARConfig) -> dict[str, Tensor]:
    levels = _levels(config)
    hidden = levels[:, None] < levels[None, :]
    mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
    bias = {
        f"blocks.{index}.attn.zero_k_bias": torch.zeros(config.width)
        for index in range(config.depth)
    }
    return {"lvl_1L": levels[None], "attn_bias_for_masking": mask[None, None]} | bias
