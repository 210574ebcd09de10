"""Several sets of samples: what they must share to be compared.

Read next: glotok_ray/evaluation/inputs.py
"""

from collections.abc import Iterable

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.inputs import Present, check_inputs, check_present_inputs
from glotok_ray.evaluation.sample_inputs import Samples
from glotok_ray.storage.artefact import ArtefactError


def check_alike(evaluations: Iterable[EvaluateRun]) -> list[Present]:
    """Check each evaluation of a set of samples, and that all sets that are there can be compared.

    Raises ArtefactError, with both paths, for another number of images or another side than the first set has: such
    numbers would be of different protocols.
    """
    first: tuple[str, Samples] | None = None
    found = []
    for config in evaluations:
        check_inputs(config)
        present = check_present_inputs(config)
        found.append(present)
        samples = present.samples
        if samples is None:
            continue
        first = first or (config.samples_path, samples)
        if _counts_text(samples) != _counts_text(first[1]):
            raise ArtefactError(
                f"{config.samples_path} holds {_counts_text(samples)}, and {first[0]} {_counts_text(first[1])}: "
                "distances of different counts or sizes are not compared; leave one out of samples_paths"
            )
    return found


def _counts_text(samples: Samples) -> str:
    return f"{samples.num_images} images of {samples.image_size} x {samples.image_size} pixels"
