"""One optimizer step of xAR on cached codes, and the average of its weights.

Read next: glotok_ray/nn/xar.py and glotok_ray/losses/flow_matching.py
"""

from pathlib import Path

import torch
from torch import Tensor

from glotok_ray.config import FlowConfig
from glotok_ray.losses.flow_matching import draw_times, drop_labels, flow_matching_loss, noisy_cells
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.training.ema import ExponentialMovingAverage
from glotok_ray.training.engine import Engine
from glotok_ray.training.finite import check_finite
from glotok_ray.training.schedule import step_generator
from glotok_ray.training.trainer import Batch
from glotok_ray.training.worker import Worker


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
        self.average = ExponentialMovingAverage(generator, ema_decay)

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
            check_finite({"flow_matching": loss}, step, self._worker)
            self._generator.backward(loss)
            self._generator.step()
            total += loss.detach().float() / len(batches)
        self.average.update(step)
        return {"flow_matching": total}

    def _loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        model, flow = self.model, self._flow
        side = model.config.grid_size
        grids = [
            batch[name].long().unflatten(1, (side, side)) for name in self._tokenizer.config.names
        ]
        codes = torch.stack(grids, dim=1)
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
        """Write the engine and the average; each worker its part."""
        self._generator.save(folder / "generator")
        self.average.save(folder, self._worker.rank)

    def load(self, folder: Path) -> None:
        """Restore the engine and the average."""
        self._generator.load(folder / "generator")
        self.average.load(folder, self._worker.rank)
