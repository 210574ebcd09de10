"""Names of a peer's modules as rows (old, new), for whole groups of tensors at once.

Read next: glotok_ray/interop/var_generator.py
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from glotok_ray.storage.weights import misfits


def renamed(name: str, rows: Iterable[tuple[str, str]]) -> str | None:
    """The new name of a tensor by the first row (old, new) whose old name it has or begins with, up to a dot; None
    where no row fits. "#" stands for one number, the same in both.
    """
    for old, new in rows:
        pattern = re.escape(old).replace(r"\#", r"(\d+)")
        match = re.match(rf"{pattern}(?=\.|$)", name)
        if match:
            renamed = new.replace("#", match[1]) if match.groups() else new
            return renamed + name[match.end() :]
    return None


def under_peer_names(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    peer_name: Callable[[str], str | None],
    peer_shape: Callable[[str, Tensor], Sequence[int]],
) -> dict[str, Tensor]:
    """A state dict that fits `expected`, under the peer's names and in the shapes that it has there.

    Raises ValueError for the state of another model.
    """
    problems = misfits(state, expected)
    if problems:
        raise ValueError(f"state: does not fit the generator's config: {problems}")
    peers: dict[str, Tensor] = {}
    for name, value in state.items():
        peer = peer_name(name)
        assert peer is not None
        peers[peer] = value.reshape(peer_shape(peer, value))
    return peers
