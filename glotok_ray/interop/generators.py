"""Import a generator that a project of Table 2 trained, or RQ-Transformer, and export one so that their code loads it.

Names and shapes are checked, and of xAR its mask and its rotary angles, which tell the number of heads where the file
has them. Of FAR and the GPTs the number of attention heads and the grid's size leave no trace in a checkpoint, and the
config must state them. Read next: glotok_ray/interop/generator_layouts.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from glotok_ray.config.generator import FARConfig, XARConfig
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.var import ModelConfig, VARConfig
from glotok_ray.interop import generator_layouts
from glotok_ray.interop.rq_generator import RQ_LAYOUT, export_rq, import_rq
from glotok_ray.interop.var_generator import export_var, import_var, layout_of_scales
from glotok_ray.nn.entities import token_places
from glotok_ray.nn.rotary import grid_rotation, pair_frequencies
from glotok_ray.pretrained.generator import build_generator
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import (
    BRING_ANOTHER,
    check_finite,
    misfits,
    read_checkpoint,
    shown_names,
    tensors_of,
    used,
    weights_in,
)

RECIPES = (
    "xar_b, xar_l, xar_h, far_b_fqgan, far_l_fqgan, gpt_b, gpt_l, gpt_xl, gpt_xxl, gpt_3b, ibq_b, ibq_l, ibq_xl, "
    "ibq_xxl, taming_gpt, vqgan_lc_gpt, var_d16, var_d20, var_d24, var_d30, imagefolder_var_d17, rq_480m, "
    "rq_821m, rq_1400m or rq_3800m"
)
# The scale of MAR's KL-16 autoencoder, with which the released xAR was trained; its code multiplies outside the model.
XAR_LATENT_SCALE = 0.2325

PEER_MASKS = ("mask", "attn_bias_for_masking")
"""Tensors of an export that hold infinities rightly: what attention adds where it must not look."""

# The order of FQGAN's numbered codebooks, by their count; LlamaGen's single one may have any name.
_ORDERS = {
    2: ("visual", "semantic"),
    3: ("visual", "semantic_mid", "semantic_high"),
}
# Of cosines that a file keeps in bfloat16; those of another place differ by more.
_ANGLE_ERROR = 1e-2
_POSITIONS = ("first_position", "second_position", "positions")


class ImportedGenerator(NamedTuple):
    """The tensors of a peer's checkpoint under our names, in fp32; they fit the config they were asked for."""

    tensors: dict[str, Tensor]
    """State dict of `XAR`, `FAR`, `VAR` or `RQTransformer`."""
    left_out: tuple[str, ...]
    """Names in the file that this package has no use for."""
    layout: str
    """A name of `glotok_ray.interop.generator_layouts.LAYOUTS`, one of `layout_of_scales`, or `RQ_LAYOUT`."""
    sha256: str
    """Digest of the file."""


def import_generator(
    path: str | Path, config: ModelConfig, *, weights: Literal["model", "ema"] = "model"
) -> ImportedGenerator:
    """Read a checkpoint as the state dict of the config's model; nothing in the file is executed.

    `weights` prefers the raw weights or demands their moving average. xAR's files do not hold the scale of the
    latents: its `latent_scale` becomes `XAR_LATENT_SCALE`. Raises ArtefactError, which lists all that does not fit, or
    all that is not finite.
    """
    path = to_path(path)
    if not isinstance(config, ModelConfig):
        raise ValueError(
            f"config = {config!r}: must be an XARConfig, a FARConfig, a VARConfig or an RQConfig"
        )
    if isinstance(config, VARConfig):
        return _imported_var(path, config, weights)
    if isinstance(config, RQConfig):
        tensors = import_rq(path, config, weights=weights)
        return ImportedGenerator(tensors, (), RQ_LAYOUT, artefact.sha256_of(path))
    loaded = read_checkpoint(path, purpose="a generator checkpoint")
    described = layout_of(config)
    tensors = tensors_of(weights_in(path, loaded, weights))
    layout = generator_layouts.detect(tensors)
    if layout is None:
        raise ArtefactError(
            f"{path}: its {len(tensors)} names are of no known layout ({shown_names(tensors)}); known are "
            f"{', '.join(generator_layouts.LAYOUTS)}"
        )
    if layout != described:
        raise ArtefactError(
            f"{path}: its names are of the layout {layout}, but the config describes {described} "
            f"({_described(config)}); choose the recipe that fits: {RECIPES}"
        )
    found, left_out = _renamed(tensors, layout, config.depth // 2)
    if isinstance(config, XARConfig):
        _check_mask(path, tensors, config)
        _check_angles(path, tensors, config)
        found["latent_scale"] = torch.full((config.channels,), XAR_LATENT_SCALE)
    problems = misfits(found, _expected(config))
    if problems:
        raise ArtefactError(
            f"{path}: its {layout} names and shapes do not fit the generator's config ({_described(config)}): "
            f"{problems}; choose the recipe that fits: {RECIPES}"
        )
    check_finite(used(tensors, left_out), path, BRING_ANOTHER)
    return ImportedGenerator(found, left_out, layout, artefact.sha256_of(path))


def export_generator(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The state dict of the model of `config` as the peer's own code loads it, strictly.

    xAR's code keeps its mask and its rotary angles in the file, so these are added; it multiplies latents outside the
    model, so `latent_scale` is left out and must replace its 0.2325 there. FQGAN's code knows one size for all
    codebooks. Names of IBQ's and taming's transformer are those of the network alone, without the "transformer." of
    their checkpoints; taming's masks are added. Raises ValueError where no peer's code computes what the config
    describes.
    """
    if isinstance(config, VARConfig):
        return export_var(state, config)
    if isinstance(config, RQConfig):
        return export_rq(state, config)
    layout = layout_of(config)
    problems = misfits(state, _expected(config))
    if problems:
        raise ValueError(
            f"state: does not fit the generator's config ({_described(config)}): {problems}; "
            "give the state dict of this config's model"
        )
    peers: dict[str, Tensor] = {}
    for name, value in state.items():
        peer = generator_layouts.peer_name(name, layout, config.depth // 2)
        if peer is not None:
            peers[peer] = value.unsqueeze(0) if name in _POSITIONS else value
    if isinstance(config, XARConfig):
        return peers | _xar_buffers(config)
    return peers | (_taming_masks(config) if layout == "taming_gpt" else {})


def layout_of(config: ModelConfig) -> str:
    """The layout whose code computes what `config` describes; raises ValueError where there is none."""
    if isinstance(config, VARConfig):
        return layout_of_scales(config)
    if isinstance(config, RQConfig):
        return RQ_LAYOUT
    if isinstance(config, XARConfig):
        if config.entity != "cell" or config.grid_size != 2 * config.cell_size:
            raise ValueError(
                f"model.entity = {config.entity!r} with cell_size = {config.cell_size}: xAR's released code and "
                'checkpoints know 2 x 2 cells alone; set entity = "cell" and cell_size to half of grid_size = '
                f"{config.grid_size}"
            )
        return "xar"
    if config.variant.block == "gpt":
        if config.variant.has_null_label:
            raise ValueError(
                f"model.variant.class_input = {config.variant.class_input!r}: the peers' GPTs embed classes in the "
                'table of the codes; set it to "among_codes" or "after_codes"'
            )
        return "taming_gpt"
    if len(config.codebooks) == 1:
        return "ibq_ar" if config.variant.block == "ibq" else "llamagen_gpt"
    if config.variant.block != "llama":
        raise ValueError(
            f"model.codebooks = {', '.join(config.names)}: IBQ's code knows a single codebook; give one"
        )
    # Names and shapes alone would let two codebooks of one size change places.
    order = _ORDERS.get(len(config.codebooks))
    if config.names != order:
        known = " or ".join(", ".join(names) for names in _ORDERS.values())
        raise ValueError(
            f"model.codebooks = {', '.join(config.names)}: FQGAN's checkpoints hold {known}; "
            "give the codebooks these names, in this order"
        )
    return "far"


def _imported_var(path: Path, config: VARConfig, weights: str) -> ImportedGenerator:
    if weights == "ema":
        raise ArtefactError(f"{path}: files of VAR hold no moving average; pass --weights model")
    tensors, layout = import_var(path, config), layout_of_scales(config)
    return ImportedGenerator(tensors, (), layout, artefact.sha256_of(path))


def _renamed(
    tensors: Mapping[str, Tensor], layout: str, first_half: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    found: dict[str, Tensor] = {}
    left_out: list[str] = []
    for peer, value in tensors.items():
        name = generator_layouts.our_name(peer, layout, first_half)
        if name is None:
            left_out.append(peer)
            continue
        if name in _POSITIONS and value.dim() == 3 and len(value) == 1:
            value = value.squeeze(0)
        # A second tensor of one name must not replace the first; so it shows up as an extra one.
        found[f"{name} from {peer}" if name in found else name] = value
    return found, tuple(left_out)


def _expected(config: XARConfig | FARConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_generator(config).state_dict()


def _check_mask(path: Path, tensors: Mapping[str, Tensor], config: XARConfig) -> None:
    # Cells of another size have tensors of the same names and shapes; their mask alone tells.
    if "mask" in tensors and not torch.equal(tensors["mask"].float(), _mask(config)):
        raise ArtefactError(
            f"{path}: its mask, {tuple(tensors['mask'].shape)}, is not that of 2 x 2 cells of "
            f"{config.cell_size} x {config.cell_size} ({_described(config)}); bring a checkpoint of such cells"
        )


def _check_angles(path: Path, tensors: Mapping[str, Tensor], config: XARConfig) -> None:
    # Another number of heads has weights of the same shapes; the angles, one for each channel of a head, tell.
    expected = _angles(config)["freqs_cos"]
    for name, value in tensors.items():
        if not name.endswith(".rope.freqs_cos"):
            continue
        if value.shape != expected.shape:
            problem = f"of shape {tuple(value.shape)} and must be {tuple(expected.shape)}"
        elif not torch.allclose(value.float(), expected, atol=_ANGLE_ERROR):
            problem = "of other positions"
        else:
            continue
        raise ArtefactError(
            f"{path}: {name} is {problem} for num_heads = {config.num_heads} and grid_size = {config.grid_size} "
            f"({_described(config)}); choose the recipe that fits: {RECIPES}"
        )


def _mask(config: XARConfig) -> Tensor:
    entity = torch.arange(config.num_tokens) // config.entity_lengths[0]
    hidden = entity[:, None] < entity[None, :]
    return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[None, None]


def _taming_masks(config: FARConfig) -> dict[str, Tensor]:
    rows = config.num_positions + config.variant.unread_positions
    mask = torch.ones(rows, rows).tril()[None, None]
    return {f"blocks.{block}.attn.mask": mask for block in range(config.depth)}


def _angles(config: XARConfig) -> dict[str, Tensor]:
    """What each block's rotary embedding keeps in xAR's files."""
    head_width = config.width // config.num_heads
    rotation = grid_rotation(token_places(config, torch.device("cpu")), head_width)
    return {
        "freqs": pair_frequencies(head_width, torch.device("cpu")),
        "freqs_cos": rotation.cosine.repeat_interleave(2, dim=1),
        "freqs_sin": rotation.sine.repeat_interleave(2, dim=1),
    }


def _xar_buffers(config: XARConfig) -> dict[str, Tensor]:
    angles = _angles(config)
    buffers = {"mask": _mask(config)}
    for half in ("encoder", "decoder"):
        for block in range(config.depth // 2):
            for name, value in angles.items():
                buffers[f"{half}_blocks.{block}.attn.rope.{name}"] = value.clone()
    return buffers


def _described(config: XARConfig | FARConfig) -> str:
    sizes = f"width {config.width}, depth {config.depth}, num_classes {config.num_classes}"
    if isinstance(config, XARConfig):
        return f"xAR: {sizes}, channels {config.channels}, grid_size {config.grid_size}"
    books = ", ".join(f"{item.name} {item.size}" for item in config.codebooks)
    variant = config.variant
    return (
        f"codebooks {books}; {sizes}, head_depth {config.head_depth}, variant {variant.block} with "
        f"{variant.class_input}"
    )
