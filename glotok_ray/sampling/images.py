"""From class labels to images: a generator and the tokenizer that decodes what it draws, xAR, FAR, VAR and
RQ-Transformer alike.

A generator's folder holds all that is needed. An image depends on its label, its id and the seed alone, up to the
rounding of sums in batches of another size.
Read next: glotok_ray/sampling/flow.py, glotok_ray/sampling/tokens.py
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from glotok_ray.config.generator import FARConfig, XARConfig
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.samplers import (
    FlowSamplerConfig,
    SamplerConfig,
    ScaleSamplerConfig,
    TokenSamplerConfig,
)
from glotok_ray.config.var import ModelConfig, VARConfig
from glotok_ray.data.pixel_range import to_uint8
from glotok_ray.nn.far import FAR
from glotok_ray.nn.next_scale import ScaleTokenizer
from glotok_ray.nn.quantizer import NO_CODE
from glotok_ray.nn.rq_transformer import ResidualTokenizer, RQTransformer
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.var import VAR
from glotok_ray.nn.xar import XAR
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.pretrained.generator import (
    architecture_of,
    check_fit,
    check_vectors,
    find_tokenizer,
    flow_config,
    load_generator,
    read_facts,
)
from glotok_ray.pretrained.tokenizer import read_any_tokenizer
from glotok_ray.sampling.flow import count_evaluations, sample_latents
from glotok_ray.sampling.image_random import whole_number
from glotok_ray.sampling.residual_codes import sample_residual_codes
from glotok_ray.sampling.scales import sample_scales
from glotok_ray.sampling.tokens import (
    check_guidance,
    guided_positions,
    has_null_label,
    sample_codes,
)
from glotok_ray.storage.places import to_path

SAMPLERS: dict[str, type[SamplerConfig]] = {
    "xar": FlowSamplerConfig,
    "far": TokenSamplerConfig,
    "var": ScaleSamplerConfig,
    "rq": TokenSamplerConfig,
}
"""The sampler of each architecture, as generator.json names them."""

_REMEDY = "sample in fp32 (sampler.precision), or take an earlier checkpoint"
Kind = TypeVar("Kind", FlowSamplerConfig, TokenSamplerConfig, ScaleSamplerConfig)


class ImageGenerator:
    """A frozen generator and its tokenizer: class labels in, images out.

        images = ImageGenerator.from_pretrained(folder).generate([207, 360], seed=0)

    gives two uint8 images, (2, height, width, 3). The parts may also be given themselves; `refine` says that an xAR's
    latents are bare codes, which the tokenizer's residual predictors have still to refine.
    """

    def __init__(
        self,
        generator: XAR | FAR | VAR | RQTransformer,
        tokenizer: GloTokTokenizer | PeerTokenizer,
        *,
        refine: bool = True,
    ) -> None:
        is_ours = isinstance(tokenizer, GloTokTokenizer)
        check_fit(generator.config, tokenizer.config if is_ours else tokenizer.rate)
        check_vectors(generator.config, tokenizer)
        self.generator, self.tokenizer, self.refine = generator, tokenizer, refine
        self._device = torch.device("cpu")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        tokenizer_path: str | Path | None = None,
        use_ema: bool = True,
    ) -> Self:
        """The generator of a finished run, on the CPU, with the copy of the tokenizer in its folder or an equal one
        at `tokenizer_path`.

        `use_ema` takes the averaged weights where the run kept an average. Raises ArtefactError when a file is missing,
        and when the tokenizer is not the one whose codes the generator was trained on.
        """
        folder = to_path(folder)
        facts = read_facts(folder)
        tokenizer = find_tokenizer(folder, tokenizer_path)
        # Codes are decoded as codes, which refines them always.
        is_bare = facts["architecture"] != "xar" or flow_config(folder).latent_space == "codes"
        return cls(
            load_generator(folder, use_ema=use_ema),
            read_any_tokenizer(tokenizer),
            refine=is_bare,
        )

    def to(self, device: str | torch.device) -> Self:
        """Move generator and tokenizer."""
        self._device = torch.device(device)
        self.generator.to(self._device)
        self.tokenizer.to(self._device)
        return self

    @property
    def num_classes(self) -> int:
        """Classes; labels count from 0."""
        return self.generator.config.num_classes

    # Not inference mode: in it autocast keeps no rounded copy of a weight.
    @torch.no_grad()
    def generate(
        self,
        labels: Sequence[int],
        *,
        seed: int,
        image_ids: Sequence[int] | None = None,
        sampler: SamplerConfig | None = None,
    ) -> UInt8[np.ndarray, "b height width 3"]:
        """One image per label, in one batch.

        `image_ids` tell images of one label apart, 0, 1, ... where none are given: the same label, id and seed give the
        same image in any batch, up to rounding. `sampler` is a FlowSamplerConfig for xAR, a TokenSamplerConfig for FAR
        and RQ-Transformer and a ScaleSamplerConfig for VAR, the `default_sampler` where none is given. Raises
        ValueError for labels, ids, a seed and a sampler that do not fit, and for images that are not finite, which a
        diverged model makes.
        """
        classes = self._classes(labels)
        ids = range(len(labels)) if image_ids is None else image_ids
        generator, tokenizer = self.generator, self.tokenizer
        sampler = default_sampler(generator.config) if sampler is None else sampler
        if isinstance(generator, XAR):
            assert isinstance(tokenizer, GloTokTokenizer)  # no other tokenizer has its latents
            flow = _fitting(sampler, FlowSamplerConfig)
            with self._products(flow):
                latents = sample_latents(generator, classes, flow, image_ids=ids, seed=seed)
            snaps = flow.snap == "on"
            if snaps:
                latents = tokenizer.snap(latents)
            # What was snapped is bare codes again, whatever the latents were.
            return _pixels(tokenizer.decode_latents(latents, refine=self.refine or snaps))
        if isinstance(generator, VAR):
            scales = _fitting(sampler, ScaleSamplerConfig)
            return self._images_of_scales(generator, classes, scales, ids, seed)
        tokens = _fitting(sampler, TokenSamplerConfig)
        if isinstance(generator, RQTransformer):
            return self._images_of_residuals(generator, classes, tokens, ids, seed)
        with self._products(tokens):
            codes = sample_codes(generator, classes, tokens, image_ids=ids, seed=seed)
        side = generator.config.grid_size
        if not isinstance(tokenizer, GloTokTokenizer):
            return _decoded(tokenizer, codes[:, 0].unflatten(1, (side, side)))
        return _pixels(
            tokenizer.images_of(self._in_tokenizer_order(codes).unflatten(2, (side, side)))
        )

    def _images_of_scales(
        self,
        generator: VAR,
        classes: Tensor,
        sampler: ScaleSamplerConfig,
        ids: Sequence[int],
        seed: int,
    ) -> UInt8[np.ndarray, "b height width 3"]:
        """One image per label by VAR."""
        tokenizer = self.tokenizer
        assert isinstance(tokenizer, ScaleTokenizer)
        assert not isinstance(tokenizer, GloTokTokenizer)

        def contribution(indices: Tensor, scale: int) -> Tensor:
            with torch.autocast(self._device.type, enabled=False):
                return tokenizer.contribution(indices, scale)

        with self._products(sampler):
            drawn = sample_scales(
                generator, classes, sampler, contribution, image_ids=ids, seed=seed
            )
        return _pixels(tokenizer.decode_latents(drawn.latents))

    def _images_of_residuals(
        self,
        generator: RQTransformer,
        classes: Tensor,
        sampler: TokenSamplerConfig,
        ids: Sequence[int],
        seed: int,
    ) -> UInt8[np.ndarray, "b height width 3"]:
        """One image per label by RQ-Transformer."""
        tokenizer = self.tokenizer
        assert isinstance(tokenizer, ResidualTokenizer)
        assert not isinstance(tokenizer, GloTokTokenizer)
        table = tokenizer.codebook
        with self._products(sampler):
            codes = sample_residual_codes(
                generator, classes, sampler, table, image_ids=ids, seed=seed
            )
        return _decoded(tokenizer, codes)

    @contextmanager
    def _products(self, sampler: SamplerConfig) -> Iterator[None]:
        enabled = sampler.precision == "bf16_autocast"
        # Nor does it keep one of a weight that wants no gradient; each product would round its weights anew.
        frozen = [weight for weight in self.generator.parameters() if not weight.requires_grad]
        try:
            for weight in frozen:
                weight.requires_grad_(enabled)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=enabled):
                yield
        finally:
            for weight in frozen:
                weight.requires_grad_(False)

    def _classes(self, labels: Sequence[int]) -> Int64[Tensor, " b"]:
        classes = [
            whole_number(label, f"labels[{place}]") for place, label in enumerate(_listed(labels))
        ]
        for place, label in enumerate(classes):
            if not 0 <= label < self.num_classes:
                raise ValueError(
                    f"labels[{place}] = {label}: must be in [0, {self.num_classes}), one of the generator's classes"
                )
        if not classes:
            raise ValueError("labels: holds none; give at least one")
        return torch.tensor(classes, device=self._device)

    def _in_tokenizer_order(self, codes: Int64[Tensor, "b k n"]) -> Int64[Tensor, "b k n"]:
        """A FAR may predict the codebooks in another order than the decoder's channels have."""
        assert isinstance(self.generator, FAR)
        assert isinstance(self.tokenizer, GloTokTokenizer)
        predicted = self.generator.config.names
        return codes[:, [predicted.index(name) for name in self.tokenizer.config.names]]


def _listed(labels: Sequence[int]) -> Sequence[int]:
    if isinstance(labels, str | bytes) or not hasattr(labels, "__len__") or _axes(labels) != 1:
        raise ValueError(
            f"labels = {labels!r}: must be a sequence of class numbers, such as [0, 3]"
        )
    return labels


def _axes(labels: object) -> int:
    return getattr(labels, "ndim", 1)


def _pixels(images: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """As `to_uint8`, whose one look at all values catches whatever in generator or tokenizer was not finite."""
    try:
        return to_uint8(images)
    except ValueError as error:
        raise ValueError(f"{error}: of the generator or of its tokenizer; {_REMEDY}") from error


def _decoded(
    tokenizer: PeerTokenizer, codes: Int64[Tensor, "b ..."]
) -> UInt8[np.ndarray, "b h w 3"]:
    """Images of another system's codes; raises ValueError where logits were not finite, which leaves none."""
    missing = (codes == NO_CODE).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"logits of image {missing[0]} of {len(codes)} hold NaN or infinite values: of the generator; {_REMEDY}"
        )
    return _pixels(tokenizer.decode(codes))


def default_sampler(model: ModelConfig) -> SamplerConfig:
    """The defaults of a model's kind of sampler, without guidance where it has no null label."""
    sampler = SAMPLERS[architecture_of(model)]()
    if isinstance(model, FARConfig | RQConfig) and not has_null_label(model):
        return replace(sampler, guidance_scale=1.0)
    return sampler


def network_evaluations(model: ModelConfig, sampler: SamplerConfig) -> int:
    """Passes through the network per image, those without a class included; the head over the codes of a position, of
    FAR and RQ-Transformer, counts with the position. Raises ValueError when the sampler is another architecture's.
    """
    if isinstance(model, XARConfig):
        return count_evaluations(model.num_entities, _fitting(sampler, FlowSamplerConfig))
    if isinstance(model, VARConfig):
        scales = len(model.scale_sides)
        return scales * (2 if _fitting(sampler, ScaleSamplerConfig).guidance_scale > 0 else 1)
    tokens = _fitting(sampler, TokenSamplerConfig)
    check_guidance(model, tokens)
    guided = guided_positions(tokens, model.num_positions)
    # Twins without a class run along from the first position to the last guided one.
    return model.num_positions + (guided.stop if guided else 0)


def _fitting(sampler: object, kind: type[Kind]) -> Kind:
    """The sampler; raises ValueError when it is another architecture's."""
    if not isinstance(sampler, kind):
        raise ValueError(
            f"sampler = {sampler!r}: must be a {kind.__name__} for this generator; give one, or none"
        )
    return sampler
