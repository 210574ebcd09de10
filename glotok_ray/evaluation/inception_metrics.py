"""What Inception's features tell beside Frechet distances: Inception Score, KID, precision and recall.

Read next: glotok_ray/metrics/inception_score.py, glotok_ray/metrics/kernel_distance.py,
glotok_ray/metrics/precision_recall.py
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from glotok_ray.evaluation.array_names import array_name, of_reconstructions
from glotok_ray.evaluation.distances import TO_TRAINING, TO_VALIDATION, Side
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.extractors import INCEPTION, Network
from glotok_ray.evaluation.features import LOGITS, POOLED
from glotok_ray.evaluation.plan import REFERENCE, SAMPLES, TRAINING, VALIDATION
from glotok_ray.evaluation.streams import MeasuredImages, StoredArray
from glotok_ray.metrics.inception_score import InceptionSums, split_numbers
from glotok_ray.metrics.kernel_distance import NUM_SUBSETS, SUBSET_SIZE, kernel_distance
from glotok_ray.metrics.precision_recall import NEIGHBOURS, precision_recall

SPLITS = 10
"""Parts of the images over which the Inception Score is averaged, as in ADM's evaluator and torch-fidelity."""
_POOLED, _LOGITS = array_name(INCEPTION, POOLED), array_name(INCEPTION, LOGITS)
TO_REFERENCE = Side("_reference", ", from the reference's images", "images of the reference")


class _Compared(NamedTuple):
    """Two sets of images, and what the second one is."""

    images: MeasuredImages
    real: MeasuredImages
    side: Side


def inception_metrics(
    measured: Mapping[str, MeasuredImages], network: Network, *, reconstructs: bool
) -> Metrics:
    """Inception Scores of reconstructions and samples; KID, precision and recall of samples against the reference's
    images, else the training crops, else the validation crops.
    """
    metrics: Metrics = {}
    if reconstructs:
        scores = measured[VALIDATION].blocks(of_reconstructions(_LOGITS))
        count = measured[VALIDATION].count
        metrics["reconstruction_inception_score"] = _score(
            scores, count, "reconstructions", network
        )
    if SAMPLES in measured:
        samples = measured[SAMPLES]
        scores = samples.blocks(_LOGITS)
        metrics["samples_inception_score"] = _score(scores, samples.count, "samples", network)
        for kind, side in (
            (REFERENCE, TO_REFERENCE),
            (TRAINING, TO_TRAINING),
            (VALIDATION, TO_VALIDATION),
        ):
            if kind in measured:
                pair = _Compared(samples, measured[kind], side)
                metrics |= _kernel_distance(pair, network) | _precision_recall(pair, network)
                break
    return metrics


def _score(logits: StoredArray, count: int, what: str, network: Network) -> dict[str, Any]:
    label = f"Inception Score of {what}"
    protocol = (
        f"exp of the mean divergence of an image's class probabilities from their mean, over {SPLITS} adjacent parts "
        f"of {count} {what} in the order of their numbers (ADM's; torch-fidelity shuffles them first), mean of the "
        f"parts; {_text(network)}; ± is the deviation over parts. Higher is better."
    )
    facts = network.facts(num_images=count, splits=SPLITS, order="as in the file")
    if count < SPLITS:
        undefined = f"Undefined below {SPLITS} images. {protocol}"
        return metric_entry(label, None, undefined, facts=facts)
    splits, sums, start = split_numbers(count, SPLITS), None, 0
    for block in logits:
        one = InceptionSums.of(block, splits[start : start + len(block)], SPLITS)
        sums, start = one if sums is None else sums.merge(one), start + len(block)
    assert sums is not None
    found = sums.score()
    return metric_entry(label, found.mean, protocol, found.standard_deviation, facts=facts)


def _kernel_distance(pair: _Compared, network: Network) -> Metrics:
    protocol = (
        f"Unbiased squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, mean over {NUM_SUBSETS} subsets "
        f"of {SUBSET_SIZE} of {pair.images.count} samples and {pair.real.count} {pair.side.crops}, drawn as "
        f"torch-fidelity draws them; {_text(network)}; ± is the deviation over subsets. Lower is closer."
    )
    name, label = f"samples_kid{pair.side.suffix}", f"KID of samples{pair.side.addition}"
    facts = _facts(pair, network)
    if min(pair.images.count, pair.real.count) < SUBSET_SIZE:
        undefined = f"Undefined below {SUBSET_SIZE} images a side. {protocol}"
        return {name: metric_entry(label, None, undefined, facts=facts)}
    found = kernel_distance(pair.images.rows(_POOLED), pair.real.rows(_POOLED))
    entry = metric_entry(label, found.mean, protocol, found.standard_deviation, facts=facts)
    return {name: entry}


def _precision_recall(pair: _Compared, network: Network) -> Metrics:
    sets = f"{pair.images.count} samples and {pair.real.count} {pair.side.crops}"
    common = (
        f"A ball reaches to the neighbour number {NEIGHBOURS} in its own set (squared distances in fp32, as ADM's "
        f"evaluator); {sets}, and shares depend on both counts; {_text(network)}."
    )
    texts = {
        "precision": f"Share of samples within a ball around one of the {pair.side.crops}. {common}",
        "recall": f"Share of the {pair.side.crops} within a ball around a sample. {common}",
    }
    facts = _facts(pair, network)
    found, reason = None, f"Undefined below {NEIGHBOURS + 1} images a side. "
    if min(pair.images.count, pair.real.count) > NEIGHBOURS:
        found = precision_recall(pair.images.rows(_POOLED), pair.real.rows(_POOLED))
    return {
        f"samples_{name}{pair.side.suffix}": metric_entry(
            f"{name.capitalize()} of samples{pair.side.addition}",
            None if found is None else getattr(found, name),
            text if found is not None else reason + text,
            facts=facts,
        )
        for name, text in texts.items()
    }


def _facts(pair: _Compared, network: Network) -> dict[str, Any]:
    return network.facts(
        num_images=pair.images.count,
        reference=f"the {pair.side.crops}",
        reference_images=pair.real.count,
    )


def _text(network: Network) -> str:
    return f"{network.name}, {network.input_contract}; weights {network.weights_sha256[:12]}"
