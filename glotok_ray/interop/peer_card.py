"""The model card beside an imported tokenizer of another system: whose it is, its licence, its rate, how to use it.

Read next: glotok_ray/peers/released.py
"""

from pathlib import Path

from glotok_ray.interop.tokenizer_card import CARD_FILE
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.released import Released
from glotok_ray.peers.systems import SYSTEMS, released
from glotok_ray.storage import artefact

_USE = """```python
from pathlib import Path

import torch
from glotok_ray.pretrained.tokenizer import load_tokenizer

tokenizer = load_tokenizer(Path("{folder}"))
images = torch.rand(1, 3, {side}, {side}) * 2 - 1      # in [-1, 1]
codes = tokenizer.encode(images)
again = tokenizer.decode(codes)
```"""


def write_peer_card(folder: Path, model: PeerTokenizer, name: str, *, source: str) -> None:
    """Write README.md; `name` is that of the released file, `source` says where the weights came from."""
    (folder / CARD_FILE).write_text(peer_card(model, name, source=source, folder=folder.name))


def peer_card(model: PeerTokenizer, name: str, *, source: str, folder: str) -> str:
    """The card as Markdown."""
    system, file = released(name)
    rate = model.rate
    grids = "\n".join(
        f"| {' x '.join(map(str, grid.shape))} | {grid.num_codes:,} |" for grid in rate.grids
    )
    sides = (
        f"sides must be multiples of {model.side_multiple}"
        if model.side_multiple
        else "it takes no other size"
    )
    sections = [
        f"# Image tokenizer {folder}",
        f"**Licence: {SYSTEMS[system].licence}.** It is the authors', and binds whoever uses or passes on these "
        "weights.",
        f"Weights: {source}, with glotok-ray {artefact.versions()['git_commit'][:12] or '(no commit known)'}. The "
        f"authors offer the file as {file.file}.",
        f"Made for {model.image_size} x {model.image_size} pixels; {sides}. {rate.num_indices} indices and "
        f"{rate.bits:,.0f} bits per image; {sum(model.module_parameters().values()):,} parameters.",
        f"| grid | codes |\n|---|---|\n{grids}",
        _published(file),
        "## Use\n\n" + _USE.format(folder=folder, side=model.image_size),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _published(file: Released) -> str:
    """The authors' own numbers as a sentence; empty without any."""
    numbers = [
        f"{what} {value:g}{unit}"
        for what, value, unit in (("rFID", file.rfid, ""), ("PSNR", file.psnr, " dB"))
        if value is not None
    ]
    if not numbers and not file.source:
        return ""
    return f"Published: {', '.join(numbers) or 'no rFID'} ({file.source})."
