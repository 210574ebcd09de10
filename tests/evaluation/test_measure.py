"""Blocks of images measured in this process, and the metrics of what they give."""

import dataclasses
import io
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glotok_ray.config import CodebookConfig, EvaluateRun, FeatureNetworkConfig
from glotok_ray.data.image_files import stored_image
from glotok_ray.data.records import Row, decode_image, read_rows, write_shard
from glotok_ray.data.transforms import center_crop
from glotok_ray.evaluation.array_names import EFFNET_POOLED, of_reconstructions
from glotok_ray.evaluation.codebook_metrics import code_metrics
from glotok_ray.evaluation.extractors import networks_of
from glotok_ray.evaluation.features import POOLED, EfficientNetLite0Features
from glotok_ray.evaluation.generator_loss import LOSS, SHUFFLED, UNLEARNED
from glotok_ray.evaluation.measure import BlockMeasurement
from glotok_ray.evaluation.metrics import metrics_of
from glotok_ray.evaluation.plan import DECODED, SAMPLES, TRAINING, VALIDATION, Block, plan, units_of
from glotok_ray.evaluation.units import build_measurement
from glotok_ray.metrics.blocks import recut
from glotok_ray.metrics.nearest import nearest_distances
from glotok_ray.metrics.reconstruction import psnr
from glotok_ray.metrics.uniformity import code_uniformity
from glotok_ray.nn.quantizer import Lookup
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage import artefact
from glotok_ray.teacher.networks import weights_digest
from tests.evaluation.stored_parts import in_parts
from tests.evaluation.tiny_inputs import TOKENIZER, recorded_precisions, settings, write_inputs
from tests.small_data import small_pool


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("evaluate"))


def measurement(
    config: EvaluateRun, *, image_size: int = 16, kept_images: int = 3
) -> BlockMeasurement:
    extractor = EfficientNetLite0Features(
        input_side=config.feature_size, device=torch.device("cpu")
    )
    return BlockMeasurement(config, [extractor], image_size=image_size, kept_images=kept_images)


NETWORKS = networks_of([EfficientNetLite0Features(input_side=32, device=torch.device("cpu"))])


def no_draws(vectors):
    raise AssertionError("nothing is drawn here")


class SumExtractor:
    """A feature network of one number: the sum of an image."""

    name, key, input_contract, weights_sha256 = "sums", "sums", "as they are", "0" * 64
    outputs = types.MappingProxyType({POOLED: 1})
    device = torch.device("cpu")

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        sums = images.reshape(len(images), -1).sum(axis=1, keepdims=True)
        return {POOLED: sums.astype(np.float64)}


def test_any_feature_network_may_measure_and_blocks_of_a_unit_are_those_alone(
    inputs: Path, tmp_path: Path
) -> None:
    config = settings(inputs, tmp_path)
    measure = BlockMeasurement(config, [SumExtractor()], image_size=16)
    blocks = [block for block in plan(config)[0] if block.kind == VALIDATION]
    units = units_of(blocks)
    assert [len(unit) for unit in units] == [2, 1]
    together = [found for unit in units for found in measure(unit)]
    alone = [found for block in blocks for found in measure([block])]
    for one, other in zip(together, alone, strict=True):
        assert one.arrays.keys() == other.arrays.keys()
        for name, values in one.arrays.items():
            np.testing.assert_array_equal(values, other.arrays[name])
    images = in_parts(blocks, measure, tmp_path)[VALIDATION]
    features = np.concatenate(list(images.blocks("sums.pooled")))
    np.testing.assert_array_equal(
        features[:3], SumExtractor()(images.pictures("inputs")[:3])[POOLED]
    )


def test_the_embedded_extractor_says_what_it_is(inputs: Path, tmp_path: Path) -> None:
    measure = build_measurement(settings(inputs, tmp_path), image_size=16, folder=tmp_path)
    (extractor,) = measure._extractors
    assert extractor.name == "EfficientNet-Lite0"
    assert "32 x 32" in extractor.input_contract
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert extractor(images)[POOLED].shape == (2, extractor.outputs[POOLED])
    # The digest of the teacher's features of the same network.
    assert extractor.weights_sha256 == weights_digest(
        FeatureNetworkConfig(name="efficientnet_lite0")
    )


def test_blocks_are_measured_by_what_the_tokenizer_makes(inputs: Path, tmp_path: Path) -> None:
    measure = measurement(settings(inputs, tmp_path), kept_images=3)
    (measured,) = measure([Block(VALIDATION, 2, 7, 2, file="part-00000.parquet")])
    arrays, pictures = measured.arrays, measured.pictures
    assert arrays[EFFNET_POOLED].shape == (5, 1280)
    # Image 2 alone is below the third kept one.
    assert pictures["inputs"].shape == (1, 16, 16, 3)
    np.testing.assert_allclose(
        arrays["psnr"][:1], psnr(pictures["inputs"], pictures["reconstructions"])
    )
    # Decoding the block's own codes as a baseline gives the same image.
    codes = [arrays["visual"][:1], arrays["semantic"][:1]]
    np.testing.assert_array_equal(measure._decode(codes), pictures["reconstructions"])


def test_convolutions_do_not_round_to_tf32(inputs: Path, tmp_path: Path) -> None:
    config = settings(inputs, tmp_path)
    blocks, _ = plan(config)
    measure = BlockMeasurement(config, [SumExtractor()], image_size=16)
    with recorded_precisions() as found:
        measure(blocks[:1])
    assert found == {"ieee"}


def test_crops_of_originals_are_adm_s(inputs: Path, tmp_path: Path) -> None:
    files = []
    for number, size in enumerate([(50, 37), (37, 50), (16, 16), (15, 90)]):
        stream = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG")
        files.append(stream.getvalue())
    rows = [
        Row(str(n), stored_image(file, image_size=0, upright=False).encoded, 0)
        for n, file in enumerate(files)
    ]
    write_shard(tmp_path / "part-00000.parquet", rows)
    measure = measurement(
        settings(inputs, tmp_path / "out", data_path=str(tmp_path)), kept_images=4
    )
    (measured,) = measure([Block(VALIDATION, 0, 4, file="part-00000.parquet")])
    for file, crop in zip(files, measured.pictures["inputs"], strict=True):
        image = Image.open(io.BytesIO(file)).convert("RGB")
        while min(image.size) >= 32:
            image = image.resize((image.width // 2, image.height // 2), Image.BOX)
        scale = 16 / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        whole = np.array(image.resize(size, Image.BICUBIC))
        top, left = (whole.shape[0] - 16) // 2, (whole.shape[1] - 16) // 2
        np.testing.assert_array_equal(crop, whole[top : top + 16, left : left + 16])


def test_samples_alone_need_no_tokenizer(inputs: Path, tmp_path: Path) -> None:
    config = settings(
        inputs, tmp_path, tokenizer_path="", codes_path="", training_path="", generator_path=""
    )
    blocks, image_size = plan(config)
    measure = measurement(config, image_size=image_size)
    measured = in_parts(blocks, measure, tmp_path)
    metrics = metrics_of(measured, config, image_size, no_draws, num_classes=2, networks=NETWORKS)
    assert list(metrics) == ["samples_fd_effnet", "samples_own_class", "validation_own_class"]
    assert metrics["samples_fd_effnet"]["value"] > 0
    # Labels as tiny_inputs wrote them: of samples all 0, of the crops 0 and 1 by turns.
    assert measured["samples"].column("labels").tolist() == [0] * 6
    assert measured[VALIDATION].column("labels").tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]


def test_a_diverged_tokenizer_has_no_psnr(inputs: Path, tmp_path: Path) -> None:
    measure = measurement(settings(inputs, tmp_path), kept_images=0)
    assert measure._tokenizer is not None
    measure._tokenizer.encoder.conv_in.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="image 0 of 5 holds NaN"):
        measure([Block(VALIDATION, 2, 7, 2, file="part-00000.parquet")])
    network = measurement(settings(inputs, tmp_path), kept_images=0)
    network._extractors[0]._network.network._conv_head.bias.data[3] = torch.nan
    found = in_parts([Block(VALIDATION, 0, 5, file="part-00000.parquet")], network, tmp_path)
    with pytest.raises(ValueError, match="features hold values that are not finite"):
        metrics_of(
            found, settings(inputs, tmp_path), 16, no_draws, num_classes=2, networks=NETWORKS
        )


@pytest.mark.parametrize("lookup", ["cosine", "euclidean"])
def test_density_is_that_of_what_the_look_up_compares(
    inputs: Path, tmp_path: Path, lookup: Lookup
) -> None:
    """Directions on a regular grid of angles are even; their lengths are not."""
    book = CodebookConfig(name="visual", size=32, width=2, lookup=lookup)
    model = GloTokTokenizer(dataclasses.replace(TOKENIZER, codebooks=(book,)))
    angles = torch.arange(32) * (2 * np.pi / 32)
    lengths = torch.where(torch.arange(32) % 2 == 0, 1.0, 0.05)
    rows = lengths[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
    model.quantizer("visual").codebook.data = rows
    (tmp_path / "tokenizer").mkdir()
    model.save_pretrained(tmp_path / "tokenizer")
    artefact.write_manifest(tmp_path / "tokenizer", "tokenizer")
    codes = {"visual": [np.tile(np.arange(32, dtype=np.uint16), (2, 1))] * 2}
    config = settings(
        inputs, tmp_path, tokenizer_path=str(tmp_path / "tokenizer"), uniformity_repeats=0
    )
    entry = code_metrics(codes, config, no_draws)["visual_count_density_cv"]
    raw, unit = (
        code_uniformity(np.full(32, 4), vectors.double().numpy()).density_cv
        for vectors in (rows, torch.nn.functional.normalize(rows, dim=1))
    )
    assert raw > 0.5
    assert unit < 0.1
    assert entry["value"] == pytest.approx(raw if lookup == "euclidean" else unit, abs=1e-6)
    assert ("rows as they are" in entry["protocol"]) == (lookup == "euclidean")


def test_training_crops_are_cut_and_measured_as_the_validation_crops(
    inputs: Path, tmp_path: Path
) -> None:
    config = settings(
        inputs, tmp_path, tokenizer_path="", codes_path="", generator_path="", training_images=6
    )
    measure = BlockMeasurement(config, [SumExtractor()], image_size=8)
    units = [unit for unit in units_of(plan(config)[0]) if unit[0].kind == TRAINING]
    blocks = [block for unit in units for block in unit]
    (found,) = recut(in_parts(blocks, measure, tmp_path)[TRAINING].blocks("sums.pooled"), 99)
    stored = [
        row
        for name in ("00000", "00001")
        for row in read_rows(inputs / "training" / f"part-{name}.parquet")
    ]
    sums = [center_crop(decode_image(row.image, row.key), 8).sum() for row in stored]
    chosen = [
        row + 8 * (block.file == "part-00001.parquet")
        for unit in units
        for block in unit
        for row in block.rows
    ]
    assert len(chosen) == 6
    np.testing.assert_array_equal(found[:, 0], np.array(sums)[chosen])


def test_a_copied_sample_has_no_distance_to_its_training_crop(inputs: Path, tmp_path: Path) -> None:
    config = settings(inputs, tmp_path, tokenizer_path="", codes_path="", generator_path="")
    blocks, image_size = plan(config)
    measure = measurement(config, image_size=image_size)
    measured = in_parts(blocks, measure, tmp_path)
    distances = nearest_distances(
        measured[SAMPLES].blocks(EFFNET_POOLED), measured[TRAINING].blocks(EFFNET_POOLED)
    )
    assert distances[0] < 1e-3 * distances[1:].min()
    metrics = metrics_of(measured, config, image_size, no_draws, num_classes=2, networks=NETWORKS)
    assert metrics["samples_nearest_training"]["value"] == pytest.approx(np.median(distances))
    assert metrics["validation_nearest_training"]["value"] > 0


def test_decoded_training_crops_are_reconstructions_of_the_very_crops(
    inputs: Path, tmp_path: Path
) -> None:
    """The training shards measured as validation crops have the same reconstructions."""
    config = settings(
        inputs, tmp_path, generator_path="", codes_path="", probe_images=0, uniformity_repeats=0
    )
    blocks, image_size = plan(config)
    measured = in_parts(blocks, measurement(config, image_size=image_size), tmp_path)
    decoded = np.concatenate(list(measured[DECODED].blocks(EFFNET_POOLED)))
    swapped = settings(
        inputs,
        tmp_path,
        data_path=str(inputs / "training"),
        **dict.fromkeys(("samples_path", "codes_path", "training_path", "generator_path"), ""),
    )
    crops = in_parts(
        plan(swapped)[0], measurement(swapped, image_size=image_size), tmp_path / "swapped"
    )[VALIDATION]
    expected = np.concatenate(list(crops.blocks(of_reconstructions(EFFNET_POOLED))))
    np.testing.assert_array_equal(decoded, expected)
    metrics = metrics_of(measured, config, image_size, no_draws, num_classes=2, networks=NETWORKS)
    distances = nearest_distances([decoded], measured[TRAINING].blocks(EFFNET_POOLED))
    entry = metrics["decoded_nearest_training"]
    assert entry["value"] == pytest.approx(np.median(distances))
    assert entry["value"] > 0
    assert "11 of these training crops" in entry["protocol"]


@pytest.mark.parametrize("architecture", ["xar", "far"])
def test_a_generators_loss_is_of_the_codes_of_its_own_tokenizer(
    inputs: Path, tmp_path: Path, architecture: str
) -> None:
    """With the tokenizer measured beside it, and with the copy in its folder; in blocks of any size."""
    generator_path = str(inputs / architecture)
    changes = {"samples_path": "", "codes_path": "", "training_path": ""}
    beside = settings(inputs, tmp_path, generator_path=generator_path, **changes)
    alone = settings(
        inputs,
        tmp_path,
        tokenizer_path="",
        generator_path=generator_path,
        pool=small_pool(batch_size=3),
        **changes,
    )
    results = []
    for config in (beside, alone):
        blocks, image_size = plan(config)
        measure = BlockMeasurement(config, [SumExtractor()], image_size=image_size)
        results.append(in_parts(blocks, measure, tmp_path / str(len(results))))
    first, second = (measured[VALIDATION] for measured in results)
    assert "psnr" in first
    assert "psnr" not in second
    for name in (LOSS, SHUFFLED, UNLEARNED):
        assert first.column(name).shape == (11,)
        np.testing.assert_allclose(first.column(name), second.column(name), rtol=1e-5)
    assert (first.column(LOSS) != first.column(SHUFFLED)).all()
    metrics = metrics_of(results[1], alone, 16, no_draws, num_classes=2, networks=NETWORKS)
    assert list(metrics) == [LOSS, SHUFFLED]
    assert metrics[LOSS]["value"] == pytest.approx(second.column(LOSS).mean())
