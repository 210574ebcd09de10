"""OpenAI's CLIP in the naming of the Hugging Face library, which FQGAN loads, as timm's vision transformer names it.

OpenAI's own naming, and open_clip's, timm converts itself. Read next: glotok_ray/teacher/networks.py
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_TOWER = "vision_model."
_NAMES = {
    # The library's own spelling.
    "pre_layrnorm": "norm_pre",
    "post_layernorm": "norm",
    "embeddings.patch_embedding": "patch_embed.proj",
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding.weight": "pos_embed",
    "encoder.layers.": "blocks.",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
}
_PART = re.compile(r"self_attn\.([qkv])_proj\.")
# Numbers of the positions, which older versions stored.
_LEFT_OUT = "embeddings.position_ids"


def is_hugging_face(stored: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a CLIPModel or of one of its vision towers."""
    return f"{_TOWER}embeddings.class_embedding" in stored


def from_hugging_face(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower under timm's names; the text tower is left out.

    Queries, keys and values become one matrix. The projection has no bias there; timm's has one, of zeros.
    """
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in stored.items():
        if not name.startswith(_TOWER) or name.endswith(_LEFT_OUT):
            continue
        name = name.removeprefix(_TOWER)
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        match = _PART.search(name)
        if match:
            joined = name.replace(match.group(), "attn.qkv.")
            parts.setdefault(joined, {})[match.group(1)] = value
        else:
            found[name] = value
    for name, three in parts.items():
        # One that is missing leaves a matrix that is too small, which is told as such.
        found[name] = torch.cat([three[part] for part in "qkv" if part in three])
    found["cls_token"] = found["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in found:
        found["pos_embed"] = found["pos_embed"].unsqueeze(0)
    if "visual_projection.weight" in stored:
        projection = stored["visual_projection.weight"]
        found["head.weight"] = projection
        found["head.bias"] = projection.new_zeros(len(projection))
    return found
