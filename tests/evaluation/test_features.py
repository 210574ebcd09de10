"""Extractors give named outputs of stated widths, the same for an image whatever else the batch holds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from glotok_ray.devices import full_precision
from glotok_ray.evaluation.features import (
    LOGITS,
    POOLED,
    SPATIAL,
    DINOv2Features,
    EfficientNetLite0Features,
    FeatureExtractor,
    InceptionFeatures,
)
from glotok_ray.pretrained.inception import InceptionOutputs
from tests.evaluation.tiny_inputs import recorded_precisions

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)


class SmallInception(nn.Module):
    """Sums of pixels in the shapes of Inception-v3."""

    def forward(self, images: torch.Tensor) -> InceptionOutputs:
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        sums = images.float().sum(dim=(1, 2, 3))[:, None]
        return InceptionOutputs(
            sums.expand(-1, 2048), -sums.expand(-1, 1008), sums.expand(-1, 2023)
        )


class SmallDINOv2(nn.Module):
    """Gives back its images, flat."""

    class transformer:  # noqa: N801
        num_features = 3 * 224 * 224

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def extractors() -> list[FeatureExtractor]:
    return [
        EfficientNetLite0Features(input_side=32, device=CPU),
        InceptionFeatures(SmallInception(), weights_sha256="0" * 64, device=CPU),  # type: ignore[arg-type]
        DINOv2Features(SmallDINOv2(), weights_sha256="1" * 64, device=CPU),  # type: ignore[arg-type]
    ]


def test_outputs_have_the_stated_names_and_widths() -> None:
    for extractor in extractors():
        found = extractor(IMAGES)
        shapes = {name: values.shape for name, values in found.items()}
        assert shapes == {name: (3, width) for name, width in extractor.outputs.items()}
        assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
        assert POOLED in found
        for name, values in extractor(IMAGES[1:2]).items():
            np.testing.assert_allclose(values[0], found[name][1], rtol=1e-4, atol=1e-4)
    keys = [extractor.key for extractor in extractors()]
    assert keys == ["effnet", "inception", "dinov2"]


def test_inception_s_outputs_are_not_mixed_up() -> None:
    found = extractors()[1](IMAGES)
    sums = IMAGES.reshape(3, -1).sum(axis=1).astype(np.float32)
    assert {name: values[:, 0].tolist() for name, values in found.items()} == {
        POOLED: sums.tolist(),
        LOGITS: (-sums).tolist(),
        SPATIAL: sums.tolist(),
    }


def test_dinov2_sees_images_resized_by_pil() -> None:
    found = extractors()[2](IMAGES)[POOLED].reshape(3, 3, 224, 224)
    resized = Image.fromarray(IMAGES[2]).resize((224, 224), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found[2].transpose(1, 2, 0), np.asarray(resized) / 255, rtol=1e-6)


def test_other_images_are_refused() -> None:
    for extractor in extractors():
        with pytest.raises(ValueError, match="images: float32 of shape"):
            extractor(IMAGES.astype(np.float32))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"must be uint8 of shape \(b, h, w, 3\)"):
            extractor(IMAGES.transpose(0, 3, 1, 2))


def test_full_precision_ends_with_its_block() -> None:
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    assert before != ["ieee", "ieee"]
    within = []

    def work() -> None:
        with full_precision():
            within.extend(setting.fp32_precision for setting in settings)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert within == ["ieee", "ieee"]
    assert [setting.fp32_precision for setting in settings] == before


def test_efficientnet_does_not_round_to_tf32() -> None:
    network = EfficientNetLite0Features(input_side=32, device=torch.device("cpu"))
    with recorded_precisions() as found:
        network(IMAGES)
    assert found == {"ieee"}


@pytest.mark.slow
def test_the_whole_graph_measures_what_torch_fidelity_measures(inception_file: Path) -> None:
    """A file loaded by both, the same images, every metric; few images, so distances have no full rank."""
    from torch.utils.data import TensorDataset
    from torch_fidelity import calculate_metrics
    from torch_fidelity.metric_kid import kid_features_to_metric

    from benchmarks.calibrated_inception import calibrated_images
    from glotok_ray.metrics.frechet import frechet_distance_of_features
    from glotok_ray.metrics.inception_score import inception_score
    from glotok_ray.metrics.kernel_distance import kernel_distance
    from glotok_ray.metrics.precision_recall import precision_recall

    class Images(TensorDataset):
        def __getitem__(self, index: int) -> torch.Tensor:
            return self.tensors[0][index]

    sets = calibrated_images(14, seed=2), calibrated_images(12, seed=3)
    expected = calculate_metrics(
        input1=Images(sets[0]),
        input2=Images(sets[1]),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        isc_splits=3,
        kid_subsets=5,
        kid_subset_size=8,
        batch_size=14,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    extractor = InceptionFeatures.load(str(inception_file), device=CPU)
    samples, reference = (
        extractor(np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())) for images in sets
    )
    score = inception_score(samples[LOGITS], num_splits=3, order="shuffled")
    kernel = kernel_distance(samples[POOLED], reference[POOLED], num_subsets=5, subset_size=8)
    shares = precision_recall(samples[POOLED], reference[POOLED])
    found = {
        "inception_score_mean": score.mean,
        "inception_score_std": score.standard_deviation,
        "frechet_inception_distance": frechet_distance_of_features(
            samples[POOLED], reference[POOLED]
        ),
        "kernel_inception_distance_mean": kernel.mean,
        "kernel_inception_distance_std": kernel.standard_deviation,
        "precision": shares.precision,
        "recall": shares.recall,
    }
    assert score.mean > 1.1
    assert found["frechet_inception_distance"] > 1
    wanted = {name: expected[name] for name in found}
    kernel_names = [name for name in found if name.startswith("kernel")]
    # It takes kernels in fp32, whose values are near 1, and the distance is a small difference of their sums ...
    assert [found[name] for name in kernel_names] == pytest.approx(
        [wanted[name] for name in kernel_names], abs=1e-6
    )
    # ... so to more digits the comparison is with its function on the same features in float64.
    wanted |= kid_features_to_metric(
        *(torch.from_numpy(features[POOLED]).double() for features in (samples, reference)),
        kid_subsets=5,
        kid_subset_size=8,
        verbose=False,
    )
    assert found == pytest.approx(wanted, rel=1e-6)
    # ADM's spatial features are those of one block inside, which differ between images.
    assert samples[SPATIAL].shape == (14, 2023)
    assert samples[SPATIAL].std(axis=0).max() > 0.01
