"""Import a released tokenizer of another system, by the entry that `glotok_ray.peers.systems` has of it.

Read next: glotok_ray/peers/released.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.peers.released import System, rename
from glotok_ray.peers.systems import SYSTEMS, released
from glotok_ray.pretrained.peer_tokenizers import built
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import (
    AVERAGES,
    BRING_ANOTHER,
    check_finite,
    misfits,
    read_checkpoint,
    tensors_of,
    unnested,
    weights_in,
)

_AVERAGE = "model_ema."
"""Begins the names of averages that lie among the raw weights, without their dots."""
_COUNTERS = ("decay", "num_updates")
_LOSS = "loss."


class ImportedPeer(NamedTuple):
    """What was in the file."""

    model: PeerTokenizer
    """Frozen, on the CPU, in fp32."""
    system: str
    """A name of `SYSTEMS`."""
    left_out: tuple[str, ...]
    """Names in the file that inference has no use for."""
    sha256: str
    """Digest of the file."""


def import_peer(path: str | Path, name: str, *, weights: Literal["model", "ema"]) -> ImportedPeer:
    """Read the released file of that name; nothing in it is executed.

    `weights` takes the raw weights or demands their moving average. Raises ArtefactError, which lists missing, extra
    and misshapen tensors and those of another kind of number, or all that is not finite, and ValueError for an unknown
    name.
    """
    path = to_path(path)
    system_name, file = released(name)
    system = SYSTEMS[system_name]
    tensors = _tensors(path, weights)
    found, left_out = renamed(path, tensors, system, file.config)
    model = built(system_name, file.config)
    problems = misfits(found, model.state_dict())
    if problems:
        raise ArtefactError(
            f"{path}: does not hold the tokenizer {name} under the names of {system_name}: {problems}; bring the file "
            f"{file.file}"
        )
    check_finite(found, path, BRING_ANOTHER)
    model.load_state_dict(found, assign=True)
    model.requires_grad_(False)
    return ImportedPeer(model, system_name, left_out, artefact.sha256_of(path))


def renamed(
    path: Path, tensors: Mapping[str, Tensor], system: System, config: Any
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A file's tensors under our names, and the names of those that are left out; raises ArtefactError."""
    try:
        prepared = system.prepare(tensors, config)
    except ValueError as error:
        raise ArtefactError(f"{path}: {error}") from error
    table = system.names(config)
    found: dict[str, Tensor] = {}
    left_out = []
    for peer, value in prepared.items():
        name = rename(peer, table)
        if name is None:
            left_out.append(peer)
        else:
            # A second tensor of one name must not replace the first; so it shows up as an extra one.
            found[f"{name} from {peer}" if name in found else name] = value
    return found, tuple(left_out)


def _tensors(path: Path, weights: Literal["model", "ema"]) -> dict[str, Tensor]:
    """The raw weights, or their average, under the names in the file."""
    loaded = read_checkpoint(path, purpose="a tokenizer checkpoint")
    # Training files of VAR and of ImageFolder's generator hold the tokenizer beside the generator.
    loaded = unnested(unnested(loaded, ("trainer",)), ("vae_local",))
    has_entry = any(isinstance(loaded.get(nest), Mapping) for nest in AVERAGES)
    if weights == "ema" and has_entry:
        return tensors_of(weights_in(path, loaded, "ema"))
    tensors = tensors_of(weights_in(path, loaded, "model"))
    live = {
        name: value for name, value in tensors.items() if not name.startswith((_AVERAGE, _LOSS))
    }
    if weights == "model":
        return live
    averages = {
        name.removeprefix(_AVERAGE): value
        for name, value in tensors.items()
        if name.startswith(_AVERAGE)
    }
    if not averages:
        raise ArtefactError(
            f"{path}: holds no moving average, neither as an entry {' or '.join(AVERAGES)} nor under names that begin "
            f'with {_AVERAGE}; take weights = "model"'
        )
    return _with_dots(averages, live)


def _with_dots(averages: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Averages under the names of the raw weights, which lost their dots: "encoderconv_inweight". Averages that stand
    for no raw weight keep their names, so that they show up as extra ones.
    """
    dotted = {name.replace(".", ""): name for name in live}
    return {
        dotted.get(name, name): value for name, value in averages.items() if name not in _COUNTERS
    }
