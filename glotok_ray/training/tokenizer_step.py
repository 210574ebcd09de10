"""The learning rule: one optimizer step of the tokenizer (paper Eq. 13) and of its discriminator.

The tokenizer's graph is cut at the image: the image-side losses give a gradient at a detached leaf,
and one backward pass carries it on together with the latent-side losses. DeepSpeed's hooks allow no
second pass through a graph (DECISIONS.md).
Read next: glotok_ray/nn/tokenizer.py and glotok_ray/losses/objective.py
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.config.losses import TokenizerLossConfig
from glotok_ray.data.pixel_range import pixels_to_model_range
from glotok_ray.losses import adversarial, objective
from glotok_ray.losses.reconstruction import reconstruction_loss
from glotok_ray.nn.tokenizer import TokenizerOutput
from glotok_ray.training.batches import Batch
from glotok_ray.training.engine import Engine
from glotok_ray.training.finite import StepFlags
from glotok_ray.training.tokenizer_state import TokenizerState
from glotok_ray.training.worker import Worker


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

    def __init__(self, state: TokenizerState, frozen: FrozenNetworks, worker: Worker) -> None:
        self._state, self._frozen, self._worker = state, frozen, worker
        self._has_predictors = state.config.model.residual.enabled
        self._weights: TokenizerLossConfig = objective.effective_weights(
            state.config.loss, has_predictors=self._has_predictors
        )
        # What all workers agree on before both optimizers step; the trainer may let a number of its own ride along.
        self.flags = StepFlags(worker)

    def learn(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """Both turns over all micro batches; returns the raw terms, `total` (Eq. 13), the discriminator's, and the
        gradients' norms before clipping.
        """
        adversarial_on = objective.adversarial_is_on(self._weights, step)
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
            self._state.tokenizer.step()
            if adversarial_on:
                self._state.discriminator.step()
            for name, value in terms.items():
                means[name] = means.get(name, 0) + value.detach().float() / len(batches)
        return means | self._after(means, step, adversarial_on)

    def _after(
        self, means: dict[str, Tensor], step: int, adversarial_on: bool
    ) -> dict[str, Tensor]:
        """What follows the optimizers: anchors, averages, restarts; returns what is to be told of the step itself."""
        state = self._state
        told = {"gradient_norm": state.tokenizer.gradient_norm}
        if adversarial_on:
            told["discriminator_gradient_norm"] = state.discriminator.gradient_norm
            self._move_anchors(means)
        if state.average is not None:
            state.average.update(step)
        return told | state.watch.restart_unused(state.replace_rows, step)

    def _tokenizer_turn(
        self, images: Tensor, adversarial_on: bool, relation_share: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        self._worker.heartbeat.enter("forward")
        output: TokenizerOutput = self._state.tokenizer(images)
        image_side = self._image_gradient(images, output, adversarial_on)
        relation = torch.zeros((), device=images.device)
        if relation_share and self._frozen.teacher is not None:
            codebook = output.branches[self._weights.relation.codebook].codebook
            relation = relation_share * self._relation(codebook, self._frozen.teacher)
        latent_side = objective.latent_terms(
            output.branches,
            self._weights,
            relation=relation,
            image_vectors=self._image_vectors(images),
        )
        terms = objective.loss_terms(image_side, latent_side, self._weights)
        if not self._has_predictors:
            del terms["residual"]
        self.flags.add(terms)
        # The inner product has exactly `gradient` as its derivative at the reconstruction.
        carried = (output.reconstruction.float() * image_side.gradient).sum()
        self._worker.heartbeat.enter("backward")
        self._state.tokenizer.backward(carried + objective.latent_loss(latent_side, self._weights))
        self._state.watch.count(output.branches)
        return terms, output.reconstruction.detach()

    def _relation(self, codebook: Tensor, teacher: Tensor) -> Tensor:
        """L_hist; each worker visits its share of the pairs, every worker gets the whole value."""
        return objective.relation_term(codebook, teacher, self._weights, self._worker)

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
        gradient = _gradient(objective.likelihood_loss(pixel, perceptual, weights), leaf)
        zero = pixel.detach() * 0
        if not adversarial_on:
            return ImageGradient(gradient, pixel.detach(), perceptual.detach(), zero, zero)
        logits = self._state.discriminator.frozen(leaf)
        loss = adversarial.generator_loss(logits.float(), weights.adversarial_kind)
        adversarial_gradient = _gradient(loss, leaf)
        scale = zero + 1
        if weights.adaptive_adversarial_weight:
            scale = self._adaptive_scale(output, gradient, adversarial_gradient)
        gradient = objective.image_gradient(gradient, adversarial_gradient, scale, weights)
        return ImageGradient(gradient, pixel.detach(), perceptual.detach(), loss.detach(), scale)

    def _adaptive_scale(
        self, output: TokenizerOutput, likelihood: Tensor, adversarial_gradient: Tensor
    ) -> Tensor:
        layer = self._state.model.decoder_last_layer
        # Not the weight's own shape: ZeRO 3 has given the weight away by now.
        shape = torch.Size((layer.out_channels, layer.in_channels, *layer.kernel_size))
        return objective.adaptive_adversarial_weight(
            output.last_layer_input.detach(), likelihood, adversarial_gradient, shape, padding=1
        )

    def _discriminator_turn(self, images: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        self._worker.heartbeat.enter("forward")
        discriminator: Engine = self._state.discriminator
        # Real and fake pass apart, so that BatchNorm sees one kind at a time (FQGAN, LlamaGen).
        real, fake = (discriminator(batch).float() for batch in (images, reconstruction))
        terms = objective.discriminator_terms(real, fake, self._state.lecam_anchors, self._weights)
        self.flags.add(terms)
        self._worker.heartbeat.enter("backward")
        discriminator.backward(objective.discriminator_total(terms, self._weights))
        return terms

    def _move_anchors(self, means: dict[str, Tensor]) -> None:
        """Once per step, by the mean logits of all micro batches and workers."""
        anchors = self._state.lecam_anchors
        if anchors is None:
            return
        logits = self._worker.all_sum(torch.stack([means["logits_real"], means["logits_fake"]]))
        self._state.lecam_anchors = adversarial.moved_anchors(
            anchors, logits / self._worker.world_size, decay=self._weights.lecam_decay
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Both engines share the schedule."""
        self._state.set_learning_rate(learning_rate)


def _gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    """Of `loss` at `leaf`; zeros where weights of 0 have left nothing to differentiate."""
    if not loss.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient
