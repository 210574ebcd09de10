"""The losses of a generator on validation crops, as metrics: with true labels and with others.

Read next: glotok_ray/evaluation/generator_loss.py
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.generator import XARConfig
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.generator_loss import LOSS, SHUFFLED, UNLEARNED
from glotok_ray.losses.flow_matching import best_linear_loss
from glotok_ray.pretrained.generator import flow_config, model_config, read_facts
from glotok_ray.storage.places import to_path

LINEAR_GUESS, EQUAL_CODES = "the best linear guess", "codes that are equally likely"
"""What has the loss that is noted as chance."""
_LABELS = {
    "xar": "Flow-matching loss",
    "far": "Cross-entropy of codes",
    "var": "Cross-entropy of codes",
    "rq": "Cross-entropy of codes",
}


def generator_loss_metrics(
    arrays: Mapping[str, Float[ndarray, " n"]], config: EvaluateRun
) -> Metrics:
    """Mean losses over the validation crops with their standard errors; `arrays` are those of GeneratorLoss."""
    folder = to_path(config.generator_path)
    architecture, chance = read_facts(folder)["architecture"], float(arrays[UNLEARNED].mean())
    if isinstance(model := model_config(folder), XARConfig):
        # A velocity of zero has the mean square of noise, which is 1, and that of the latents.
        chance = best_linear_loss(chance - 1, model.entity_lengths, flow_config(folder))
    return loss_metrics(arrays, architecture, config.generator_draws, chance)


def loss_metrics(
    arrays: Mapping[str, Float[ndarray, " n"]], architecture: str, num_draws: int, chance: float
) -> Metrics:
    """The metrics of an "xar", of `num_draws` draws per crop, or of a "far", a "var" or an "rq"; `chance` is the loss
    of a model that learned nothing: of the LINEAR_GUESS of an "xar", else of EQUAL_CODES.
    """
    method = {
        "xar": f"Flow matching (Eq. 4 of xAR), {num_draws} draws of noise and times per crop by the seed; the best "
        f"multiple of the noisy latents, which knows the time and their mean square alone, would have {chance:.4g}, a "
        f"velocity of zero {arrays[UNLEARNED].mean():.4g}",
        "far": "Cross-entropy of the next code in nats, mean over codebooks and positions, every code given those "
        f"before it; codes that are equally likely would have {chance:.4g}",
        "var": "Cross-entropy of codes in nats, mean over the positions of all scales, every code given those of "
        f"smaller scales; codes that are equally likely would have {chance:.4g}",
        "rq": "Cross-entropy of the next code in nats, mean over positions and depths, every code given those of "
        f"earlier positions and of smaller depths; codes that are equally likely would have {chance:.4g}",
    }[architecture]
    common = (
        f"mean over the codes of {len(arrays[LOSS])} validation crops, which no training saw; averaged weights where "
        f"the generator has them, as in sampling; no label dropped. {method}. ± is the standard error of the mean over "
        "crops."
    )
    label = _LABELS[architecture]
    more = arrays[SHUFFLED] - arrays[LOSS]
    shuffled, gap = float(arrays[SHUFFLED].mean()), f"by {_with_error(more)} per crop"
    protocol = (
        f"Each crop with the label of another class, drawn by the seed, all else as with its own: {common} It is "
        f"higher {gap} (± standard error) than with true labels; a generator that ignores labels has 0."
    )
    if np.isnan(arrays[SHUFFLED]).all() and not np.isnan(arrays[LOSS]).any():
        shuffled, protocol = None, f"Undefined with a single class: {common}"
    facts = {"num_images": len(arrays[LOSS]), "architecture": architecture}
    facts |= {"draws": num_draws} if architecture == "xar" else {}
    facts["chance_is"] = LINEAR_GUESS if architecture == "xar" else EQUAL_CODES
    return {
        LOSS: metric_entry(
            label,
            float(arrays[LOSS].mean()),
            f"Each crop with its own label: {common}",
            _standard_error(arrays[LOSS]),
            chance=chance,
            facts=facts,
        ),
        SHUFFLED: metric_entry(
            f"{label} with shuffled labels",
            shuffled,
            protocol,
            _standard_error(arrays[SHUFFLED]),
            chance=chance,
            facts=facts,
        ),
    }


def _with_error(values: Float[ndarray, " n"]) -> str:
    error = _standard_error(values)
    return f"{values.mean():.3g}" + ("" if error is None else f" ± {error:.2g}")


def _standard_error(values: Float[ndarray, " n"]) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
