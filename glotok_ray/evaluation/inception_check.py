"""Whether Inception-v3 sees what is in photographs: weights that load without an error may still be the wrong ones.

Read next: glotok_ray/pretrained/inception.py
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from glotok_ray.data.embedded_images import PHOTOGRAPHS, load_embedded_image
from glotok_ray.evaluation.features import LOGITS, FeatureExtractor
from glotok_ray.pretrained.inception import PUBLISHED_SHA256
from glotok_ray.storage.artefact import ArtefactError

_BEST = 5


class Expected(NamedTuple):
    """What a photograph shows."""

    what: str
    classes: Mapping[int, str]
    """Class scores that may be among the best. The graph of 2015 counts classes as the challenge's development kit,
    from 1, not in the order of WordNet: imagenet_2012_challenge_label_map_proto.pbtxt of its archive.
    """


EXPECTED = {
    "chelsea": Expected(
        "a cat",
        {
            174: "tabby (n02123045)",
            55: "tiger cat (n02123159)",
            10: "Persian cat (n02123394)",
            95: "Siamese cat (n02123597)",
            8: "Egyptian cat (n02124075)",
        },
    ),
    "coffee": Expected(
        "a cup of coffee",
        {
            859: "cup (n07930864)",
            947: "espresso (n07920052)",
            996: "coffee mug (n03063599)",
        },
    ),
}
"""Photographs of the embedded data set, by name."""


def check_published_weights(extractor: FeatureExtractor) -> bool:
    """Classify the photographs where the extractor's weights are the published ones; False where they are others.

    Raises ArtefactError when the network does not see what is there.
    """
    if extractor.weights_sha256 != PUBLISHED_SHA256:
        return False
    for name in EXPECTED:
        check_classes(name, extractor(_square(name))[LOGITS][0])
    return True


def check_classes(name: str, logits: Float[np.ndarray, " 1008"]) -> None:
    """Raise ArtefactError unless a class of the photograph is among the five best."""
    expected = EXPECTED[name]
    best = np.argsort(-logits, kind="stable")[:_BEST].tolist()
    if not np.isfinite(logits).all() or not set(best) & expected.classes.keys():
        wanted = ", ".join(f"{number} {text}" for number, text in expected.classes.items())
        raise ArtefactError(
            f"Inception-v3 has the published weights, and does not see {expected.what} in the photograph {name}: its "
            f"best classes are {best}, none of {wanted}; its numbers cannot be trusted: install the versions of "
            "torch and torch-fidelity in constraints.txt"
        )


def _square(name: str) -> UInt8[np.ndarray, "1 side side 3"]:
    """The middle of a photograph."""
    photograph = next(each for each in PHOTOGRAPHS if each.name == name)
    pixels = np.asarray(load_embedded_image(photograph))
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return np.ascontiguousarray(pixels[np.newaxis, top : top + side, left : left + side])
