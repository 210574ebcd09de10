"""Names of tensors in other projects' tokenizer checkpoints, and the same under this package's, as tables.

The layouts are LlamaGen's, FQGAN's (dual and triple) and taming-transformers'; all share one trunk.
Read next: glotok_ray/interop/tokenizers.py
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from glotok_ray.peers.taming_names import TAMING, TRUNK

Table = tuple[tuple[str, str], ...]
"""(regular expression, replacement); every row is applied, in order."""

_TRUNK: Table = (*TRUNK, (r"^post_quant_conv\.", r"decoder_projection."))

_ONE_BRANCH: Table = (
    (r"^encoder\.(norm|conv)_out\.", r"encoder.head.\1."),
    (r"^quant_conv\.", r"branches.visual.projection."),
    (r"^quantize\.embedding\.weight$", r"branches.visual.quantizer.codebook"),
)

# Dual checkpoints end in "sem"; triple ones in "sem_mid" and "sem_high". The first branch has no head of its own.
_BRANCHES: Table = (
    (r"^encoder\.(visual|semantic)_head(_mid|_high)?\.0\.", r"branches.\1\2.adapter."),
    (r"^encoder\.(norm|conv)_out_vis\.", r"encoder.head.\1."),
    (r"^encoder\.(norm|conv)_out_sem(_mid|_high)?\.", r"branches.semantic\2.head.\1."),
    (r"^quant_conv_vis\.", r"branches.visual.projection."),
    (r"^quant_conv_sem(_mid|_high)?\.", r"branches.semantic\1.projection."),
    (r"^quantize_vis\.embedding\.weight$", r"branches.visual.quantizer.codebook"),
    (
        r"^quantize_sem(_mid|_high)?\.embedding\.weight$",
        r"branches.semantic\1.quantizer.codebook",
    ),
    (r"^feat_pred_head\.", r"branches.semantic.contrast."),
    (r"^(mid|high)_sem_feat_pred\.", r"branches.semantic_\1.contrast."),
)

# Inside adapters and feature heads.
_TRANSFORMER: Table = (
    (r"\.positional_embedding$", r".positions"),
    (r"\.class_embedding$", r".class_token"),
    (r"\.upscale\.", r".expand."),
    (r"\.ln_pre\.", r".norm_in."),
    (r"\.ln_post\.", r".norm_out."),
    (r"\.transformer\.(\d+)\.", r".blocks.\1."),
    (r"\.ln_1\.", r".attention_norm."),
    (r"\.ln_2\.", r".mlp_norm."),
    (r"\.attn\.in_proj_", r".query_key_value."),
    (r"\.attn\.out_proj\.", r".projection."),
    (r"\.mlp\.c_fc\.", r".mlp.0."),
    (r"\.mlp\.c_proj\.", r".mlp.2."),
)

# Counters of used codes, and the perceptual network that Lightning saves with the loss.
_LEFT_OUT = re.compile(r"\.codebook_used$|^loss\.perceptual_loss\.")
_TAMING_DECODER_LEVEL = re.compile(r"^decoder\.up\.(\d+)\.")


class Layout(NamedTuple):
    """One way to name the same parts."""

    marks: tuple[str, ...]
    """Beginnings of names, each of which occurs in every such checkpoint."""
    codebooks: tuple[str, ...]
    """Our names of the branches, in the order of the decoder's channels."""
    table: Table


# In the order of detection: a triple checkpoint has the marks of a dual one too.
LAYOUTS = {
    "taming": Layout(("encoder.down.0.",), ("visual",), (*TAMING, *_TRUNK, *_ONE_BRANCH)),
    "fqgan_triple": Layout(
        ("encoder.visual_head.", "encoder.semantic_head_mid."),
        ("visual", "semantic_mid", "semantic_high"),
        (*_TRUNK, *_BRANCHES, *_TRANSFORMER),
    ),
    "fqgan": Layout(
        ("encoder.visual_head.",),
        ("visual", "semantic"),
        (*_TRUNK, *_BRANCHES, *_TRANSFORMER),
    ),
    "llamagen": Layout(
        ("encoder.conv_blocks.", "quantize.embedding.weight"),
        ("visual",),
        (*_TRUNK, *_ONE_BRANCH),
    ),
}


def detect(names: Iterable[str]) -> str | None:
    """The layout that a checkpoint's names follow; None for an unknown one."""
    known = tuple(names)
    for layout, (marks, _, _) in LAYOUTS.items():
        if all(any(name.startswith(mark) for name in known) for mark in marks):
            return layout
    return None


def count_levels(names: Iterable[str]) -> int:
    """Resolution levels of taming's decoder; 0 for the other layouts, whose levels keep their numbers."""
    found = (_TAMING_DECODER_LEVEL.match(name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def rename(name: str, layout: str, levels: int) -> str | None:
    """Our name of a peer's tensor; None where it is left out on purpose. Unknown names come back as they are.

    `levels` is what `count_levels` found among all names.
    """
    if _LEFT_OUT.search(name):
        return None
    name = _turned(name, levels)
    for pattern, replacement in LAYOUTS[layout].table:
        name = re.sub(pattern, replacement, name)
    return name


def rename_discriminator(name: str) -> str:
    """Our name of a tensor of PatchGAN, which all these projects name alike."""
    return re.sub(r"^main\.", "layers.", name)


def _turned(name: str, levels: int) -> str:
    # taming counts its decoder's levels from the highest resolution, we and LlamaGen from the lowest.
    return _TAMING_DECODER_LEVEL.sub(
        lambda match: f"decoder.conv_blocks.{levels - 1 - int(match[1])}.", name
    )
