"""The model card beside a tokenizer's weights: what it is, where it comes from, how to use it, what was measured.

Read next: glotok_ray/nn/tokenizer.py
"""

from collections.abc import Mapping
from pathlib import Path

from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.storage import artefact

CARD_FILE = "README.md"
_USE = """```python
import torch
from glotok_ray.nn.tokenizer import GloTokTokenizer

tokenizer = GloTokTokenizer.from_pretrained("{folder}")
images = torch.rand(1, 3, {side}, {side}) * 2 - 1      # in [-1, 1]
codes = tokenizer.encode(images)                     # (1, {books}, {grid}, {grid}), int64
again = tokenizer.decode(codes)                      # the reconstruction
```"""


def write_model_card(
    folder: Path, config: TokenizerConfig, metrics: Mapping[str, object], *, source: str
) -> None:
    """Write README.md; `metrics` are the last values of metrics.jsonl, `source` says who made the weights."""
    (folder / CARD_FILE).write_text(model_card(config, metrics, source=source, folder=folder.name))


def model_card(
    config: TokenizerConfig, metrics: Mapping[str, object], *, source: str, folder: str
) -> str:
    """The card as Markdown."""
    trunk = config.autoencoder
    books = "\n".join(
        f"| {item.name} | {item.size} | {item.width} | {item.lookup} |" for item in config.codebooks
    )
    use = _USE.format(
        folder=folder, side=trunk.image_size, books=len(config.codebooks), grid=trunk.grid_size
    )
    residual = "with" if config.residual.enabled else "without"
    adapters = (
        f"adapters of {config.adapter.depth} blocks" if config.adapter.depth else "no adapters"
    )
    sections = [
        f"# Image tokenizer {folder}",
        f"Weights: {source}, with glotok-ray {artefact.versions()['git_commit'][:12] or '(no commit known)'}.",
        f"Trained at {trunk.image_size} pixels, {trunk.grid_size} x {trunk.grid_size} positions per codebook; "
        f"{adapters}, {residual} residual predictors. Sides must be multiples of {trunk.downsample_factor}; on another "
        "grid than the trained one the learned positions are interpolated (bicubic), which was not trained for.",
        "| codebook | codes | width | look-up |\n|---|---|---|---|\n" + books,
        "## Use\n\n" + use,
        _metrics(metrics),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def shown_value(value: object) -> str:
    """A metric of metrics.jsonl, in which null stands for what was not finite."""
    return "not finite" if value is None else f"{value:.4g}"


def _metrics(metrics: Mapping[str, object]) -> str:
    shown = {name: value for name, value in sorted(metrics.items()) if name.startswith("eval/")}
    if not shown:
        return ""
    note = "PSNR in dB on the validation images of the run; usage since the evaluation before."
    if "eval/average_psnr" in shown:
        note += " These weights are averages: average_psnr is theirs, the other metrics are of the raw weights."
    rows = "\n".join(
        f"| {name.removeprefix('eval/')} | {shown_value(value)} |" for name, value in shown.items()
    )
    return f"## Last evaluation of the run\n\n{note}\n\n| metric | value |\n|---|---|\n{rows}"
