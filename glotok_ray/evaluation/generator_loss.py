"""What a generator has learned of labels: its training loss on the codes of unseen images, with their labels and with
others.

Read next: glotok_ray/losses/flow_matching.py, glotok_ray/losses/token_prediction.py
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.generator import FlowConfig
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.losses.flow_matching import NoisyBatch, draw_noisy_batch, flow_matching_losses
from glotok_ray.losses.token_prediction import token_prediction_losses
from glotok_ray.nn.entities import code_entities
from glotok_ray.nn.far import FAR
from glotok_ray.nn.next_scale import ScaleTokenizer, codes_by_scale, next_scale_inputs
from glotok_ray.nn.rq_transformer import ResidualTokenizer, RQTransformer
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.var import VAR
from glotok_ray.nn.xar import XAR
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.pretrained.generator import flow_config, load_generator
from glotok_ray.storage.places import to_path

LOSS, SHUFFLED, UNLEARNED = "generator_loss", "generator_loss_shuffled_labels", "unlearned_loss"
"""Arrays of one number per image: the loss with its label, with another one, and of a model that learned nothing."""


def other_labels(
    labels: Integer[np.ndarray, " b"], image_ids: Sequence[int], num_classes: int, seed: int
) -> Int64[np.ndarray, " b"]:
    """For each image a label that is not its own, all others equally likely, keyed by (seed, image); `num_classes` is
    at least 2.
    """
    steps = [
        seeded_generator("other label", seed, image).integers(1, num_classes) for image in image_ids
    ]
    return (labels + np.array(steps)) % num_classes


class Codes(NamedTuple):
    """The codes of a batch of images, and what tells the images apart."""

    grids: Sequence[Int64[Tensor, "b ..."]]
    """On the generator's device, codebooks or grids in the tokenizer's order."""
    labels: Integer[np.ndarray, " b"]
    image_ids: Sequence[int]


class GeneratorLoss(ABC):
    """The loss of a frozen generator per image, without dropout and without dropped labels."""

    def __init__(self, num_classes: int, seed: int) -> None:
        self._num_classes, self._seed = num_classes, seed

    def __call__(self, codes: Codes) -> dict[str, Float[np.ndarray, " b"]]:
        """LOSS, SHUFFLED (NaN where there is a single class) and UNLEARNED."""
        labels = [codes.labels.astype(np.int64)]
        if self._num_classes > 1:
            labels.append(
                other_labels(codes.labels, codes.image_ids, self._num_classes, self._seed)
            )
        device = codes.grids[0].device
        *found, unlearned = self._losses(
            codes, [torch.from_numpy(each).to(device) for each in labels]
        )
        arrays = [each.double().cpu().numpy() for each in found]
        if self._num_classes < 2:
            arrays.append(np.full(len(arrays[0]), np.nan))
        return dict(zip((LOSS, SHUFFLED), arrays, strict=True)) | {
            UNLEARNED: unlearned.double().cpu().numpy()
        }

    @abstractmethod
    def _losses(self, codes: Codes, labels: Sequence[Int64[Tensor, " b"]]) -> list[Tensor]:
        """The loss of each image under each of `labels`, and then that of a model that learned nothing."""


class FlowLoss(GeneratorLoss):
    """Flow matching of xAR, the mean over several draws of noise and times, which are the same for all labels.

    UNLEARNED is that of a velocity of zero.
    """

    def __init__(
        self,
        generator: XAR,
        tokenizer: GloTokTokenizer,
        flow: FlowConfig,
        *,
        num_draws: int,
        seed: int,
    ) -> None:
        super().__init__(generator.config.num_classes, seed)
        self._generator, self._tokenizer, self._flow = generator, tokenizer, flow
        self._num_draws = num_draws

    def _losses(self, codes: Codes, labels: Sequence[Tensor]) -> list[Tensor]:
        generator = self._generator
        clean = code_entities(
            torch.stack(tuple(codes.grids), dim=1),
            self._tokenizer,
            generator.latent_scale,
            generator.config,
            self._flow,
        )
        totals = [torch.zeros(len(clean), device=clean.device) for _ in range(len(labels) + 1)]
        for draw in range(self._num_draws):
            drawn = self._drawn(clean, codes.image_ids, draw)
            velocities = [
                generator(drawn.tokens, drawn.times, each, *drawn.context) for each in labels
            ]
            velocities.append(torch.zeros_like(clean))
            for total, velocity in zip(totals, velocities, strict=True):
                total += flow_matching_losses(velocity, clean, drawn.noise) / self._num_draws
        return totals

    def _drawn(self, clean: Tensor, image_ids: Sequence[int], draw: int) -> NoisyBatch:
        """Noise and times keyed by (seed, image, draw), so that batches change no loss."""
        lengths, parts = self._generator.config.entity_lengths, []
        for place, image in enumerate(image_ids):
            key = seeded_generator("noise", self._seed, image, draw).integers(2**32)
            source = torch.Generator().manual_seed(int(key))
            parts.append(
                draw_noisy_batch(clean[place : place + 1].cpu(), lengths, self._flow, source)
            )
        tokens, times, noise = (
            torch.cat(column).to(clean.device)
            for column in zip(*(part[:3] for part in parts), strict=True)
        )
        return NoisyBatch(tokens, times, noise, (clean,) if parts[0].context else ())


class TokenLoss(GeneratorLoss):
    """Cross-entropy of the next codes of FAR and of LlamaGen's GPT, which no draw changes.

    A model that learned nothing takes all codes of a codebook for equally likely.
    """

    def __init__(
        self, generator: FAR, tokenizer: GloTokTokenizer | PeerTokenizer, *, seed: int
    ) -> None:
        super().__init__(generator.config.num_classes, seed)
        self._generator = generator
        names, predicted = tokenizer.grid_names, generator.config.names
        # A FAR may predict the codebooks in another order than the decoder's channels have; a single one needs no name.
        self._order = [names.index(name) for name in predicted] if len(predicted) > 1 else [0]

    def _losses(self, codes: Codes, labels: Sequence[Tensor]) -> list[Tensor]:
        indices = torch.stack([codes.grids[place].flatten(1) for place in self._order], dim=1)
        found = [
            token_prediction_losses(self._generator(indices, each), indices) for each in labels
        ]
        sizes = [codebook.size for codebook in self._generator.config.codebooks]
        uniform = sum(math.log(size) for size in sizes) / len(sizes)
        return [*found, torch.full_like(found[0], uniform)]


class ScaleLoss(GeneratorLoss):
    """Cross-entropy of the codes of all scales of VAR, each scale given those before it; no draw changes it.

    A model that learned nothing takes all codes for equally likely.
    """

    def __init__(self, generator: VAR, tokenizer: ScaleTokenizer, *, seed: int) -> None:
        super().__init__(generator.config.num_classes, seed)
        self._generator, self._tokenizer = generator, tokenizer

    def _losses(self, codes: Codes, labels: Sequence[Tensor]) -> list[Tensor]:
        config = self._generator.config
        grids = [grid.flatten(1) for grid in codes.grids]
        scales = codes_by_scale(grids, config.num_branches)
        inputs = next_scale_inputs(scales, config.scale_sides, self._tokenizer.contribution)
        indices = torch.cat(scales, dim=-1).reshape(len(inputs), config.num_branches, -1)
        found = [
            token_prediction_losses(
                self._generator.logits_by_branch(self._generator(inputs, each)), indices
            )
            for each in labels
        ]
        return [*found, torch.full_like(found[0], math.log(config.num_codes))]


class ResidualLoss(GeneratorLoss):
    """Cross-entropy of the codes of all depths of RQ-Transformer, each given those before it; no draw changes it.

    A model that learned nothing takes all codes for equally likely.
    """

    def __init__(
        self, generator: RQTransformer, tokenizer: ResidualTokenizer, *, seed: int
    ) -> None:
        super().__init__(generator.config.num_classes, seed)
        self._generator, self._codebook = generator, tokenizer.codebook

    def _losses(self, codes: Codes, labels: Sequence[Tensor]) -> list[Tensor]:
        indices = codes.grids[0].flatten(1, 2)
        vectors = self._codebook[indices]
        found = [
            token_prediction_losses(
                self._generator(vectors, each).unbind(dim=2), indices.transpose(1, 2)
            )
            for each in labels
        ]
        uniform = math.log(self._generator.config.num_codes)
        return [*found, torch.full_like(found[0], uniform)]


def build_generator_loss(
    config: EvaluateRun, tokenizer: GloTokTokenizer | PeerTokenizer
) -> GeneratorLoss:
    """The loss of the generator at `generator_path`, with its averaged weights where it has them, on the device of
    `tokenizer`, which is the one whose codes it was trained on.
    """
    folder = to_path(config.generator_path)
    device = next(tokenizer.parameters()).device
    generator = load_generator(folder, use_ema=True).to(device)
    if isinstance(generator, XAR):
        assert isinstance(tokenizer, GloTokTokenizer)  # no other tokenizer has its latents
        return FlowLoss(
            generator,
            tokenizer,
            flow_config(folder),
            num_draws=config.generator_draws,
            seed=config.seed,
        )
    if isinstance(generator, VAR):
        assert isinstance(tokenizer, ScaleTokenizer)
        return ScaleLoss(generator, tokenizer, seed=config.seed)
    if isinstance(generator, RQTransformer):
        assert isinstance(tokenizer, ResidualTokenizer)
        return ResidualLoss(generator, tokenizer, seed=config.seed)
    return TokenLoss(generator, tokenizer, seed=config.seed)
