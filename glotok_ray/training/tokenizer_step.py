"""The learning rule: one optimizer step of the tokenizer (paper Eq. 13) and of its discriminator.

The tokenizer's graph is cut at the image: the image-side losses give a gradient at a detached leaf,
and one backward pass carries it on together with the latent-side losses. DeepSpeed's hooks allow no
second pass through a graph (DECISIONS.md).
Read next: glotok_ray/nn/tokenizer.py and glotok_ray/losses/objective.py
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.overrides import to_dict
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.data.pixel_range import pixels_to_model_range
from glotok_ray.losses import adversarial, objective
from glotok_ray.losses.reconstruction import reconstruction_loss
from glotok_ray.losses.relation import codebook_histogram, relation_loss
from glotok_ray.nn.tokenizer import GloTokTokenizer, TokenizerOutput
from glotok_ray.pretrained.tokenizer import CONFIG_FILE, WEIGHTS_FILE
from glotok_ray.storage import artefact
from glotok_ray.training.batches import Batch
from glotok_ray.training.codebook_watch import CodebookWatch
from glotok_ray.training.ema import make_average, whole_tensors
from glotok_ray.training.engine import Engine
from glotok_ray.training.finite import StepFlags
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import Worker

DISCRIMINATOR_FILE = "discriminator.safetensors"
_LECAM_FILE = "lecam.pt"
_VALIDATION_BATCH = 16


class FrozenNetworks(NamedTuple):
    """What the tokenizer learns from beside its images; nothing here is trained."""

    perceptual: nn.Module
    """L_P of two batches of images."""
    teacher: Float[Tensor, " num_bins"] | None
    """The teacher's normalised histogram; None measures no relation."""
    image_networks: dict[str, nn.Module]
    """By codebook: the network whose vectors of the images its contrast head predicts."""


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
        run: TokenizerRun,
        tokenizer: Engine,
        discriminator: Engine,
        frozen: FrozenNetworks,
        worker: Worker,
        validation: Tensor,
    ) -> None:
        """`validation` holds this worker's uint8 images (n, 3, h, w)."""
        self._tokenizer, self._discriminator, self._frozen = tokenizer, discriminator, frozen
        self._run, self._config = run, run.model
        # Without predictors L_res is the quantization error under another name, which no weight may add to the sum.
        has_predictors = run.model.residual.enabled
        self._weights = (
            run.loss if has_predictors else dataclasses.replace(run.loss, residual_weight=0.0)
        )
        self._worker, self._validation = worker, validation
        # What all workers agree on before both optimizers step; the trainer may let a number of its own ride along.
        self.flags = StepFlags(worker)
        self.watch = CodebookWatch(run.model, run.loss, worker)
        self._average = make_average(tokenizer, run.ema_decay, warmup=run.ema_warmup)
        # Moving averages of the discriminator's mean logits, real and fake, for LeCam.
        self._lecam_anchors = torch.zeros(2, device=worker.device)

    @property
    def model(self) -> GloTokTokenizer:
        """The tokenizer inside its engine."""
        return self._tokenizer.module  # type: ignore[return-value]

    def learn(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """Both turns over all micro batches; returns the raw terms, `total` (Eq. 13) and the discriminator's."""
        adversarial_on = (
            step >= self._weights.adversarial_start_step and self._weights.adversarial_weight > 0
        )
        means: dict[str, Tensor] = {}
        for position, batch in enumerate(batches):
            images = pixels_to_model_range(batch["image"])
            # The codebook stays as it is until the optimizer steps, so the first micro batch carries the
            # relation loss of all of them.
            relation_share = len(batches) if position == 0 else 0
            terms, reconstruction = self._tokenizer_turn(images, adversarial_on, relation_share)
            if adversarial_on:
                terms |= self._discriminator_turn(images, reconstruction)
            self._worker.heartbeat.enter("reduce")
            if position == len(batches) - 1:
                # Before either optimizer moves, so that a loss that is not finite leaves both as they were.
                self.flags.verdict(step)
            self._tokenizer.step()
            if adversarial_on:
                self._discriminator.step()
            for name, value in terms.items():
                means[name] = means.get(name, 0) + value.detach().float() / len(batches)
        if adversarial_on and self._weights.lecam_weight:
            self._move_anchors(means)
        if self._average is not None:
            self._average.update(step)
        return means | self.watch.restart_unused(self._replace_rows, step)

    def _replace_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        self._tokenizer.replace_rows(name, rows, values)
        if self._average is not None:
            self._average.replace_rows(name, rows, values)

    def _tokenizer_turn(
        self, images: Tensor, adversarial_on: bool, relation_share: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        self._worker.heartbeat.enter("forward")
        output: TokenizerOutput = self._tokenizer(images)
        image_side = self._image_gradient(images, output, adversarial_on)
        relation = torch.zeros((), device=images.device)
        if relation_share and self._frozen.teacher is not None:
            codebook = output.branches[self._weights.relation.codebook].codebook
            relation = relation_share * self._relation(codebook)
        latent_side = objective.latent_terms(
            output.branches,
            self._weights,
            relation=relation,
            image_vectors=self._image_vectors(images),
        )
        terms = objective.loss_terms(image_side, latent_side, self._weights)
        if not self._config.residual.enabled:
            del terms["residual"]
        self.flags.add(terms)
        # The inner product has exactly `gradient` as its derivative at the reconstruction.
        carried = (output.reconstruction.float() * image_side.gradient).sum()
        self._worker.heartbeat.enter("backward")
        self._tokenizer.backward(carried + objective.latent_loss(latent_side, self._weights))
        self.watch.count(output.branches)
        return terms, output.reconstruction.detach()

    def _relation(self, codebook: Tensor) -> Tensor:
        """L_hist; each worker visits its share of the pairs, every worker gets the whole value."""
        relation = self._weights.relation
        assert self._frozen.teacher is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._weights.relation_weight > 0):
            student = codebook_histogram(codebook, relation, self._worker)
            return relation_loss(student, self._frozen.teacher, reduction=relation.reduction)

    @torch.no_grad()
    def _image_vectors(self, images: Tensor) -> dict[str, Tensor]:
        return {name: network(images) for name, network in self._frozen.image_networks.items()}

    def _image_gradient(
        self, images: Tensor, output: TokenizerOutput, adversarial_on: bool
    ) -> ImageGradient:
        weights = self._weights
        # fp32 from here on, whatever the networks compute in.
        leaf = output.reconstruction.detach().float().requires_grad_()
        pixel = reconstruction_loss(images, leaf, weights.reconstruction_kind)
        perceptual = self._frozen.perceptual(images, leaf)
        likelihood = weights.reconstruction_weight * pixel + weights.perceptual_weight * perceptual
        (gradient,) = torch.autograd.grad(likelihood, leaf)
        zero = pixel.detach() * 0
        if not adversarial_on:
            return ImageGradient(gradient, pixel.detach(), perceptual.detach(), zero, zero)
        logits = self._discriminator.frozen(leaf)
        loss = adversarial.generator_loss(logits.float(), weights.adversarial_kind)
        (adversarial_gradient,) = torch.autograd.grad(loss, leaf)
        scale = zero + 1
        if weights.adaptive_adversarial_weight:
            scale = self._adaptive_scale(output, gradient, adversarial_gradient)
        gradient = gradient + weights.adversarial_weight * scale * adversarial_gradient
        return ImageGradient(gradient, pixel.detach(), perceptual.detach(), loss.detach(), scale)

    def _adaptive_scale(
        self, output: TokenizerOutput, likelihood: Tensor, adversarial_gradient: Tensor
    ) -> Tensor:
        layer = self.model.decoder_last_layer
        # Not the weight's own shape: ZeRO 3 has given the weight away by now.
        shape = torch.Size((layer.out_channels, layer.in_channels, *layer.kernel_size))
        return objective.adaptive_adversarial_weight(
            output.last_layer_input.detach(), likelihood, adversarial_gradient, shape, padding=1
        )

    def _discriminator_turn(self, images: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        self._worker.heartbeat.enter("forward")
        # Real and fake pass apart, so that BatchNorm sees one kind at a time (FQGAN, LlamaGen).
        real, fake = (self._discriminator(batch).float() for batch in (images, reconstruction))
        weights = self._weights
        loss = adversarial.discriminator_loss(real, fake, weights.adversarial_kind)
        # Logits that stay alike for real and fake say that the discriminator learns nothing.
        terms = {"discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
        learned = loss
        if weights.lecam_weight:
            terms["lecam"] = adversarial.lecam_penalty(real, fake, self._lecam_anchors)
            learned = loss + weights.lecam_weight * terms["lecam"]
        self.flags.add(terms)
        self._worker.heartbeat.enter("backward")
        self._discriminator.backward(weights.discriminator_loss_scale * learned)
        return terms

    def _move_anchors(self, means: dict[str, Tensor]) -> None:
        """Once per step, by the mean logits of all micro batches and workers."""
        logits = self._worker.all_sum(torch.stack([means["logits_real"], means["logits_fake"]]))
        self._lecam_anchors = adversarial.moved_anchors(
            self._lecam_anchors, logits / self._worker.world_size, decay=self._weights.lecam_decay
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Both engines share the schedule."""
        self._tokenizer.set_learning_rate(learning_rate)
        self._discriminator.set_learning_rate(learning_rate)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean PSNR over the validation images (uint8, per image), also with the averaged weights, the relation KL,
        and per codebook the usage and perplexity since the last evaluation and the share of duplicate codes.
        """
        # Whole even where ZeRO 3 holds them in parts; the other parameters are let go one by one.
        wanted = {f"branches.{name}.quantizer.codebook": name for name in self._config.names}
        codebooks = {
            wanted[name]: self.model.quantizer(wanted[name]).matched(value.detach().float())
            for name, value in self._tokenizer.full_precision_parameters()
            if name in wanted
        }
        metrics = self.watch.metrics(codebooks)
        if self._frozen.teacher is not None:
            codebook = codebooks[self._weights.relation.codebook]
            metrics["relation_kl"] = float(self._relation(codebook))
        metrics |= self._psnr(self.model.eval(), "psnr")
        self.model.train()
        if self._average is not None:
            averaged = GloTokTokenizer(self._config)
            averaged.load_state_dict(self._average.whole(keep=True))
            metrics |= self._psnr(averaged.to(self._worker.device).eval(), "average_psnr")
        return metrics

    def _psnr(self, model: GloTokTokenizer, name: str) -> dict[str, float]:
        sums = torch.zeros(2, dtype=torch.float64)
        parts = list(self._validation.split(_VALIDATION_BATCH))
        # Under ZeRO 3 a pass gathers weights from all workers, so all make equally many.
        mine = torch.zeros(self._worker.world_size, device=self._worker.device)
        mine[self._worker.rank] = len(parts)
        passes = int(self._worker.all_sum(mine).max())
        side = self._config.autoencoder.image_size
        nothing = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self._worker.device)
        for number in range(passes):
            images = parts[number] if number < len(parts) and len(parts[number]) else nothing
            output: TokenizerOutput = model(pixels_to_model_range(images))
            if images is nothing:
                continue
            pixels = ((output.reconstruction.float() + 1) * 127.5 + 0.5).floor().clamp(0, 255)
            error = (pixels - images.float()).double().square().mean(dim=(1, 2, 3)).clamp_min(1e-3)
            decibels = 10 * torch.log10(255.0**2 / error)
            sums += torch.tensor([float(decibels.sum()), float(len(images))], dtype=torch.float64)
        total, count = self._worker.all_sum(sums.to(self._worker.device)).tolist()
        return {name: total / count} if count else {}

    def export(self, folder: Path) -> None:
        """Write what `GloTokTokenizer.from_pretrained` reads, with averaged weights where an average is kept, and the
        discriminator's weights, from which a run may start.
        """
        exported = Snapshot()
        self._add_export(exported)
        exported.write(folder)

    def _add_export(self, into: Snapshot) -> None:
        """What `export` writes, on rank 0; all workers gather it."""
        keep = self._worker.rank == 0
        with self._average.in_place() if self._average else contextlib.nullcontext():
            into.add_weights(WEIGHTS_FILE, whole_tensors(self._tokenizer), keep=keep)
        into.add_weights(DISCRIMINATOR_FILE, whole_tensors(self._discriminator), keep=keep)
        if keep:
            into.add_bytes(CONFIG_FILE, artefact.json_bytes(to_dict(self._run)))

    def snapshot(self, into: Snapshot) -> None:
        """Add both engines, what else goes on, and an export."""
        self._add_export(into)
        self._tokenizer.snapshot(into.within("tokenizer"))
        self._discriminator.snapshot(into.within("discriminator"))
        self.watch.snapshot(into)
        if self._average is not None:
            self._average.snapshot(into, self._worker.rank)
        if self._worker.rank == 0 and self._weights.lecam_weight:
            into.add_state(_LECAM_FILE, self._lecam_anchors)

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added."""
        self._tokenizer.load(folder / "tokenizer")
        self._discriminator.load(folder / "discriminator")
        self.watch.load(folder)
        if self._average is not None:
            self._average.load(folder, self._worker.rank)
        if self._weights.lecam_weight:
            self._lecam_anchors = torch.load(
                folder / _LECAM_FILE, weights_only=True, map_location=self._worker.device
            )
