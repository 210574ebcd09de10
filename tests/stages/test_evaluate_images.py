"""An evaluation of an untrained tokenizer on tiny images: metrics, baselines, pool independence and
refusals.
"""

import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from glotok_ray.config import (
    AdapterConfig,
    AutoencoderConfig,
    CodebookConfig,
    EvaluateRun,
    PoolConfig,
    ResidualConfig,
    TokenizerConfig,
)
from glotok_ray.data.image_files import stored_image
from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.evaluation.measure import (
    VALIDATION,
    Block,
    BlockMeasurement,
    read_images,
    read_rows,
    stored_images,
)
from glotok_ray.evaluation.plan import baseline_codes, plan
from glotok_ray.metrics.reconstruction import psnr
from glotok_ray.metrics.uniformity import code_uniformity
from glotok_ray.nn.quantizer import Lookup
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.stages import evaluate_images
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from jobs import evaluate_images as evaluate_images_job

TOKENIZER = TokenizerConfig(
    autoencoder=AutoencoderConfig(
        image_size=16,
        base_channels=32,
        channel_multipliers=(1, 1, 1),
        num_res_blocks=1,
        latent_channels=32,
    ),
    adapter=AdapterConfig(depth=1, num_heads=2),
    codebooks=(
        CodebookConfig(name="visual", size=32, width=4),
        CodebookConfig(name="semantic", size=32, width=4),
    ),
    residual=ResidualConfig(width=16, num_heads=2),
)
POSITIONS = 16


def pool(num_actors: int = 1) -> PoolConfig:
    return PoolConfig(
        num_actors=num_actors,
        use_gpu=False,
        cpus_per_actor=0.5,
        threads_per_actor=1,
        batch_size=5,
    )


def write_codes(folder: Path, tokenizer: Path) -> None:
    """Eight images whose semantic codes are all 3 and whose visual codes are their position."""
    folder.mkdir()
    flat = {
        "semantic": np.full(8 * POSITIONS, 3, np.uint16),
        "visual": np.tile(np.arange(POSITIONS, dtype=np.uint16), 8),
    }
    columns = {
        name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values), POSITIONS)
        for name, values in flat.items()
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "part-00000.parquet")
    facts = {
        "kind": "codes",
        "classes": ["a", "b"],
        "num_images": 8,
        "num_views": 1,
        "image_size": 16,
        "codebooks": {"visual": 32, "semantic": 32},
        "grid_size": 4,
        "tokenizer_sha256": artefact.sha256_of(tokenizer / "tokenizer.safetensors"),
        "shards": [{"file": "part-00000.parquet", "rows": 8, "sha256": "unchecked"}],
    }
    artefact.write_json(folder / "dataset.json", facts)
    artefact.write_manifest(folder, "codes")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders validation (7 + 4 images), tokenizer, other_tokenizer, samples (6 images), codes."""
    folder = tmp_path_factory.mktemp("evaluate")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, size=(17, 16, 16, 3), dtype=np.uint8)
    (folder / "validation").mkdir()
    rows = [Row(f"{index}", encode_png(image), index % 2) for index, image in enumerate(images)]
    shards = [
        write_shard(folder / "validation" / name, part)
        for name, part in (("part-00000.parquet", rows[:7]), ("part-00001.parquet", rows[7:11]))
    ]
    write_dataset(
        folder / "validation",
        classes=["a", "b"],
        form="crop",
        image_size=16,
        shards=shards,
        details={},
    )
    artefact.write_manifest(folder / "validation", "shards")
    torch.manual_seed(0)
    for name in ("tokenizer", "other_tokenizer"):
        (folder / name).mkdir()
        GloTokTokenizer(TOKENIZER).save_pretrained(folder / name)
        artefact.write_manifest(folder / name, "tokenizer")
    (folder / "samples").mkdir()
    np.savez(folder / "samples" / "samples.npz", arr_0=images[11:])
    digest = artefact.sha256_of(folder / "tokenizer" / "tokenizer.safetensors")
    describe_samples(folder / "samples", images[11:], ["a", "b"], digest)
    write_codes(folder / "codes", folder / "tokenizer")
    return folder


def describe_samples(
    folder: Path, images: np.ndarray, classes: list[str], tokenizer_sha256: str
) -> None:
    """What the job that samples says of its images."""
    shard = write_shard(
        folder / "samples.parquet",
        [Row(str(index), encode_png(image), 0) for index, image in enumerate(images)],
    )
    write_dataset(folder, classes=classes, form="crop", image_size=16, shards=[shard], details={})
    artefact.write_manifest(
        folder, "samples", num_images=len(images), tokenizer_sha256=tokenizer_sha256
    )


def settings(inputs: Path, output: Path, **changes: object) -> EvaluateRun:
    config = EvaluateRun(
        tokenizer_path=str(inputs / "tokenizer"),
        data_path=str(inputs / "validation"),
        samples_path=str(inputs / "samples"),
        codes_path=str(inputs / "codes"),
        output_path=str(output),
        feature_size=32,
        uniformity_repeats=1,
        pool=pool(),
    )
    return dataclasses.replace(config, **changes)


def test_blocks_cover_every_image_once(inputs: Path, tmp_path: Path) -> None:
    blocks, image_size = plan(settings(inputs, tmp_path))
    assert image_size == 16
    validation = [block for block in blocks if block.kind == VALIDATION]
    assert [(block.file[5:10], block.start, block.stop) for block in validation] == [
        ("00000", 0, 5),
        ("00000", 5, 7),
        ("00001", 0, 4),
    ]
    assert [block.first_image for block in validation] == [0, 5, 7]
    first, _ = plan(settings(inputs, tmp_path, num_images=8, samples_path="", codes_path=""))
    assert sum(block.stop - block.start for block in first) == 8


def test_baselines_draw_from_the_training_codes(inputs: Path, tmp_path: Path) -> None:
    blocks, _ = plan(settings(inputs, tmp_path))
    marginal = [block.codes for block in blocks if block.kind == "baseline_marginal"]
    visual, semantic = np.concatenate(marginal).swapaxes(0, 1)
    assert semantic.shape == (6, POSITIONS)
    assert (semantic == 3).all()
    np.testing.assert_array_equal(visual, np.tile(np.arange(POSITIONS), (6, 1)))
    uniform = [block.codes for block in blocks if block.kind == "baseline_uniform"]
    assert len(np.unique(np.concatenate([codes[:, 0] for codes in uniform]))) > 16


def test_a_judge_measures_what_the_tokenizer_makes(inputs: Path, tmp_path: Path) -> None:
    measure = BlockMeasurement(
        settings(inputs, tmp_path), image_size=16, kept_images=3, device=torch.device("cpu")
    )
    measured = measure(Block(VALIDATION, 2, 7, 2, file="part-00000.parquet"))
    assert measured.features.shape == (5, 1280)
    arrays = measured.arrays
    # Image 2 alone is below the third kept one.
    assert arrays["inputs"].shape == (1, 16, 16, 3)
    np.testing.assert_allclose(
        arrays["psnr"][:1], psnr(arrays["inputs"], arrays["reconstructions"])
    )
    # Decoding the block's own codes as a baseline gives the same image.
    codes = np.stack([arrays["visual"][:1], arrays["semantic"][:1]], axis=1)
    decoded = measure(Block("baseline_uniform", 0, 1, 0, codes=codes))
    np.testing.assert_array_equal(decoded.arrays["images"], arrays["reconstructions"])


def test_rows_and_images_are_read_in_parts(inputs: Path, tmp_path: Path) -> None:
    path = tmp_path / "grouped.parquet"
    table = pyarrow.table({"key": [str(row) for row in range(10)], "image": [b"x"] * 10})
    pyarrow.parquet.write_table(table, path, row_group_size=3)
    for start, stop in ((0, 3), (2, 4), (5, 10), (9, 10)):
        keys = read_rows(path, start, stop)["key"].to_pylist()
        assert keys == [str(row) for row in range(start, stop)]
    samples = inputs / "samples" / "samples.npz"
    np.testing.assert_array_equal(read_images(samples, 2, 5), np.load(samples)["arr_0"][2:5])
    np.savez_compressed(tmp_path / "packed.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(ArtefactError, match="without compression"):
        stored_images(tmp_path / "packed.npz")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_figures_do_not_depend_on_the_number_of_actors(inputs: Path, tmp_path: Path) -> None:
    alone = evaluate_images.run(settings(inputs, tmp_path / "alone"))
    evaluate_images.run(settings(inputs, tmp_path / "shared", pool=pool(num_actors=2)))
    metrics = artefact.read_json(tmp_path / "alone" / "metrics.json")
    assert metrics == artefact.read_json(tmp_path / "shared" / "metrics.json")
    assert alone["num_images"] == 11
    for name in (
        "reconstruction_psnr",
        "reconstruction_ssim",
        "reconstruction_fd_effnet",
        "samples_fd_effnet",
        "baseline_uniform_fd_effnet",
        "baseline_marginal_fd_effnet",
        "semantic_usage",
        "visual_perplexity",
    ):
        # With fewer images than features a distance is rank-deficient, and rounding may bring it below 0.
        assert metrics[name]["value"] > -0.1
        assert metrics[name]["value"] != 0
        assert metrics[name]["protocol"].endswith(
            "The validation crops are crops of the data set, as stored at 16 x 16 pixels."
        )
    assert "6 samples" in metrics["samples_fd_effnet"]["protocol"]
    with np.load(tmp_path / "alone" / "code_counts.npz") as counts:
        assert counts["semantic"].shape == (32,)
        assert counts["semantic"].sum() == 11 * POSITIONS
    for name in ("reconstructions.png", "baselines.png", "baseline_uniform.npz"):
        assert name in alone["files"]
    again = evaluate_images.run(settings(inputs, tmp_path / "alone"))
    assert again["written_unix_s"] == alone["written_unix_s"]


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
    measure = BlockMeasurement(
        settings(inputs, tmp_path / "out", data_path=str(tmp_path)),
        image_size=16,
        kept_images=4,
        device=torch.device("cpu"),
    )
    measured = measure(Block(VALIDATION, 0, 4, file="part-00000.parquet"))
    for file, crop in zip(files, measured.arrays["inputs"], strict=True):
        image = Image.open(io.BytesIO(file)).convert("RGB")
        while min(image.size) >= 32:
            image = image.resize((image.width // 2, image.height // 2), Image.BOX)
        scale = 16 / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        whole = np.array(image.resize(size, Image.BICUBIC))
        top, left = (whole.shape[0] - 16) // 2, (whole.shape[1] - 16) // 2
        np.testing.assert_array_equal(crop, whole[top : top + 16, left : left + 16])


def test_reduced_pictures_are_refused_where_adm_s_protocol_is_asked_for(
    inputs: Path, tmp_path: Path
) -> None:
    shutil.copytree(inputs / "validation", tmp_path / "reduced")
    facts = artefact.read_json(tmp_path / "reduced" / "dataset.json")
    artefact.write_json(tmp_path / "reduced" / "dataset.json", {**facts, "form": "reduced"})
    config = settings(inputs, tmp_path / "out", data_path=str(tmp_path / "reduced"))
    assert (
        "16 to 20 pixels before, which is not ADM's"
        in evaluate_images_job.describe(config)["crops"]
    )
    strict = dataclasses.replace(config, adm_protocol=True)
    for start in (evaluate_images.run, evaluate_images_job.describe):
        with pytest.raises(ArtefactError, match=r"adm_protocol = True: .*reduced.*--image-size 0"):
            start(strict)
    assert not (tmp_path / "out").exists()
    whole = dataclasses.replace(strict, data_path=str(inputs / "validation"))
    assert evaluate_images_job.describe(whole)["images"]["validation"] == 11


def test_samples_alone_need_no_tokenizer(inputs: Path, tmp_path: Path) -> None:
    config = settings(inputs, tmp_path, tokenizer_path="", codes_path="")
    blocks, image_size = plan(config)
    measure = BlockMeasurement(
        config, image_size=image_size, kept_images=3, device=torch.device("cpu")
    )
    merged = evaluate_images.merge(measure(block) for block in blocks)
    metrics = evaluate_images.metrics_of(merged, config, image_size)
    assert list(metrics) == ["samples_fd_effnet"]
    assert metrics["samples_fd_effnet"]["value"] > 0


def test_paths_that_do_not_fit_are_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_images.run(settings(inputs, tmp_path, tokenizer_path="", samples_path=""))
    with pytest.raises(ValueError, match="data_path is empty"):
        evaluate_images.run(settings(inputs, tmp_path, data_path=""))
    with pytest.raises(ValueError, match="baselines need tokenizer_path"):
        evaluate_images.run(settings(inputs, tmp_path, samples_path=""))
    other = settings(inputs, tmp_path, tokenizer_path=str(inputs / "other_tokenizer"))
    with pytest.raises(ArtefactError, match="codes: made by another tokenizer"):
        baseline_codes(other)
    with pytest.raises(
        ArtefactError, match=r"samples: decoded by tokenizer \w+, but .* beside them"
    ):
        plan(other)
    with pytest.raises(ArtefactError, match="holds 11 images"):
        plan(settings(inputs, tmp_path, num_images=12))


def small_pictures(inputs: Path, folder: Path) -> Path:
    """The validation shards as a recorded 8 pixels wide."""
    shutil.copytree(inputs / "validation", folder)
    facts = artefact.read_json(folder / "dataset.json")
    artefact.write_json(folder / "dataset.json", {**facts, "image_size": 8})
    artefact.write_manifest(folder, "shards")
    return folder


def test_pictures_of_a_smaller_side_are_refused_before_anything_starts(
    inputs: Path, tmp_path: Path
) -> None:
    data = str(small_pictures(inputs, tmp_path / "small"))
    for changes in (
        {},
        {"samples_path": "", "codes_path": ""},
        {"tokenizer_path": "", "codes_path": ""},
    ):
        config = settings(inputs, tmp_path / "out", data_path=data, **changes)
        for check in (evaluate_images.run, evaluate_images_job.describe):
            with pytest.raises(ArtefactError, match=r"are stored at 8 pixels .* takes 16"):
                check(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("classes", "images", "message"),
    [
        (["b", "a"], 6, r"samples has 2 classes \(b, a\), and .*validation has 2 classes \(a, b\)"),
        (["a", "b"], 5, r"samples\.npz: holds an array of shape \(6, .*dataset\.json says \(5, "),
    ],
)
def test_samples_must_be_what_their_folder_says(
    inputs: Path, tmp_path: Path, classes: list[str], images: int, message: str
) -> None:
    folder = tmp_path / "samples"
    shutil.copytree(inputs / "samples", folder)
    stored = np.load(folder / "samples.npz")["arr_0"]
    digest = artefact.sha256_of(inputs / "tokenizer" / "tokenizer.safetensors")
    describe_samples(folder, stored[:images], classes, digest)
    config = settings(inputs, tmp_path / "out", samples_path=str(folder))
    for check in (plan, evaluate_images_job.describe):
        with pytest.raises(ArtefactError, match=message):
            check(config)


def test_codes_of_other_classes_make_no_baseline(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "codes"
    shutil.copytree(inputs / "codes", folder)
    facts = artefact.read_json(folder / "dataset.json")
    artefact.write_json(folder / "dataset.json", {**facts, "classes": ["a", "c"]})
    artefact.write_manifest(folder, "codes")
    config = settings(inputs, tmp_path / "out", codes_path=str(folder))
    for check in (plan, evaluate_images_job.describe):
        with pytest.raises(ArtefactError, match=r"codes has 2 classes \(a, c\)"):
            check(config)


def test_dry_run_counts_images(inputs: Path, tmp_path: Path) -> None:
    images = evaluate_images_job.describe(settings(inputs, tmp_path))["images"]
    assert images == {
        "validation": 11,
        "samples": 6,
        "baseline_uniform": 6,
        "baseline_marginal": 6,
    }
    absent = settings(inputs, tmp_path, data_path="nowhere", samples_path="nothing")
    assert set(evaluate_images_job.describe(absent)["images"].values()) == {None}


def test_a_diverged_tokenizer_has_no_psnr(inputs: Path, tmp_path: Path) -> None:
    measure = BlockMeasurement(
        settings(inputs, tmp_path), image_size=16, kept_images=0, device=torch.device("cpu")
    )
    assert measure._tokenizer is not None
    measure._tokenizer.encoder.conv_in.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="image 0 of 5 holds NaN"):
        measure(Block(VALIDATION, 2, 7, 2, file="part-00000.parquet"))
    network = BlockMeasurement(
        settings(inputs, tmp_path), image_size=16, kept_images=0, device=torch.device("cpu")
    )
    network._network.network._bn1.bias.data[3] = torch.nan
    block = network(Block(VALIDATION, 0, 5, file="part-00000.parquet"))
    with pytest.raises(ValueError, match="features_a holds values that are not finite"):
        evaluate_images.metrics_of(evaluate_images.merge([block]), settings(inputs, tmp_path), 16)


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
    codes = {"visual": np.tile(np.arange(32, dtype=np.uint16), (4, 1))}
    config = settings(
        inputs, tmp_path, tokenizer_path=str(tmp_path / "tokenizer"), uniformity_repeats=0
    )
    entry = evaluate_images._code_metrics(codes, config)["visual_count_density_cv"]
    raw, unit = (
        code_uniformity(np.full(32, 4), vectors.double().numpy()).density_cv
        for vectors in (rows, torch.nn.functional.normalize(rows, dim=1))
    )
    assert raw > 0.5
    assert unit < 0.1
    assert entry["value"] == pytest.approx(raw if lookup == "euclidean" else unit, abs=1e-6)
    assert ("rows as they are" in entry["protocol"]) == (lookup == "euclidean")
