"""The self-check of Inception-v3's published weights, with made class scores."""

import types

import numpy as np
import pytest
import torch

from glotok_ray.evaluation.features import LOGITS
from glotok_ray.evaluation.inception_check import (
    EXPECTED,
    check_classes,
    check_published_weights,
)
from glotok_ray.pretrained.inception import PUBLISHED_SHA256
from glotok_ray.storage.artefact import ArtefactError


def scores(*best: int) -> np.ndarray:
    """Class scores in which `best` come first, in this order."""
    found = np.zeros(1008, np.float32)
    found[list(best)] = np.arange(len(best), 0, -1)
    return found


class MadeScores:
    """Sees whatever it is told to, image after image."""

    name, key, input_contract = "Inception-v3", "inception", "none"
    outputs = types.MappingProxyType({LOGITS: 1008})
    device = torch.device("cpu")

    def __init__(self, *answers: np.ndarray, weights_sha256: str = PUBLISHED_SHA256) -> None:
        self.weights_sha256, self.answers, self.seen = weights_sha256, list(answers), []

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append(images)
        return {LOGITS: self.answers.pop(0)[np.newaxis]}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_every_class_of_a_photograph_is_right_among_the_five_best(name: str) -> None:
    for number in EXPECTED[name].classes:
        check_classes(name, scores(500, 501, 502, 503, number))
        with pytest.raises(ArtefactError, match=r"best classes are \[500, 501, 502, 503, 504\]"):
            check_classes(name, scores(500, 501, 502, 503, 504, number))


def test_the_classes_of_one_photograph_are_wrong_for_the_other() -> None:
    with pytest.raises(ArtefactError, match="does not see a cat in the photograph chelsea"):
        check_classes("chelsea", scores(*EXPECTED["coffee"].classes, 1, 2))
    # As torchvision counts the same cats.
    with pytest.raises(ArtefactError, match=r"174 tabby \(n02123045\)"):
        check_classes("chelsea", scores(281, 282, 283, 284, 285))


def test_scores_that_are_not_finite_are_no_answer() -> None:
    broken = scores(174)
    broken[3] = np.nan
    with pytest.raises(ArtefactError, match="cannot be trusted"):
        check_classes("chelsea", broken)


def test_both_photographs_are_looked_at() -> None:
    extractor = MadeScores(scores(174), scores(947))
    assert check_published_weights(extractor)
    for image in extractor.seen:
        assert image.dtype == np.uint8
        assert image.shape[1] == image.shape[2] > 250
    with pytest.raises(ArtefactError, match="a cup of coffee in the photograph coffee"):
        check_published_weights(MadeScores(scores(174), scores(174)))


def test_other_weights_are_not_asked() -> None:
    assert not check_published_weights(MadeScores(weights_sha256="0" * 64))
