"""Which networks a teacher may ask for, and their weights: a local file, timm's download, or the package's own.

Everything that can be told without reading weights is checked first. Read next: glotok_ray/teacher/features.py
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from glotok_ray.config.teacher import FeatureNetworkConfig
from glotok_ray.pretrained.feature_networks import EfficientNetLite0, tensors_sha256
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import BRING_ANOTHER, FLOATS, check_finite, misfits
from glotok_ray.teacher.clip_names import from_hugging_face, is_hugging_face

# timm is imported where it is used: a command's --help should be quick.
if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

EMBEDDED = "efficientnet_lite0"


class Network(NamedTuple):
    """A vision transformer of timm, or the embedded network."""

    architecture: str
    """timm's name with the tag of its weights; empty for the embedded network."""
    side: int
    """Pixels from one feature vector to the next."""
    depth: int = 0
    """Blocks of a transformer."""
    width: int = 0
    """Channels between the blocks."""
    projected_width: int = 0
    """Channels of the space that CLIP shares with text; 0 without a projection to it."""

    @property
    def is_clip(self) -> bool:
        """Has a projection to the space that CLIP shares with text."""
        return self.projected_width > 0

    @property
    def is_dinov2(self) -> bool:
        """Without registers, whose tables of positions timm keeps in another form."""
        return "_dinov2." in self.architecture and "_reg" not in self.architecture


# OpenAI trained CLIP with QuickGELU, a cheaper approximation of GELU; timm's plain `clip` models
# would run the same weights with GELU.
# Depths and widths are stated, since timm takes seconds to import; the tests compare them with timm's.
NETWORKS = {
    EMBEDDED: Network("", 32, width=1280),
    "dinov2_vits14": Network("vit_small_patch14_dinov2.lvd142m", 14, 12, 384),
    "dinov2_vitb14": Network("vit_base_patch14_dinov2.lvd142m", 14, 12, 768),
    "dinov2_vitl14": Network("vit_large_patch14_dinov2.lvd142m", 14, 24, 1024),
    "dinov2_vitg14": Network("vit_giant_patch14_dinov2.lvd142m", 14, 40, 1536),
    "dinov2_vits14_reg": Network("vit_small_patch14_reg4_dinov2.lvd142m", 14, 12, 384),
    "dinov2_vitb14_reg": Network("vit_base_patch14_reg4_dinov2.lvd142m", 14, 12, 768),
    "dinov2_vitl14_reg": Network("vit_large_patch14_reg4_dinov2.lvd142m", 14, 24, 1024),
    "dinov2_vitg14_reg": Network("vit_giant_patch14_reg4_dinov2.lvd142m", 14, 40, 1536),
    "clip_vitb16": Network("vit_base_patch16_clip_quickgelu_224.openai", 16, 12, 768, 512),
    "clip_vitl14": Network("vit_large_patch14_clip_quickgelu_224.openai", 14, 24, 1024, 768),
}


def check_network(config: FeatureNetworkConfig) -> None:
    """Everything about the network that can be told before its weights are read.

    Raises ValueError for fields that do not fit the network, and ArtefactError for a local weights file that is
    missing or has another sha256.
    """
    if config.name not in NETWORKS:
        raise ValueError(
            f"{config.full_name('name')} = {config.name!r}: unknown; choose one of {', '.join(NETWORKS)}"
        )
    if config.weights_sha256 and not config.weights_path:
        raise ValueError(
            f"{config.full_name('weights_sha256')} = {config.weights_sha256!r}: is the digest of the file at "
            f"{config.full_name('weights_path')}, which is empty; give both, or leave both empty"
        )
    if config.name == EMBEDDED:
        _check_embedded(config)
    else:
        _check_transformer(config)
    if config.weights_path:
        _check_file(config)


def _check_embedded(config: FeatureNetworkConfig) -> None:
    if config.weights_path:
        raise ValueError(
            f"{weights_source(config)}: {EMBEDDED} ships with the package; leave it empty"
        )
    usual = FeatureNetworkConfig()
    for name in ("block", "final_norm", "projected"):
        value = getattr(config, name)
        if value != getattr(usual, name):
            raise ValueError(
                f"{config.full_name(name)} = {value}: applies to vision transformers; {EMBEDDED} has one map, "
                f"so leave it at {getattr(usual, name)}"
            )


def _check_transformer(config: FeatureNetworkConfig) -> None:
    network = NETWORKS[config.name]
    if config.input_size < network.side or config.input_size % network.side:
        below = config.input_size // network.side * network.side
        nearest = [str(size) for size in (below, below + network.side) if size > 0]
        raise ValueError(
            f"{config.full_name('input_size')} = {config.input_size}: must be a multiple of the patch side "
            f"{network.side} of {config.name}; take {' or '.join(nearest)}"
        )
    if config.projected and not network.is_clip:
        raise ValueError(
            f"{config.full_name('projected')} = True: {config.name} has no projection; turn it off, or choose one of "
            f"{', '.join(name for name, other in NETWORKS.items() if other.is_clip)}"
        )
    if config.projected and not config.final_norm:
        raise ValueError(
            f"{config.full_name('projected')} = True: CLIP's projection follows its last LayerNorm; turn "
            f"{config.full_name('final_norm')} on"
        )
    depth = network.depth
    if not -depth <= config.block <= -1:
        raise ValueError(
            f"{config.full_name('block')} = {config.block}: {config.name} has {depth} blocks; "
            f"take one from -{depth} (the first) to -1 (the last)"
        )


def _check_file(config: FeatureNetworkConfig) -> None:
    path = to_path(config.weights_path)
    if not path.is_file():
        raise ArtefactError(f"{weights_source(config)}: no such file; {file_to_bring(config)}")
    if config.weights_sha256 and artefact.sha256_of(path) != config.weights_sha256.lower():
        raise ArtefactError(
            f"{weights_source(config)}: has sha256 {artefact.sha256_of(path)}, while "
            f"{config.full_name('weights_sha256')} expects {config.weights_sha256}; bring the file that was meant, or "
            "correct the digest"
        )


def file_to_bring(config: FeatureNetworkConfig) -> str:
    """The remedy where the weights file is another than the network's."""
    facts = timm_facts(config)
    release = (
        f" or the original release's {facts['url'].rpartition('/')[2]}" if facts["url"] else ""
    )
    return (
        f"for {config.name} bring model.safetensors of the Hugging Face repository "
        f"{facts['hf_hub_id']}{release}, and name the file in {config.full_name('weights_path')}"
    )


def weights_source(config: FeatureNetworkConfig) -> str:
    """Where the weights come from, as messages name it."""
    if not config.weights_path:
        return "timm's download"
    return f"{config.full_name('weights_path')} = {config.weights_path!r}"


def timm_facts(config: FeatureNetworkConfig) -> dict[str, Any]:
    """timm's record of the pretrained weights: where they are, and how pixels are normalised."""
    import timm

    facts = timm.get_pretrained_cfg(NETWORKS[config.name].architecture)
    assert facts is not None
    return dataclasses.asdict(facts)


def weights_digest(config: FeatureNetworkConfig) -> str:
    """sha256 of the weights: of the file at weights_path, or else of the tensors in the order of
    their names.

    Reads (or downloads) all weights. Raises what `build_feature_network` raises for weights that cannot be had.
    """
    check_network(config)
    if config.weights_path:
        return artefact.sha256_of(to_path(config.weights_path))
    embedded = config.name == EMBEDDED
    tensors = EfficientNetLite0().state_dict() if embedded else stored_tensors(config)
    return tensors_sha256(tensors)


def transformer_without_weights(config: FeatureNetworkConfig) -> "VisionTransformer":
    """All of timm's transformer at `input_size` on the meta device: shapes alone, in no memory."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        transformer = timm.create_model(
            NETWORKS[config.name].architecture,
            img_size=config.input_size,
            weight_init="skip",
            use_naflex=False,
        )
    assert isinstance(transformer, VisionTransformer)
    return transformer


def stored_tensors(config: FeatureNetworkConfig) -> dict[str, Tensor]:
    """Tensors under the names of the file at weights_path, or of the download that timm keeps."""
    if not config.weights_path:
        from timm.models import load_state_dict_from_hf

        try:
            return load_state_dict_from_hf(timm_facts(config)["hf_hub_id"])
        except OSError as error:
            raise ArtefactError(
                f"{config.full_name('weights_path')} is empty, and timm could not download the weights ({error}); "
                f"{file_to_bring(config)}"
            ) from error
    path = to_path(config.weights_path)
    try:
        if path.suffix == ".safetensors":
            stored = load_file(at_hand(path))
        else:
            stored = torch.load(at_hand(path), map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many untyped errors for foreign files
        raise ArtefactError(
            f"{weights_source(config)}: cannot be read as .safetensors or as tensors "
            f"saved by torch.save ({error}); of a TorchScript archive, which OpenAI's CLIP files "
            f"are, save the state_dict() first; {file_to_bring(config)}"
        ) from error
    for wrapper in ("model", "state_dict"):
        stored = stored.get(wrapper, stored) if isinstance(stored, Mapping) else stored
    if not isinstance(stored, Mapping) or not all(
        isinstance(value, Tensor) for value in stored.values()
    ):
        raise ArtefactError(
            f"{weights_source(config)}: holds no plain state dict of tensors; "
            f"{file_to_bring(config)}"
        )
    return dict(stored)


def fitting_tensors(
    stored: dict[str, Tensor], transformer: "VisionTransformer", config: FeatureNetworkConfig
) -> dict[str, Tensor]:
    """`stored` under timm's names, with positions for `input_size`; raises ArtefactError that lists
    what does not fit.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    source = weights_source(config)
    if is_hugging_face(stored):
        stored = from_hugging_face(stored)
    side = NETWORKS[config.name].side
    for name, value in stored.items():
        # timm would resample patches of another side, and take ViT-B/32 for ViT-B/16.
        is_patch = name.endswith(("patch_embed.proj.weight", "conv1.weight"))
        if is_patch and value.shape[-1:] != (side,):
            raise ArtefactError(
                f"{source}: {name} has shape {tuple(value.shape)}, while patches of "
                f"{config.name} have {side} pixels; {file_to_bring(config)}"
            )
        # The conversion below would take whole numbers for weights.
        if value.dtype not in FLOATS:
            raise ArtefactError(
                f"{source}: {name} holds {value.dtype}, must be floating-point numbers of 16, 32 or 64 bits; "
                f"{file_to_bring(config)}"
            )
    try:
        # In fp32 first: positions resampled in a file's half precision would be rounded.
        floats = {name: value.float() for name, value in stored.items()}
        found = checkpoint_filter_fn(floats, transformer)
    except Exception as error:  # timm resamples positions of whatever shape
        raise ArtefactError(
            f"{source}: timm cannot convert these tensors for {config.name} ({error}); "
            f"{file_to_bring(config)}"
        ) from error
    problems = misfits(found, transformer.state_dict())
    if problems:
        raise ArtefactError(
            f"{source}: does not fit {config.name}: {problems}; {file_to_bring(config)}"
        )
    check_finite(found, source, BRING_ANOTHER)
    return found
