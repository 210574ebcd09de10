"""The model card beside a generator's weights: what it is, where it comes from, how to use it, what was measured.

Read next: glotok_ray/pretrained/generator.py
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from glotok_ray.config.generator import FARConfig, FlowConfig, XARConfig
from glotok_ray.config.overrides import from_dict
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.var import ModelConfig, VARConfig
from glotok_ray.interop.tokenizer_card import shown_value
from glotok_ray.peers.systems import SYSTEMS
from glotok_ray.pretrained.generator import CONFIGS, TOKENIZER_FOLDER
from glotok_ray.storage import artefact

PEER_FILE = "generator_peer.safetensors"
"""The same weights under the names that the peer's own code loads."""

_USE = """```python
from glotok_ray.sampling.images import ImageGenerator

generator = ImageGenerator.from_pretrained("{folder}")
images = generator.generate([{labels}], seed=0)      # uint8, (2, height, width, 3)
```

Many at once: `python -m jobs.sample_images RECIPE --generator-path {folder} --tokenizer-path ""`, with a recipe of
{architecture}."""
_ARCHITECTURES = {"xar": "xAR", "far": "FAR", "var": "VAR", "rq": "RQ-Transformer"}
_NO_TOKENIZER = {
    "xar": (
        "The folder holds no tokenizer: these weights draw latents of MAR's KL-16 autoencoder, which this package does "
        "not have. `glotok_ray.sampling.flow.sample_latents` draws the latents; only that autoencoder makes images "
        "of them."
    ),
    "codes": (
        "The folder holds no tokenizer, without which codes are no images: export again with --tokenizer-path, the "
        "folder of the tokenizer that made the codes."
    ),
}
_PEERS = {
    "xar": "xAR's",
    "far": "FQGAN's",
    "llamagen_gpt": "LlamaGen's",
    "ibq_ar": "IBQ's",
    "taming_gpt": "taming-transformers'",
    "var": "VAR's",
    "imagefolder_var": "ImageFolder's",
    "rq_transformer": "RQ-Transformer's",
}
# Of the repositories that publish the weights, as they stated it when the importers were written.
_LICENCES = {
    "xar": "xAR's repository states none; ask its authors before weights are passed on",
    "far": "see FQGAN's repository",
    "llamagen_gpt": "MIT (LlamaGen)",
    "ibq_ar": "Apache-2.0 (SEED-Voken)",
    "taming_gpt": "MIT (taming-transformers)",
    "var": "MIT (VAR)",
    "imagefolder_var": (
        "Adobe Research License (ImageFolder): non-commercial research only, and so is all that is derived from them"
    ),
    "rq_transformer": (
        "CC-BY-NC-SA-4.0 (RQ-Transformer): non-commercial, and what is derived from them is shared alike; its code is "
        "Apache-2.0"
    ),
}
_NO_LICENCE = "VQGAN-LC's repository states none; ask its authors before weights are passed on"
_SHOWN_CLASSES = 8


class Card(NamedTuple):
    """What a card tells beyond generator.json."""

    folder: str
    """Name of the folder."""
    source: str
    """Who made the weights."""
    parameters: int
    has_tokenizer: bool
    peer_layout: str = ""
    """A layout of `glotok_ray.interop.generators` where the peer's file lies there too."""
    licence: str = ""
    """Of a peer's weights: `licence_of` their layout."""
    tokenizer_system: str = ""
    """A name of `glotok_ray.peers.systems.SYSTEMS` where the tokenizer is another system's."""


def licence_of(layout: str, model: ModelConfig) -> str:
    """The licence of the weights that a peer publishes in this layout, in words."""
    # VQGAN-LC has the layout of taming-transformers, and classes behind the codes.
    if isinstance(model, FARConfig) and model.variant.class_input == "after_codes":
        return _NO_LICENCE
    return _LICENCES[layout]


def generator_card(card: Card, facts: Mapping[str, Any], metrics: Mapping[str, object]) -> str:
    """The card as Markdown; `facts` are generator.json's, `metrics` the last values of metrics.jsonl."""
    architecture = facts["architecture"]
    model = from_dict(CONFIGS[architecture], facts["model"])
    labels = f"0, {model.num_classes - 1}"
    names = facts["classes"]
    more = ", ..." if len(names) > _SHOWN_CLASSES else ""
    sections = [
        f"# Image generator {card.folder}",
        f"Weights: {card.source}, with glotok-ray {artefact.versions()['git_commit'][:12] or '(no commit known)'}.",
        f"{_described(model, facts)} {card.parameters:,} parameters.",
        f"Licence of the weights: {card.licence}." if card.licence else "",
        f"Licence of the tokenizer: {SYSTEMS[card.tokenizer_system].licence}."
        if card.tokenizer_system
        else "",
        f"Classes: {model.num_classes}, labels from 0 in the order {', '.join(names[:_SHOWN_CLASSES])}{more}.",
        f"## Use\n\n{_use(card, architecture, labels)}",
        _peer_file(card.peer_layout, model),
        _metrics(metrics),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _described(model: ModelConfig, facts: Mapping[str, Any]) -> str:
    size = f"width {model.width}, depth {model.depth}, {model.num_heads} heads"
    if isinstance(model, FARConfig):
        books = " and ".join(f"{item.name} ({item.size} codes)" for item in model.codebooks)
        head = (
            f", a head of {model.head_depth} blocks over the codebooks" if model.head_depth else ""
        )
        return (
            f"A causal transformer over {model.grid_size} x {model.grid_size} positions, {size}{head}; "
            f"it draws {books}."
        )
    if isinstance(model, VARConfig):
        sides = ", ".join(map(str, model.scale_sides))
        each = f", {model.num_branches} at each position" if model.num_branches > 1 else ""
        return (
            f"VAR, a transformer over scales of {sides} positions a side, {model.num_indices} codes of "
            f"{model.num_codes} per image{each}, {size}."
        )
    if isinstance(model, RQConfig):
        return (
            f"RQ-Transformer, causal over {model.grid_size} x {model.grid_size} positions, {size}, with a head of "
            f"{model.head_depth} blocks over the {model.num_residuals} residual codes of each, of {model.num_codes}: "
            f"{model.num_indices} codes per image."
        )
    flow = from_dict(FlowConfig, facts["flow"])
    return (
        f"xAR with {flow.context} context over {model.num_entities} entities ({model.entity}) of "
        f"{model.grid_size} x {model.grid_size} latents of {model.channels} channels, {size}."
    )


def _use(card: Card, architecture: str, labels: str) -> str:
    if not card.has_tokenizer:
        return _NO_TOKENIZER["xar" if architecture == "xar" else "codes"]
    use = _USE.format(folder=card.folder, labels=labels, architecture=_ARCHITECTURES[architecture])
    return f"{use}\n\nThe tokenizer that decodes what it draws lies in {TOKENIZER_FOLDER}/."


def _peer_file(layout: str, model: ModelConfig) -> str:
    if not layout:
        return ""
    peer = _PEERS[layout]
    notes = [f"{PEER_FILE} holds the same weights under the names that {peer} code loads."]
    if isinstance(model, XARConfig):
        notes.append(
            "That code multiplies latents outside the model, so what generator.json calls latent_scale must replace "
            "its 0.2325."
        )
    unlike = [
        f"{name} = {have} (there {need})"
        for name, (have, need) in _fixed_in_peer(model).items()
        if have != need
    ]
    if unlike:
        notes.append(
            f"As released it has other sizes, which must be changed first: {', '.join(unlike)}."
        )
    return " ".join(notes)


def _fixed_in_peer(model: ModelConfig) -> dict[str, tuple[object, object]]:
    """Sizes that stand in the peer's code instead of its config: ours and theirs."""
    if isinstance(model, XARConfig):
        return {
            "grid_size": (model.grid_size, 16),
            "channels": (model.channels, 16),
            "mlp_multiple": (model.mlp_multiple, 1),
        }
    if isinstance(model, VARConfig | RQConfig):
        return {}
    sizes = list(model.code_counts.values())
    if model.variant.block == "gpt":
        return {}
    return {
        "codebook sizes": (", ".join(map(str, sizes)), ", ".join([str(sizes[0])] * len(sizes))),
        "mlp_multiple": (model.mlp_multiple, 256),
    }


def _metrics(metrics: Mapping[str, object]) -> str:
    shown = {
        name: value
        for name, value in sorted(metrics.items())
        if name.startswith("train/") and name != "train/learning_rate"
    }
    if not shown:
        return ""
    note = "Losses of the raw weights on the training codes. How good the images are, `jobs.evaluate_images` tells."
    rows = "\n".join(
        f"| {name.removeprefix('train/')} | {shown_value(value)} |" for name, value in shown.items()
    )
    return f"## Last losses of the run\n\n{note}\n\n| loss | value |\n|---|---|\n{rows}"
