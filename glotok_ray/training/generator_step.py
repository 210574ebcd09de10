"""One optimizer step of a generator on cached codes, and the average of its weights.

What a batch of codes costs is an objective's matter: flow matching of xAR, or the codes' cross-entropy of the others.
Read next: glotok_ray/losses/flow_matching.py and glotok_ray/losses/token_prediction.py
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from glotok_ray.config.generator import FARConfig, FlowConfig, XARConfig
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.var import VARConfig
from glotok_ray.losses.flow_matching import draw_noisy_batch, drop_labels, flow_matching_loss
from glotok_ray.losses.token_prediction import (
    codebook_cross_entropies,
    masked_inputs,
    replace_codes,
    token_prediction_loss,
)
from glotok_ray.nn.entities import code_entities
from glotok_ray.nn.next_scale import ScaleTokenizer, codes_by_scale, next_scale_inputs
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.training.batches import Batch
from glotok_ray.training.engine import Engine
from glotok_ray.training.finite import StepFlags
from glotok_ray.training.generator_state import GeneratorState
from glotok_ray.training.profiling import (
    AGREEMENT,
    AVERAGE,
    BACKWARD,
    FORWARD,
    OPTIMIZER,
    part,
)
from glotok_ray.training.schedule import step_generator
from glotok_ray.training.worker import Worker


class Objective(Protocol):
    """What a generator's prediction of a batch costs."""

    def __call__(
        self, engine: Engine, batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Scalar terms; the first is learned. All of its own randomness comes from `generator`; the model's dropout
        draws from torch's.
        """
        ...


@runtime_checkable
class SteppedObjective(Objective, Protocol):
    """An objective that changes over the run."""

    def at(self, step: int) -> None:
        """The batches of an optimizer step, 0-based, come next."""
        ...


class FlowObjective:
    """Flow matching of xAR on the code vectors of a tokenizer."""

    def __init__(
        self,
        tokenizer: GloTokTokenizer,
        latent_scale: Tensor,
        config: XARConfig,
        flow: FlowConfig,
    ) -> None:
        """Of `tokenizer`, the frozen branches alone must be on the worker's device; they turn codes into latents."""
        self._tokenizer, self._scale = tokenizer, latent_scale
        self._config, self._flow = config, flow

    def __call__(
        self, engine: Engine, batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The loss under "flow_matching"."""
        config, flow = self._config, self._flow
        clean = code_entities(self._codes(batch), self._tokenizer, self._scale, config, flow)
        drawn = draw_noisy_batch(clean, config.entity_lengths, flow, generator)
        labels = drop_labels(
            batch["label"].long(), flow.label_dropout, config.num_classes, generator
        )
        dtype = next(engine.module.parameters()).dtype
        context = (each.to(dtype) for each in drawn.context)
        velocity = engine(drawn.tokens.to(dtype), drawn.times, labels, *context)
        return {"flow_matching": flow_matching_loss(velocity.float(), clean, drawn.noise)}

    def _codes(self, batch: Batch) -> Tensor:
        side = self._config.grid_size
        names = self._tokenizer.config.names
        return torch.stack([batch[name].long().unflatten(1, (side, side)) for name in names], dim=1)


class TokenObjective:
    """Cross-entropy of FAR, and of the GPTs, on the codes themselves."""

    def __init__(self, config: FARConfig, label_dropout: float, code_noise: float = 0.0) -> None:
        self._config, self._label_dropout = config, label_dropout
        self._code_noise = code_noise

    def __call__(
        self, engine: Engine, batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The mean over the codebooks under "cross_entropy", and each codebook's own."""
        config = self._config
        codes = torch.stack([batch[name].long() for name in config.names], dim=1)
        labels = drop_labels(
            batch["label"].long(), self._label_dropout, config.num_classes, generator
        )
        inputs = codes
        if self._code_noise > 0:
            inputs = replace_codes(codes, config.num_entries, self._code_noise, generator)
        terms = codebook_cross_entropies(engine(inputs, labels), codes)
        own = {
            f"{name}_cross_entropy": term.detach()
            for name, term in zip(config.names, terms, strict=True)
        }
        return {"cross_entropy": token_prediction_loss(terms), **own}


class ScaleObjective:
    """Cross-entropy of VAR on the codes of all scales, each given all codes of the scales before it."""

    def __init__(
        self,
        tokenizer: ScaleTokenizer,
        config: VARConfig,
        names: Sequence[str],
        label_dropout: float,
        *,
        total_steps: int,
    ) -> None:
        """What codes add to the map is computed by `tokenizer`, frozen and on the worker's device; `names` are those of
        the scales' codes in a batch, small to large, one branch after the other. Over `total_steps` optimizer steps
        the masking of inputs falls to none, in a line; ImageFolder's falls from epoch to epoch.
        """
        self._tokenizer, self._config = tokenizer, config
        self._names, self._label_dropout = tuple(names), label_dropout
        self._total_steps, self._masking = total_steps, config.input_masking

    def at(self, step: int) -> None:
        """The batches of an optimizer step, 0-based, come next."""
        self._masking = self._config.input_masking * (1 - step / self._total_steps)

    def __call__(
        self, engine: Engine, batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The mean over all positions and branches under "cross_entropy", the last scale's own, which VAR's authors
        watch, and each branch's own where there are several.
        """
        config = self._config
        grids = [batch[name].long() for name in self._names]
        codes = codes_by_scale(grids, config.num_branches)
        labels = drop_labels(
            batch["label"].long(), self._label_dropout, config.num_classes, generator
        )
        with torch.no_grad():
            inputs = next_scale_inputs(codes, config.scale_sides, self._tokenizer.contribution)
        dtype = next(engine.module.parameters()).dtype
        arguments = [inputs.to(dtype), labels]
        if config.input_masking > 0:
            masked = masked_inputs((len(inputs), inputs.shape[1]), self._masking, generator)
            arguments.append(masked.to(inputs.device))
        branches = engine(*arguments).chunk(config.num_branches, dim=-1)
        targets = torch.cat(codes, dim=-1).reshape(len(inputs), config.num_branches, -1)
        terms = codebook_cross_entropies(branches, targets)
        last = config.scale_lengths[-1]
        of_last = codebook_cross_entropies(
            [logits[:, -last:].detach() for logits in branches], targets[..., -last:]
        )
        found = {
            "cross_entropy": token_prediction_loss(terms),
            "last_scale_cross_entropy": token_prediction_loss(of_last),
        }
        if len(terms) > 1:
            found |= {f"branch_{i}_cross_entropy": term.detach() for i, term in enumerate(terms)}
        return found


class ResidualObjective:
    """Cross-entropy of RQ-Transformer on the codes of all depths, each given those before it.

    Targets are the codes themselves; the paper's are softened by the distance of every code to what is left over, of
    which it also draws the inputs: they need the images, and that training code is not released.
    """

    def __init__(self, codebook: Float[Tensor, "size c"], config: RQConfig, name: str) -> None:
        """The tokenizer's `codebook`, frozen and on the worker's device; `name` is that of its codes in a batch."""
        self._codebook, self._config, self._name = codebook, config, name

    def __call__(
        self, engine: Engine, batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The mean over positions and depths under "cross_entropy", and each depth's own."""
        shape = (self._config.num_positions, self._config.num_residuals)
        codes = batch[self._name].long().unflatten(1, shape)
        dtype = next(engine.module.parameters()).dtype
        logits = engine(self._codebook[codes].to(dtype), batch["label"].long())
        terms = codebook_cross_entropies(logits.unbind(dim=2), codes.transpose(1, 2))
        own = {f"depth_{depth}_cross_entropy": term.detach() for depth, term in enumerate(terms)}
        return {"cross_entropy": token_prediction_loss(terms), **own}


class GeneratorStep:
    """One optimizer step of a generator on codes, followed by the average of its weights."""

    def __init__(self, state: GeneratorState, objective: Objective, worker: Worker) -> None:
        self._state, self._objective, self._worker = state, objective, worker
        # What all workers agree on before the optimizer steps; the trainer may let a number of its own ride along.
        self.flags = StepFlags(worker)

    def learn(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """One step on all micro batches; returns the objective's terms and the gradient's norm before clipping."""
        generator = step_generator(batches[0]["label"].device)
        engine, average = self._state.engine, self._state.average
        if isinstance(self._objective, SteppedObjective):
            self._objective.at(step)
        totals: dict[str, Tensor] = {}
        for position, batch in enumerate(batches):
            self._worker.heartbeat.enter("forward")
            with part(FORWARD):
                terms = self._objective(engine, batch, generator)
            self.flags.add(terms)
            self._worker.heartbeat.enter("backward")
            with part(BACKWARD):
                engine.backward(next(iter(terms.values())))
            self._worker.heartbeat.enter("reduce")
            if position == len(batches) - 1:
                with part(AGREEMENT):
                    self.flags.verdict(step)
            with part(OPTIMIZER):
                engine.step()
            for name, term in terms.items():
                share = term.detach().float() / len(batches)
                totals[name] = totals[name] + share if name in totals else share
        if average is not None:
            with part(AVERAGE):
                average.update(step)
        return totals | {"gradient_norm": engine.gradient_norm}

    def set_learning_rate(self, learning_rate: float) -> None:
        """One engine."""
        self._state.engine.set_learning_rate(learning_rate)
