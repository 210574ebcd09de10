"""The actor-pool jobs on a tiny data set: codes, samples, and the pool's own promises."""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from glotok_ray import config
from glotok_ray.config import (
    EncodeRun,
    EvaluateRun,
    FARConfig,
    FARSampleRun,
    FlowConfig,
    FlowSamplerConfig,
    TokenSamplerConfig,
    VocabularyConfig,
    XARConfig,
    XARSampleRun,
)
from glotok_ray.data.pixel_range import to_model_range
from glotok_ray.data.records import (
    decode_image,
    read_dataset,
    read_rows,
)
from glotok_ray.data.written_shards import RECEIPTS, write_codes_receipt
from glotok_ray.nn.far import FAR
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.on_ray.actor_pool import map_shards
from glotok_ray.pretrained.generator import save_generator
from glotok_ray.pretrained.tokenizer import load_tokenizer
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.stages import encode_images, evaluate_images, sample_images
from glotok_ray.storage import artefact, begun, output
from glotok_ray.storage.artefact import ArtefactError
from jobs import encode_images as encode_images_job
from jobs import sample_images as sample_images_job
from jobs.failures import guarded
from tests.small_data import ROWS, small_pool, write_shards
from tests.small_models import tiny_tokenizer

pytestmark = pytest.mark.ray

TOKENIZER = tiny_tokenizer(image_size=32, channel_multipliers=(1, 1, 2))
GENERATOR = XARConfig(
    grid_size=8, cell_size=4, channels=8, width=32, depth=2, num_heads=2, num_classes=3
)
FAR_GENERATOR = FARConfig(
    grid_size=8,
    codebooks=(
        VocabularyConfig(name="visual", size=32),
        VocabularyConfig(name="semantic", size=16),
    ),
    width=32,
    depth=1,
    head_depth=1,
    num_heads=2,
    mlp_multiple=8,
    num_classes=3,
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders shards, tokenizer, other_tokenizer, and generator and far (of the tokenizer)."""
    folder = tmp_path_factory.mktemp("batch_jobs")
    write_shards(folder / "shards")
    torch.manual_seed(0)
    for name in ("tokenizer", "other_tokenizer"):
        (folder / name).mkdir()
        model = GloTokTokenizer(TOKENIZER)
        # Residual predictors start at the identity; moved away from it, a decode without them
        # shows.
        for parameter in (
            *model.branches["semantic"].residual.parameters(),
            *model.branches["visual"].residual.parameters(),
        ):
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder / name)
        artefact.write_manifest(folder / name, "tokenizer")
    for name, kind, model in (("generator", XAR, GENERATOR), ("far", FAR, FAR_GENERATOR)):
        facts = {
            "architecture": "xar" if kind is XAR else "far",
            "model": config.to_dict(model),
            **({"flow": config.to_dict(FlowConfig())} if kind is XAR else {}),
            "tokenizer_sha256": artefact.sha256_of(folder / "tokenizer" / "tokenizer.safetensors"),
            "classes": ["a", "b", "c"],
        }
        save_generator(folder / name, kind(model).state_dict(), kind(model).state_dict(), facts)
        (folder / name / "tokenizer").mkdir()
        for file in ("tokenizer.safetensors", "config.json"):
            shutil.copyfile(folder / "tokenizer" / file, folder / name / "tokenizer" / file)
        artefact.write_manifest(folder / name, "generator")
    return folder


def encode_run(inputs: Path, output: Path, **changes: Any) -> EncodeRun:
    values = {
        "data_path": str(inputs / "shards"),
        "tokenizer_path": str(inputs / "tokenizer"),
        "pool": small_pool(),
    }
    return EncodeRun(output_path=str(output), **{**values, **changes})


def sample_run(inputs: Path, output: Path, **changes: Any) -> XARSampleRun:
    values = {
        "generator_path": str(inputs / "generator"),
        "tokenizer_path": str(inputs / "tokenizer"),
        "num_images": 7,
        "seed": 5,
        "sampler": FlowSamplerConfig(num_steps=2),
        "pool": small_pool(batch_size=3),
    }
    return XARSampleRun(output_path=str(output), **{**values, **changes})


def far_sample_run(inputs: Path, output: Path, **changes: Any) -> FARSampleRun:
    values = {
        "generator_path": str(inputs / "far"),
        "num_images": 7,
        "seed": 5,
        "sampler": TokenSamplerConfig(),
        "pool": small_pool(batch_size=3),
    }
    return FARSampleRun(output_path=str(output), **{**values, **changes})


def doubler() -> type:
    """A worker class that Ray pickles by value, since its workers cannot import this file."""

    class Doubler:
        def __init__(self, offset: int) -> None:
            self.offset = offset

        def __call__(self, unit: int) -> tuple[int, int]:
            if unit == 99:
                raise ValueError("unit 99: damaged")
            if unit == 77:
                raise RuntimeError("CUDA out of memory.\nSee the documentation")
            return 2 * unit + self.offset, torch.get_num_threads()

    return Doubler


def test_results_come_in_the_units_order_whatever_the_pool(ray_cluster: Any) -> None:
    units = list(range(7))
    for num_actors in (1, 2):
        found = list(
            map_shards(
                units,
                doubler(),
                {"offset": 1},
                small_pool(num_actors),
                stage="double",
                sizes=[1] * 7,
            )
        )
        assert found == [(2 * unit + 1, 1) for unit in units]


def test_an_error_in_an_actor_keeps_its_message(ray_cluster: Any) -> None:
    with pytest.raises(ArtefactError, match=r"^unit 99: damaged$"):
        list(
            map_shards(
                [1, 99], doubler(), {"offset": 0}, small_pool(), stage="double", sizes=[1, 1]
            )
        )


def test_an_error_that_is_no_bad_input_ends_in_one_line_with_its_cause(
    ray_cluster: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def job() -> int:
        list(map_shards([77], doubler(), {"offset": 0}, small_pool(), stage="double", sizes=[1]))
        return 0

    assert guarded("double", job) == 1
    told = [line for line in caplog.messages if line.startswith("double: failed")]
    assert len(told) == 1
    cause = "double: failed: RuntimeError: CUDA out of memory. See the documentation; log: "
    assert told[0].startswith(cause)
    assert "Traceback" in Path(told[0].rpartition(" ")[2]).read_text()
    assert "Exception occurred in user code" not in capfd.readouterr().err + caplog.text


def test_codes_are_the_tokenizers_own(
    ray_cluster: Any, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = encode_images.run(encode_run(inputs, tmp_path / "codes"))["written_unix_s"]
    artefact.read_manifest(tmp_path / "codes", "codes")
    facts = artefact.read_json(tmp_path / "codes" / "dataset.json")
    assert (facts["views"], facts["crop_scale"]) == ("center_flip", None)
    assert facts["crops"] == "crops of the data set, as stored at 64 x 64 pixels"
    assert (facts["num_images"], facts["num_views"], facts["grid_size"], facts["num_classes"]) == (
        36,
        2,
        8,
        3,
    )
    assert facts["tokenizer_sha256"] == artefact.sha256_of(
        inputs / "tokenizer" / "tokenizer.safetensors"
    )
    found = read_dataset(tmp_path / "codes", verify=True)
    assert [shard.rows for shard in found.shards] == [2 * rows for rows in ROWS]
    table = pq.read_table(tmp_path / "codes" / "part-00001.parquet")
    assert table.schema.field("semantic").type == pa.list_(pa.uint16(), 64)
    assert (table.schema.field("label").type, table.schema.field("view").type) == (
        pa.int32(),
        pa.int8(),
    )
    assert table["key"].to_pylist()[:4] == ["1/0", "1/0", "1/1", "1/1"]
    assert table["view"].to_pylist()[:4] == [0, 1, 0, 1]
    expected = direct_codes(inputs)
    for branch in ("semantic", "visual"):
        np.testing.assert_array_equal(np.array(table[branch].to_pylist()), expected[branch])
    counts = np.load(tmp_path / "codes" / "counts.npz")
    assert (counts["semantic"].shape, counts["visual"].shape) == ((16,), (32,))
    assert counts["semantic"].sum() == counts["visual"].sum() == 36 * 2 * 64
    # However their paths are written and wherever they lie, inputs are the same: nothing is done again.
    monkeypatch.chdir(inputs)
    assert encode_images.run(encode_run(Path(), tmp_path / "codes"))["written_unix_s"] == written
    shutil.copytree(inputs / "shards", tmp_path / "moved")
    moved = encode_run(inputs, tmp_path / "codes", data_path=str(tmp_path / "moved"))
    assert encode_images.run(moved)["written_unix_s"] == written


def test_a_killed_encoding_goes_on_behind_its_finished_files(
    ray_cluster: Any, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = encode_run(inputs, tmp_path / "codes")
    encode_images.run(run)
    folder = tmp_path / "codes"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def kill(fingerprint: str) -> int:
        """One file finished, one cut off as by a failing machine, one half written; returns when the first was made."""
        begun.reopen(folder, fingerprint)
        for name, content in whole.items():
            if name.endswith(".parquet"):
                digest = hashlib.sha256(content).hexdigest()
                write_codes_receipt(folder / name, len(content), digest)
        (folder / "part-00002.parquet").write_bytes(whole["part-00002.parquet"][:-9])
        (folder / "part-00000.parquet").unlink()
        (folder / ".part-00000.parquet.1.tmp").write_bytes(b"half")
        return (folder / "part-00001.parquet").stat().st_mtime_ns

    def check() -> None:
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert found.keys() == whole.keys()
        for name in found.keys() - {"manifest.json", "counts.npz"}:
            assert found[name] == whole[name]
        counts = [np.load(io.BytesIO(each["counts.npz"]))["visual"] for each in (found, whole)]
        np.testing.assert_array_equal(*counts)

    before = kill(json.loads(whole["manifest.json"])["fingerprint"])
    with caplog.at_level("INFO"):
        encode_images.run(run)
    assert "1 of 3 files are finished already" in caplog.text
    assert (folder / "part-00001.parquet").stat().st_mtime_ns == before
    check()
    before = kill("other")
    with pytest.raises(ArtefactError, match="unfinished work of other settings"):
        encode_images.run(run)
    assert (folder / "part-00001.parquet").stat().st_mtime_ns == before
    encode_images.run(run, fresh=True)
    assert (folder / "part-00001.parquet").stat().st_mtime_ns != before
    check()


def test_a_bad_shard_leaves_the_codes_of_the_others(
    ray_cluster: Any, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(inputs / "shards", tmp_path / "shards")
    bad = tmp_path / "shards" / "part-00001.parquet"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    run = encode_run(inputs, tmp_path / "codes", data_path=str(tmp_path / "shards"))
    cause = r"part-00001\.parquet: .*shards/part-00001\.parquet: differs from its sha256 in dataset"
    for _ in range(2):
        with pytest.raises(
            encode_images.IncompleteError, match=rf"1 of 3 shards could not be .*{cause}"
        ):
            encode_images.run(run)
        kept = ["part-00000.parquet", "part-00002.parquet"]
        folder = tmp_path / "codes"
        assert sorted(path.name for path in folder.iterdir()) == [".begun.json", *kept, RECEIPTS]
    before = [(folder / name).stat().st_mtime_ns for name in kept]
    settings = tmp_path / "run.json"
    artefact.write_json(settings, config.to_dict(run))
    caplog.clear()
    assert encode_images_job.main([str(settings)]) == 1
    assert [line.count("\n") for line in caplog.messages if "1 of 3 shards" in line] == [0]
    bad.write_bytes(whole)
    encode_images.run(run)
    assert [(folder / name).stat().st_mtime_ns for name in kept] == before
    encode_images.run(encode_run(inputs, tmp_path / "other"))
    for name in ("part-00001.parquet", *kept):
        assert (folder / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def direct_codes(inputs: Path) -> dict[str, np.ndarray]:
    """Codes of shard 1 without Ray; its 64-pixel images halve exactly to 32 under the centre crop's
    box filter.
    """
    stored = pq.read_table(inputs / "shards" / "part-00001.parquet")["image"].to_pylist()
    pixels = [
        np.asarray(Image.open(io.BytesIO(image)).resize((32, 32), Image.Resampling.BOX))
        for image in stored
    ]
    images = to_model_range(np.stack(pixels), torch.device("cpu"))
    tokenizer = load_tokenizer(inputs / "tokenizer")
    with torch.inference_mode():
        views = [tokenizer.encode(images), tokenizer.encode(images.flip(-1))]
    return {
        branch: np.stack([view[:, place].flatten(1).numpy() for view in views], axis=1).reshape(
            2 * len(pixels), -1
        )
        for place, branch in enumerate(("visual", "semantic"))
    }


def test_one_view_on_request(inputs: Path, tmp_path: Path) -> None:
    actor = encode_images.EncodeActor(encode_run(inputs, tmp_path, views="center"))
    look_up, precisions = actor._tokenizer.look_up, []

    def noted(images: torch.Tensor) -> Any:
        precisions.append(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]
        return look_up(images)

    actor._tokenizer.look_up = noted
    written = actor(read_dataset(inputs / "shards").shards[1])
    # On a GPU, too, codes are those of fp32.
    assert set(precisions) == {"ieee"}
    table = pq.read_table(tmp_path / "part-00001.parquet")
    assert (written.info.rows, table["view"].to_pylist()) == (10, [0] * 10)
    assert written.info.sha256 == artefact.sha256_of(tmp_path / written.info.file)
    np.testing.assert_array_equal(
        np.array(table["visual"].to_pylist()), direct_codes(inputs)["visual"][::2]
    )


def test_a_seed_that_samples_parquet_cannot_hold_is_refused(inputs: Path, tmp_path: Path) -> None:
    assert sample_run(inputs, tmp_path, seed=2**63 - 1).seed
    with pytest.raises(ValueError, match=r"seed = 9223372036854775808: must fit into 64 bits"):
        sample_run(inputs, tmp_path, seed=2**63)


def test_ten_crops_are_ten_adjacent_rows(ray_cluster: Any, inputs: Path, tmp_path: Path) -> None:
    run = encode_run(
        inputs, tmp_path / "codes", views="ten_crop", crop_scale=2.0, pool=small_pool(2, 7)
    )
    encode_images.run(run)
    facts = artefact.read_json(tmp_path / "codes" / "dataset.json")
    assert (facts["num_views"], facts["views"], facts["crop_scale"]) == (10, "ten_crop", 2.0)
    assert [shard.rows for shard in read_dataset(tmp_path / "codes", verify=True).shards] == [
        10 * rows for rows in ROWS
    ]
    counts = np.load(tmp_path / "codes" / "counts.npz")
    assert counts["semantic"].sum() == counts["visual"].sum() == 36 * 10 * 64
    table = pq.read_table(tmp_path / "codes" / "part-00001.parquet")
    assert table.schema.field("visual").type == pa.list_(pa.uint16(), 64)
    assert table["view"].to_pylist() == list(range(10)) * 10
    assert table["key"].to_pylist() == [f"1/{row}" for row in range(10) for _ in range(10)]
    # Twice the size is the stored 64 pixels, so the crops are plain quarters and the middle.
    stored = pq.read_table(inputs / "shards" / "part-00001.parquet")
    assert table["label"].to_pylist() == np.repeat(stored["label"].to_pylist(), 10).tolist()
    pixels = [np.asarray(Image.open(io.BytesIO(image))) for image in stored["image"].to_pylist()]
    places = ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))
    views = [
        image[:, ::step][top : top + 32, left : left + 32]
        for image in pixels
        for step in (1, -1)
        for top, left in places
    ]
    with torch.inference_mode():
        expected = load_tokenizer(inputs / "tokenizer").encode(
            to_model_range(np.stack(views), torch.device("cpu"))
        )
    for place, branch in enumerate(("visual", "semantic")):
        np.testing.assert_array_equal(
            np.array(table[branch].to_pylist()), expected[:, place].flatten(1).numpy()
        )


def drawn(folder: Path) -> np.ndarray:
    return np.load(folder / "samples.npz")["arr_0"]


def test_samples_do_not_depend_on_the_number_of_actors(
    ray_cluster: Any, inputs: Path, tmp_path: Path
) -> None:
    for num_actors in (1, 2):
        sample_images.run(
            sample_run(inputs, tmp_path / str(num_actors), pool=small_pool(num_actors, 3))
        )
    one, two = (drawn(tmp_path / name) for name in ("1", "2"))
    assert (one.shape, one.dtype) == ((7, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, direct_samples(inputs, sample_run(inputs, tmp_path)))
    grid = np.asarray(Image.open(tmp_path / "1" / "grid.png"))
    assert grid.shape == (3 * 32, 3 * 32, 3)
    np.testing.assert_array_equal(grid[32:64, 32:64], one[4])
    assert (grid[32:64, 64:] == 255).all()
    assert not (tmp_path / "1" / sample_images.BLOCKS_FOLDER).exists()


def direct_samples(inputs: Path, run: XARSampleRun | FARSampleRun) -> np.ndarray:
    """The samples without Ray, in the same blocks."""
    torch.set_num_threads(1)
    images = ImageGenerator.from_pretrained(
        run.generator_path, tokenizer_path=inputs / "tokenizer", use_ema=run.sampler.use_ema
    )
    blocks = [
        images.generate([image % 3 for image in ids], seed=5, image_ids=ids, sampler=run.sampler)
        for ids in ([0, 1, 2], [3, 4, 5], [6])
    ]
    return np.concatenate(blocks)


def test_a_far_is_sampled_from_its_folder_alone_and_its_samples_read_like_shards(
    ray_cluster: Any, inputs: Path, tmp_path: Path
) -> None:
    run = far_sample_run(inputs, tmp_path / "samples")
    manifest = sample_images.run(run)
    images = drawn(tmp_path / "samples")
    np.testing.assert_array_equal(images, direct_samples(inputs, run))
    assert (manifest["architecture"], manifest["num_images"]) == ("far", 7)
    found = read_dataset(tmp_path / "samples", verify=True)
    assert (found.kind, found.num_images, found.image_size) == ("shards", 7, 32)
    rows = list(read_rows(tmp_path / "samples" / found.shards[0].file))
    assert [row.label for row in rows] == [0, 1, 2, 0, 1, 2, 0]
    for row, pixels in zip(rows, images, strict=True):
        np.testing.assert_array_equal(decode_image(row.image, row.key), pixels)
    table = pq.read_table(tmp_path / "samples" / "samples.parquet")
    assert table["seed"].to_pylist() == [5] * 7
    assert table["image_id"].to_pylist() == list(range(7))


def begun_samples(run: XARSampleRun) -> output.Output:
    """The folder of a job that was stopped before its first block."""
    return output.begin(
        run.output_path,
        "samples",
        config.bound_settings(run),
        [run.generator_path, run.tokenizer_path],
        fresh=False,
        unfinished=output.Unfinished.KEEP,
    )


def blocks_of(samples: output.Output) -> Path:
    """Where a job keeps its blocks, as it did at 346b769."""
    return samples.folder / sample_images.BLOCKS_FOLDER / samples.fingerprint[:16]


def test_a_killed_job_goes_on_behind_its_finished_blocks(
    ray_cluster: Any, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = sample_run(inputs, tmp_path / "samples")
    blocks = blocks_of(begun_samples(run))
    blocks.mkdir(parents=True)
    # A finished block that can be told from a new one, one of another batch size, and half a one.
    np.save(blocks / "0.npy", np.full((3, 32, 32, 3), 7, np.uint8))
    np.save(blocks / "3.npy", np.full((2, 32, 32, 3), 7, np.uint8))
    (blocks / ".6.npy.1.tmp").write_bytes(b"half")
    with caplog.at_level("INFO"):
        sample_images.run(run)
    assert "1 of 3 blocks are finished already" in caplog.text
    images = drawn(tmp_path / "samples")
    assert (images[:3] == 7).all()
    np.testing.assert_array_equal(images[3:], direct_samples(inputs, run)[3:])
    assert not blocks.exists()


def test_blocks_of_other_settings_are_not_taken(
    ray_cluster: Any, inputs: Path, tmp_path: Path
) -> None:
    other = sample_run(inputs, tmp_path / "samples", seed=6)
    blocks = blocks_of(begun_samples(other))
    blocks.mkdir(parents=True)
    np.save(blocks / "0.npy", np.full((3, 32, 32, 3), 7, np.uint8))
    run = sample_run(inputs, tmp_path / "samples")
    sample_images.run(run)
    np.testing.assert_array_equal(drawn(tmp_path / "samples"), direct_samples(inputs, run))


def test_an_actor_writes_what_its_settings_draw(inputs: Path, tmp_path: Path) -> None:
    def draw(**settings: Any) -> np.ndarray:
        run = sample_run(inputs, tmp_path, sampler=FlowSamplerConfig(num_steps=2, **settings))
        sample_images.SampleActor(run, str(tmp_path))(range(3))
        return np.load(tmp_path / "0.npy")

    plain = draw()
    np.testing.assert_array_equal(plain, direct_samples(inputs, sample_run(inputs, tmp_path))[:3])
    for other in (draw(snap="on"), draw(use_ema=False), draw(guidance_scale=8.0)):
        assert other.shape == plain.shape
        assert not np.array_equal(plain, other)


def test_samples_need_the_generators_tokenizer(inputs: Path, tmp_path: Path) -> None:
    run = sample_run(inputs, tmp_path / "samples", tokenizer_path=str(inputs / "other_tokenizer"))
    digests = [
        artefact.sha256_of(inputs / name / "tokenizer.safetensors")
        for name in ("tokenizer", "other_tokenizer")
    ]
    with pytest.raises(ArtefactError, match=f"{digests[0]}.*{digests[1]}"):
        sample_images.run(run)


def test_a_sampler_of_the_other_architecture_is_refused(inputs: Path, tmp_path: Path) -> None:
    run = sample_run(inputs, tmp_path / "samples", generator_path=str(inputs / "far"))
    with pytest.raises(ArtefactError, match=r"FlowSampler.*far holds.*'far'.*a TokenSamplerConfig"):
        sample_images.run(run)
    other = far_sample_run(inputs, tmp_path / "samples", generator_path=str(inputs / "generator"))
    with pytest.raises(ArtefactError, match=r"TokenSampler.*generator holds.*'xar'.*a FlowSampler"):
        sample_images.run(other)
    assert not (tmp_path / "samples").exists()


def test_a_changed_shard_is_named(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(inputs / "shards", folder)
    with (folder / "part-00001.parquet").open("ab") as stream:
        stream.write(b"x")
    shard = read_dataset(folder).shards[1]
    actor = encode_images.EncodeActor(encode_run(inputs, tmp_path, data_path=str(folder)))
    with pytest.raises(ArtefactError, match=r"part-00001\.parquet: differs from its sha256"):
        actor(shard)


def test_pictures_of_a_smaller_side_are_not_encoded(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(inputs / "shards", folder)
    facts = artefact.read_json(folder / "dataset.json")
    artefact.write_json(folder / "dataset.json", {**facts, "image_size": 16})
    artefact.write_manifest(folder, "shards")
    config = encode_run(inputs, tmp_path / "codes", data_path=str(folder))
    for check in (encode_images.run, encode_images_job.describe):
        with pytest.raises(ArtefactError, match=r"are stored at 16 pixels .* takes 32"):
            check(config)
    assert not (tmp_path / "codes").exists()


def test_labels_that_are_no_classes_are_not_encoded(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(inputs / "shards", folder)
    facts = artefact.read_json(folder / "dataset.json")
    artefact.write_json(folder / "dataset.json", {**facts, "classes": ["a", "b"]})
    actor = encode_images.EncodeActor(encode_run(inputs, tmp_path, data_path=str(folder)))
    with pytest.raises(
        ArtefactError, match=r"part-00000\.parquet: labels 0 to 2, .* has 2 classes"
    ):
        actor(read_dataset(folder).shards[0])


def test_a_generator_of_another_grid_is_not_sampled(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "generator"
    shutil.copytree(inputs / "generator", folder)
    facts = artefact.read_json(folder / "generator.json")
    facts["model"]["grid_size"] = 16
    artefact.write_json(folder / "generator.json", facts)
    artefact.write_manifest(folder, "generator")
    run = sample_run(inputs, tmp_path / "samples", generator_path=str(folder))
    for check in (sample_images.run, sample_images_job.describe):
        with pytest.raises(ArtefactError, match=r"generator\.grid_size = 16: the tokenizer has 8"):
            check(run)
    assert not (tmp_path / "samples").exists()


def test_codes_are_no_images(inputs: Path, tmp_path: Path) -> None:
    facts = {
        **artefact.read_json(inputs / "shards" / "dataset.json"),
        "kind": "codes",
        "codebooks": {"visual": 32},
    }
    facts |= {"num_views": 1, "grid_size": 8, "tokenizer_sha256": ""}
    shutil.copytree(inputs / "shards", tmp_path / "codes")
    artefact.write_json(tmp_path / "codes" / "dataset.json", facts)
    with pytest.raises(ArtefactError, match="holds codes, not shards of images"):
        encode_images.run(encode_run(inputs, tmp_path / "out", data_path=str(tmp_path / "codes")))


def test_reduced_pictures_are_refused_where_adm_s_protocol_is_asked_for(
    inputs: Path, tmp_path: Path
) -> None:
    shutil.copytree(inputs / "shards", tmp_path / "reduced")
    facts = artefact.read_json(tmp_path / "reduced" / "dataset.json")
    artefact.write_json(tmp_path / "reduced" / "dataset.json", {**facts, "form": "reduced"})
    run = encode_run(inputs, tmp_path / "out", data_path=str(tmp_path / "reduced"))
    assert "64 to 80 pixels before" in encode_images_job.describe(run)["crops"]
    for start in (encode_images.run, encode_images_job.describe):
        with pytest.raises(ArtefactError, match=r"adm_protocol = True: .*reduced.*--image-size 0"):
            start(config.override(run, {"adm_protocol": True}))
    assert not (tmp_path / "out").exists()


def test_a_missing_input_is_named(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="absent"):
        encode_images.run(
            encode_run(inputs, tmp_path / "codes", tokenizer_path=str(tmp_path / "absent"))
        )


def test_dry_runs_describe_present_and_absent_inputs(inputs: Path, tmp_path: Path) -> None:
    described = encode_images_job.describe(encode_run(inputs, tmp_path / "c"))
    assert (described["images"], described["indices_per_image"]) == (36, 128)
    assert described["codes_gib"] == pytest.approx(36 * 2 * 64 * 2 * 2 / 2**30)
    described = encode_images_job.describe(encode_run(inputs, tmp_path / "c", views="ten_crop"))
    assert (described["views"], described["views_per_image"]) == ("ten_crop", 10)
    assert described["codes_gib"] == pytest.approx(36 * 10 * 64 * 2 * 2 / 2**30)
    described = sample_images_job.describe(sample_run(inputs, tmp_path / "s"))
    # Two steps in each of four cells, three cells remembered; all but the first cell's steps are guided.
    evaluations = 2 + 2 * 3 * 2 + 2 * 3
    assert (described["blocks"], described["network_evaluations_per_image"]) == (3, evaluations)
    described = sample_images_job.describe(far_sample_run(inputs, tmp_path / "s"))
    assert (described["tokenizer_found"], described["network_evaluations_per_image"]) == (True, 128)
    for module in (encode_images_job, sample_images_job):
        for recipe in module.RECIPES.values():
            json.dumps(module.describe(recipe()))


def broken_copy(source: Path, target: Path, file: str, tensor: str) -> Path:
    """A finished folder, as an older version may have left it, with one NaN in one tensor."""
    shutil.copytree(source, target)
    kind = artefact.read_json(target / "manifest.json")["kind"]
    state = {name: value.clone() for name, value in load_file(target / file).items()}
    state[tensor].view(-1)[1] = torch.nan
    save_file(state, target / file)
    artefact.write_manifest(target, kind)
    return target


def test_inputs_that_are_not_finite_are_refused_before_a_cluster_starts(
    inputs: Path, tmp_path: Path
) -> None:
    file, tensor = "tokenizer.safetensors", "encoder.conv_in.weight"
    tokenizer = broken_copy(inputs / "tokenizer", tmp_path / "tokenizer", file, tensor)
    far = broken_copy(
        inputs / "far", tmp_path / "far", "generator.safetensors", "class_embedding.weight"
    )
    out = tmp_path / "out"
    evaluation = EvaluateRun(
        tokenizer_path=str(tokenizer), data_path=str(inputs / "shards"), output_path=str(out)
    )
    for start, text in (
        (lambda: encode_images.run(encode_run(inputs, out, tokenizer_path=str(tokenizer))), tensor),
        (lambda: evaluate_images.run(evaluation), tensor),
        (
            lambda: sample_images.run(far_sample_run(inputs, out, generator_path=str(far))),
            "class_embed",
        ),
    ):
        with pytest.raises(ArtefactError, match=rf"safetensors: 1 of its .*{text}.*\(1 of"):
            start()
        assert not out.exists()


@pytest.mark.parametrize("tensor", ["encoder.conv_in.weight", "branches.visual.projection.bias"])
def test_an_encoder_that_diverges_writes_no_codes(
    inputs: Path, tmp_path: Path, tensor: str
) -> None:
    """In memory, past all looks at files: a bf16 overflow would do the same."""
    run = encode_run(inputs, tmp_path)
    actor = encode_images.EncodeActor(run)
    actor._tokenizer.get_parameter(tensor).data.fill_(torch.inf)
    shard = read_dataset(inputs / "shards").shards[0]
    with pytest.raises(ValueError, match=r"codebook 'visual': \d+ of \d+ positions have no code"):
        actor(shard)
    assert not list(tmp_path.iterdir())
