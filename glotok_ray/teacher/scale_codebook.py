"""The codebook of a residual pyramid, clustered: no gradient reaches the tokenizer whose latents it codes.

Read next: glotok_ray/peers/glotok_scales.py
"""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from glotok_ray.config.scales import ScalesRun
from glotok_ray.peers.glotok_scales import GloTokScales
from glotok_ray.peers.multi_scale import upsampled
from glotok_ray.teacher import clustering
from glotok_ray.teacher.partial_sums import InMemory

logger = logging.getLogger(__name__)

_VECTORS_PER_GROUP = 65536
_LATENTS_PER_BLOCK = 256


class Explained(NamedTuple):
    """How much of the latents the scales stand for."""

    shares: list[float]
    """Of their summed squares, after the first scale, the first two, and so on."""


@torch.no_grad()
def fit_codebook(
    model: GloTokScales, latents: Float[Tensor, "n d h w"], config: ScalesRun
) -> Explained:
    """Cluster the model's codebook over the vectors of all scales, in `config.rounds` rounds.

    The first round clusters what each scale would leave over if its vectors were their own codes; each further one
    what the codes of the round before leave over. Raises ValueError for fewer vectors than codes, and for vectors that
    are too alike.
    """
    for place in range(config.rounds):
        vectors = _drawn_vectors(model, latents, config, place)
        if len(vectors) < config.num_codes:
            raise ValueError(
                f"num_codes = {config.num_codes}: only {len(vectors)} vectors of all scales are there; lower it, or "
                "raise num_images or vectors_per_scale"
            )
        found = clustering.fit(
            InMemory(vectors, spherical=False, groups=_groups(len(vectors))),
            config.num_codes,
            config.kmeans,
            seed=config.seed + place,
            stage=f"codebook, round {place + 1} of {config.rounds}",
            setting="num_codes",
        )
        model.codebook.copy_(torch.from_numpy(found.centroids))
        explained = explained_shares(model, latents)
        logger.info(
            "round %d of %d: all scales stand for %.1f %% of the latents",
            place + 1,
            config.rounds,
            100 * explained.shares[-1],
        )
    return explained


@torch.no_grad()
def explained_shares(model: GloTokScales, latents: Float[Tensor, "n d h w"]) -> Explained:
    """1 - |rest|^2 / |latents - their mean|^2 after every scale, over all images."""
    mean = latents.mean(dim=(0, 2, 3), keepdim=True)
    whole = float((latents - mean).double().square().sum())
    rests = np.zeros(len(model.config.sides))
    for block in latents.split(_LATENTS_PER_BLOCK):
        for scale, (_, rest) in enumerate(_pyramid(model, block, ideal=False)):
            rests[scale] += float(rest.double().square().sum())
    return Explained([1 - rest / whole for rest in rests])


def _pyramid(
    model: GloTokScales, latents: Tensor, *, ideal: bool
) -> Iterator[tuple[Float[Tensor, "b d p p"], Float[Tensor, "b d h w"]]]:
    """Per scale the vectors that are coded, and what is left over behind them."""
    rest = latents
    for scale, side in enumerate(model.config.sides):
        vectors = F.interpolate(rest, (side, side), mode="area")
        if ideal:
            rest = rest - upsampled(vectors, model.config.sides[-1])
        else:
            rest = rest - model.contribution(model.nearest(vectors), scale)
        yield vectors, rest


def _drawn_vectors(
    model: GloTokScales, latents: Tensor, config: ScalesRun, place: int
) -> Float[np.ndarray, "m d"]:
    """At most `vectors_per_scale` vectors of every scale."""
    found: list[list[np.ndarray]] = [[] for _ in model.config.sides]
    blocks = latents.split(_LATENTS_PER_BLOCK)
    for block in blocks:
        for scale, (vectors, _) in enumerate(_pyramid(model, block, ideal=place == 0)):
            rows = vectors.permute(0, 2, 3, 1).flatten(0, 2)
            found[scale].append(rows.float().cpu().numpy())
    drawn = []
    for scale, parts in enumerate(found):
        rows = np.concatenate(parts)
        count = min(len(rows), config.vectors_per_scale)
        generator = np.random.default_rng([config.seed, place, scale])
        drawn.append(rows[np.sort(generator.choice(len(rows), count, replace=False))])
    return np.concatenate(drawn)


def _groups(count: int) -> Sequence[Sequence[int]]:
    """Vectors in parts that bound the memory of a pass."""
    whole, rest = divmod(count, _VECTORS_PER_GROUP)
    return [[_VECTORS_PER_GROUP] * whole + ([rest] if rest else [])]
