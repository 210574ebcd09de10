"""The learning rules: one optimizer step of the tokenizer (paper Eq. 13) and one of the generator.

The tokenizer's graph is cut at the image: the image-side losses give a gradient at a detached leaf,
and one backward pass carries it on together with the latent-side losses. DeepSpeed's hooks allow no
second pass through a graph (DECISIONS.md).
Read next: glotok_ray/nn/tokenizer.py and glotok_ray/losses/objective.py
"""

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config import FlowConfig, TokenizerLossConfig
from glotok_ray.losses import adversarial, objective
from glotok_ray.losses.flow_matching import draw_times, drop_labels, flow_matching_loss, noisy_cells
from glotok_ray.losses.reconstruction import reconstruction_loss
from glotok_ray.losses.relation import codebook_histogram, relation_loss
from glotok_ray.metrics.codebook import codebook_use, duplicate_fraction
from glotok_ray.nn.tokenizer import GloTokTokenizer, TokenCodes, TokenizerOutput
from glotok_ray.nn.xar import XAR
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import Engine
from glotok_ray.training.schedule import step_generator
from glotok_ray.training.trainer import Batch
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

# Random codes of eight dimensions have next to none; a collapsing codebook passes this on its way.
_MANY_DUPLICATES = 0.2
_LECAM_FILE = "lecam.pt"


def to_model_range(images: Tensor, dtype: torch.dtype) -> Float[Tensor, "b 3 h w"]:
    """uint8 images to [-1, 1], channels last in memory, which convolutions prefer."""
    return (images.to(dtype) / 127.5 - 1).contiguous(memory_format=torch.channels_last)


class ImageGradient(NamedTuple):
    """The weighted gradient of the image-side losses at the reconstruction, and their raw values."""

    gradient: Float[Tensor, "b 3 h w"]
    reconstruction: Tensor
    perceptual: Tensor
    adversarial: Tensor
    adversarial_scale: Tensor


class TokenizerStep:
    """One optimizer step of the tokenizer, then one of the discriminator on the same reconstruction."""

    def __init__(
        self,
        tokenizer: Engine,
        discriminator: Engine,
        perceptual: nn.Module,
        teacher: Tensor,
        weights: TokenizerLossConfig,
        worker: Worker,
        validation: Tensor,
    ) -> None:
        """`teacher` is its normalised histogram (num_bins,); `validation` this worker's uint8 images (n, 3, h, w)."""
        self._tokenizer, self._discriminator, self._perceptual = (
            tokenizer,
            discriminator,
            perceptual,
        )
        self._teacher, self._weights, self._worker, self._validation = (
            teacher,
            weights,
            worker,
            validation,
        )
        # Moving averages of the discriminator's mean logits, real and fake, for LeCam.
        self._lecam_anchors = torch.zeros(2, device=worker.device)
        config = self.model.config
        # How often each code was chosen since the last evaluation.
        self._code_counts = {
            name: torch.zeros(size, dtype=torch.int64, device=worker.device)
            for name, size in (("semantic", config.semantic.size), ("visual", config.visual.size))
        }

    @property
    def model(self) -> GloTokTokenizer:
        """The tokenizer inside its engine."""
        return self._tokenizer.module  # type: ignore[return-value]

    def learn(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """Both turns over all micro batches; returns the raw terms, `total` (Eq. 13) and the discriminator's loss."""
        adversarial_on = (
            step >= self._weights.adversarial_start_step and self._weights.adversarial_weight > 0
        )
        means: dict[str, Tensor] = {}
        for position, batch in enumerate(batches):
            images = to_model_range(batch["image"], self.model.decoder_last_layer.weight.dtype)
            # The codebook stays as it is until the optimizer steps, so the first micro batch carries the
            # relation loss of all of them.
            relation_share = len(batches) if position == 0 else 0
            terms, reconstruction = self._tokenizer_turn(images, adversarial_on, relation_share)
            if adversarial_on:
                terms["discriminator"] = self._discriminator_turn(images, reconstruction)
            for name, value in terms.items():
                means[name] = means.get(name, 0) + value.detach().float() / len(batches)
        return means

    def _tokenizer_turn(
        self, images: Tensor, adversarial_on: bool, relation_share: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        output: TokenizerOutput = self._tokenizer(images)
        image_side = self._image_gradient(images, output, adversarial_on)
        relation = images.new_zeros((), dtype=torch.float32)
        if relation_share:
            relation = relation_share * self._relation(output.semantic.unit_codebook)
        latent_side = objective.latent_terms(output, relation, self._weights)
        # The inner product has exactly `gradient` as its derivative at the reconstruction.
        carried = (output.reconstruction.float() * image_side.gradient).sum()
        self._tokenizer.backward(carried + objective.latent_loss(latent_side, self._weights))
        self._tokenizer.step()
        self._count_codes(output)
        terms = objective.loss_terms(image_side, latent_side, self._weights)
        return terms, output.reconstruction.detach()

    def _relation(self, codebook: Tensor) -> Tensor:
        """L_hist; each worker visits its share of the pairs, every worker gets the whole value."""
        relation = self._weights.relation
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._weights.relation_weight > 0):
            student = codebook_histogram(codebook, relation, self._worker)
            return relation_loss(student, self._teacher, reduction=relation.reduction)

    def _count_codes(self, output: TokenizerOutput) -> None:
        for name, counts in self._code_counts.items():
            indices = getattr(output, name).indices.flatten()
            counts.index_add_(0, indices, torch.ones_like(indices))

    def _image_gradient(
        self, images: Tensor, output: TokenizerOutput, adversarial_on: bool
    ) -> ImageGradient:
        weights = self._weights
        leaf = output.reconstruction.detach().requires_grad_()
        pixel = reconstruction_loss(images, leaf)
        perceptual = self._perceptual(images, leaf)
        likelihood = weights.reconstruction_weight * pixel + weights.perceptual_weight * perceptual
        (gradient,) = torch.autograd.grad(likelihood.float(), leaf)
        zero = pixel.detach() * 0
        if not adversarial_on:
            return ImageGradient(gradient, pixel.detach(), perceptual.detach(), zero, zero)
        discriminator = self._discriminator.module
        discriminator.requires_grad_(False)
        loss = adversarial.generator_loss(discriminator(leaf), weights.adversarial_kind)
        (adversarial_gradient,) = torch.autograd.grad(loss, leaf)
        discriminator.requires_grad_(True)
        scale = zero + 1
        if weights.adaptive_adversarial_weight:
            scale = self._adaptive_scale(output, gradient, adversarial_gradient)
        gradient = gradient + weights.adversarial_weight * scale * adversarial_gradient
        return ImageGradient(gradient, pixel.detach(), perceptual.detach(), loss.detach(), scale)

    def _adaptive_scale(
        self, output: TokenizerOutput, likelihood: Tensor, adversarial_gradient: Tensor
    ) -> Tensor:
        layer = self.model.decoder_last_layer
        return objective.adaptive_adversarial_weight(
            output.last_layer_input.detach(),
            likelihood,
            adversarial_gradient,
            layer.weight.shape,
            padding=1,
        )

    def _discriminator_turn(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        # Real and fake pass apart, so that BatchNorm sees one kind at a time (FQGAN, LlamaGen).
        real, fake = self._discriminator(images), self._discriminator(reconstruction)
        weights = self._weights
        loss = adversarial.discriminator_loss(real, fake, weights.adversarial_kind)
        if weights.lecam_weight:
            penalty = adversarial.lecam_penalty(real, fake, self._lecam_anchors)
            self._discriminator.backward(loss + weights.lecam_weight * penalty)
            means = torch.stack([real.detach().float().mean(), fake.detach().float().mean()])
            means = self._worker.all_sum(means) / self._worker.world_size
            self._lecam_anchors = adversarial.moved_anchors(
                self._lecam_anchors, means, decay=weights.lecam_decay
            )
        else:
            self._discriminator.backward(loss)
        self._discriminator.step()
        return loss

    def set_learning_rate(self, learning_rate: float) -> None:
        """Both engines share the schedule."""
        self._tokenizer.set_learning_rate(learning_rate)
        self._discriminator.set_learning_rate(learning_rate)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean PSNR over the validation images (uint8, per image), the relation KL, and per codebook the
        usage and perplexity since the last evaluation and the share of duplicate codes.
        """
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        for images in self._validation.split(16):
            output: TokenizerOutput = self.model(
                to_model_range(images, self.model.decoder_last_layer.weight.dtype)
            )
            pixels = ((output.reconstruction.float() + 1) * 127.5 + 0.5).floor().clamp(0, 255)
            error = (pixels - images.float()).double().square().mean(dim=(1, 2, 3)).clamp_min(1e-3)
            sums += torch.tensor(
                [float((10 * torch.log10(255.0**2 / error)).sum()), float(len(images))],
                dtype=torch.float64,
            )
        self.model.train()
        total, count = self._worker.all_sum(sums.to(self._worker.device)).tolist()
        # Whole even where ZeRO 3 holds them in parts; the other parameters are let go one by one.
        wanted = {f"{name}_quantizer.codebook": name for name in self._code_counts}
        codebooks = {
            wanted[name]: value
            for name, value in self._tokenizer.full_precision_parameters()
            if name in wanted
        }
        figures = {"relation_kl": float(self._relation(codebooks["semantic"]))}
        for name, codebook in codebooks.items():
            figures |= self._codebook_figures(name, codebook)
        return figures | ({"psnr": total / count} if count else {})

    def _codebook_figures(self, name: str, codebook: Tensor) -> dict[str, float]:
        counts = self._worker.all_sum(self._code_counts[name])
        self._code_counts[name] = torch.zeros_like(counts)
        duplicates = duplicate_fraction(codebook, self._weights.relation.duplicate_cosine)
        if duplicates > _MANY_DUPLICATES and self._worker.rank == 0:
            logger.warning(
                "%s codebook: %.0f %% of the codes have a neighbour of cosine %g or more. If the teacher "
                "is out of this codebook's reach, lower loss.relation_weight, or pass "
                "--loss.relation.project-teacher",
                name,
                100 * duplicates,
                self._weights.relation.duplicate_cosine,
            )
        figures = {f"{name}_duplicates": duplicates}
        if counts.sum() > 0:
            use = codebook_use(counts.cpu().numpy())
            figures |= {f"{name}_usage": use.usage, f"{name}_perplexity": use.perplexity}
        return figures

    def save(self, folder: Path) -> None:
        """Write both engines."""
        self._tokenizer.save(folder / "tokenizer")
        self._discriminator.save(folder / "discriminator")
        if self._worker.rank == 0 and self._weights.lecam_weight:
            torch.save(self._lecam_anchors.cpu(), folder / _LECAM_FILE)

    def load(self, folder: Path) -> None:
        """Restore both engines."""
        self._tokenizer.load(folder / "tokenizer")
        self._discriminator.load(folder / "discriminator")
        if self._weights.lecam_weight:
            anchors = torch.load(folder / _LECAM_FILE, weights_only=True)
            self._lecam_anchors = anchors.to(self._worker.device)


class GeneratorStep:
    """One optimizer step of xAR on codes, followed by the average of its weights."""

    def __init__(
        self,
        generator: Engine,
        tokenizer: GloTokTokenizer,
        flow: FlowConfig,
        ema_decay: float,
        worker: Worker,
    ) -> None:
        """`tokenizer` is frozen and on the worker's device; it turns codes into latents."""
        self._generator, self._tokenizer, self._flow, self._worker = (
            generator,
            tokenizer,
            flow,
            worker,
        )
        self.average = ExponentialMovingAverage(generator.module, ema_decay)

    @property
    def model(self) -> XAR:
        """The generator inside its engine."""
        return self._generator.module  # type: ignore[return-value]

    def learn(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """One step on all micro batches; returns the flow-matching loss."""
        device = batches[0]["label"].device
        total, generator = torch.zeros((), device=device), step_generator(device)
        for batch in batches:
            loss = self._loss(batch, generator)
            self._generator.backward(loss)
            self._generator.step()
            total += loss.detach().float() / len(batches)
        self.average.update(self._generator.full_precision_parameters(), step)
        return {"flow_matching": total}

    def _loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        model, flow = self.model, self._flow
        side = model.config.grid_size
        codes = TokenCodes(
            *(batch[name].long().unflatten(1, (side, side)) for name in ("semantic", "visual"))
        )
        with torch.no_grad():
            latents = self._tokenizer.latents(
                codes, refine=flow.latent_space == "codes_plus_residual"
            )
            clean = model.to_cells(model.normalize(latents.float()))
        times = draw_times(clean.shape[:2], flow.time_distribution, generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        labels = drop_labels(batch["label"].long(), flow.label_dropout, model.null_label, generator)
        dtype = next(model.parameters()).dtype
        velocity = self._generator(noisy_cells(clean, noise, times).to(dtype), times, labels)
        return flow_matching_loss(velocity.float(), clean, noise)

    def set_learning_rate(self, learning_rate: float) -> None:
        """One engine."""
        self._generator.set_learning_rate(learning_rate)

    def evaluate(self) -> dict[str, float]:
        """Generators are judged by their samples, in a job of their own."""
        return {}

    def save(self, folder: Path) -> None:
        """Write the engine, and the average once."""
        self._generator.save(folder / "generator")
        if self._worker.rank == 0:
            torch.save(self.average.parameters, folder / "average.pt")

    def load(self, folder: Path) -> None:
        """Restore the engine and the average."""
        self._generator.load(folder / "generator")
        loaded = torch.load(folder / "average.pt", weights_only=True, map_location="cpu")
        for name, value in self.average.parameters.items():
            value.copy_(loaded[name])
