"""Every job as a user runs it: a process of its own, called outside of the repository with relative paths.

The jobs go one after another, each on what those before it wrote; all join one cluster, which was started elsewhere.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glotok_ray import config
from glotok_ray.config import QuickstartRun, override
from glotok_ray.config.generator_comparison import CompareGeneratorsRun
from glotok_ray.config.scales import ScalesRun
from glotok_ray.data.records import DatasetInfo
from glotok_ray.recipes.quickstart import chain
from glotok_ray.stages.quickstart_fit import fit_to_data
from glotok_ray.storage import artefact

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
TOP = "runs/tiny"
CLASSES = 10
# What starts fastest; the tokenizer's own run has two workers under DeepSpeed.
ONE_WORKER = {
    "scaling.num_workers": 1,
    "scaling.engine": "torch",
    "schedule.micro_batch_size": 24,
    "schedule.epochs": 1,
}


def recipes(quickstart: QuickstartRun) -> dict[str, Any]:
    """Resolved configs of all jobs, with relative paths, by file name."""
    chained = chain(override(quickstart, {"output_path": TOP}))
    images = CLASSES * chained.data.crops_per_class
    data = DatasetInfo("shards", tuple("abcdefghij"), images, chained.data.image_size, ())
    chained = fit_to_data(chained, data).quickstart
    reconstructions = {
        "samples_path": "",
        "codes_path": "",
        "training_path": "",
        "generator_path": "",
        "num_images": 10,
    }
    return {
        "teacher": chained.teacher,
        "tokenizer": chained.tokenizer,
        "codes": chained.codes,
        "xar": chained.generator,
        "far": chained.far,
        "samples": chained.samples,
        "evaluation": chained.evaluation,
        "quickstart": chained,
        "sweep": config.TokenizerAblationRun(
            output_path="runs/sweep",
            rows=("glotok",),
            max_steps=1,
            tokenizer=override(chained.tokenizer, ONE_WORKER | {"data.num_validation_images": 0}),
            evaluation=override(
                chained.evaluation, reconstructions | {"output_path": "runs/unused"}
            ),
        ),
        "ablations": config.GeneratorAblationRun(
            output_path="runs/ablations",
            rows=("scale",),
            generator=override(chained.generator, {"schedule.stop_after_steps": 1}),
            samples=override(chained.samples, {"num_images": 10, "sampler.num_steps": 2}),
            evaluation=override(
                chained.evaluation, {"tokenizer_path": "", "codes_path": "", "num_images": 10}
            ),
        ),
        "scales": ScalesRun(
            tokenizer_path=f"{TOP}/tokenizer",
            data_path=f"{TOP}/data/train",
            output_path="runs/scales",
            num_codes=16,
            sides=(1, chained.tokenizer.model.autoencoder.grid_size),
            num_images=16,
            rounds=1,
            use_gpu=False,
        ),
        "generators": CompareGeneratorsRun(
            generator_paths=(f"{TOP}/generator",),
            output_path="runs/generators",
            num_images=10,
            timed_images=2,
            use_gpu=False,
            pool=chained.samples.pool,
            evaluation=override(
                chained.evaluation,
                reconstructions | {"tokenizer_path": ""},
            ),
        ),
        "guidance": config.XARGuidanceRun(
            output_path="runs/guidance",
            guidance_scales=(1.0, 2.0),
            samples=override(chained.samples, {"num_images": 10, "sampler.num_steps": 2}),
            evaluation=override(
                chained.evaluation,
                {"tokenizer_path": "", "codes_path": "", "generator_path": "", "num_images": 10},
            ),
        ),
    }


def commands(quickstart: QuickstartRun) -> dict[str, tuple[str, ...]]:
    """The command lines, in their order."""
    data = quickstart.data
    shard = {
        "output-path": f"{TOP}/data",
        "image-size": data.image_size,
        "crops-per-class": data.crops_per_class,
        "validation-crops-per-class": data.validation_crops_per_class,
        "rows-per-shard": data.rows_per_shard,
    }
    flags = [text for name, value in shard.items() for text in (f"--{name}", str(value))]
    return {
        "check_cluster": ("jobs.check_cluster", "aws.yaml"),
        "shard_images": ("jobs.shard_images", "quickstart", *flags),
        "build_teacher": ("jobs.build_teacher", "recipes/teacher.json"),
        "train_tokenizer": ("jobs.train_tokenizer", "recipes/tokenizer.json"),
        "encode_images": ("jobs.encode_images", "recipes/codes.json"),
        "train_generator": ("jobs.train_generator", "recipes/xar.json"),
        "train_generator far": ("jobs.train_generator", "recipes/far.json"),
        "sample_images": ("jobs.sample_images", "recipes/samples.json"),
        "evaluate_images": ("jobs.evaluate_images", "recipes/evaluation.json"),
        "evaluate_tokenizers": (
            *("jobs.evaluate_tokenizers", f"{TOP}/tokenizer", "--data-path"),
            *(f"{TOP}/data/validation", "--output-path", "runs/compared", "--no-use-gpu"),
            *("--num-images", "2", "--feature-size", "32"),
        ),
        "export_tokenizer": (
            *("jobs.export_tokenizer", "run", "--source-path", f"{TOP}/tokenizer"),
            *("--output-path", "runs/exported"),
        ),
        "export_generator": (
            *("jobs.export_generator", "run", "--source-path", f"./{TOP}/generator"),
            *("--output-path", "runs/exported_generator"),
        ),
        "build_scales": ("jobs.build_scales", "recipes/scales.json"),
        "compare_generators": ("jobs.compare_generators", "recipes/generators.json"),
        "sweep_tokenizer": ("jobs.sweep_tokenizer", "recipes/sweep.json"),
        "sweep_generator": ("jobs.sweep_generator", "recipes/ablations.json"),
        "sweep_guidance": ("jobs.sweep_guidance", "recipes/guidance.json"),
        "quickstart": ("jobs.quickstart", "recipes/quickstart.json"),
        "report_results": (
            *("jobs.report_results", f"{TOP}/evaluation", "--output-path", "runs/report"),
        ),
        "verify": ("jobs.verify", "runs"),
        "status": ("jobs.status", "runs"),
        "plan": ("jobs.plan", "quickstart_far", "--gpus", "1"),
        "write_cluster": (
            *("jobs.write_cluster", "--description", str(ROOT / "cluster" / "description.yaml")),
            *("--output", "runs/cluster"),
        ),
    }


class Called:
    """A folder of a user's, in which all jobs have run."""

    def __init__(self, node: Any, folder: Path, quickstart: QuickstartRun) -> None:
        self.node, self.folder = node, folder
        (folder / "recipes").mkdir()
        for name, recipe in recipes(quickstart).items():
            artefact.write_json(folder / "recipes" / f"{name}.json", config.to_dict(recipe))
        (folder / "aws.yaml").write_bytes((ROOT / "cluster" / "aws.yaml").read_bytes())
        self.answers: dict[str, subprocess.CompletedProcess[str]] = {
            name: node.call(*command, folder=folder)
            for name, command in commands(quickstart).items()
        }


@pytest.fixture(scope="module")
def called(
    head_node: Any,
    tiny_quickstart: Callable[[Path], QuickstartRun],
    tmp_path_factory: pytest.TempPathFactory,
) -> Called:
    """All jobs, called in a new folder."""
    folder = tmp_path_factory.mktemp("anywhere")
    quickstart = tiny_quickstart(Path(TOP))
    changes = {
        "tokenizer.schedule.epochs": 1,
        "generator": override(quickstart.generator, ONE_WORKER),
        "far": override(quickstart.far, ONE_WORKER),
    }
    return Called(head_node, folder, override(quickstart, changes))


def test_every_job_is_here(tiny_quickstart: Callable[[Path], QuickstartRun]) -> None:
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py") if "def main(" in path.read_text()}
    assert {command[0] for command in commands(tiny_quickstart(Path(TOP))).values()} == {
        f"jobs.{job}" for job in jobs
    }
    assert len(jobs) == 22


def test_every_job_runs_with_relative_paths(called: Called) -> None:
    failed = {
        name: done.stderr[-3000:] for name, done in called.answers.items() if done.returncode != 0
    }
    assert not failed, "\n\n".join(f"{name}: {text}" for name, text in failed.items())
    assert len(called.answers) == 23


def test_all_results_lie_below_the_folder_of_the_call(called: Called) -> None:
    found = {path.name for path in called.folder.iterdir()}
    assert found == {"recipes", "aws.yaml", "runs"}
    # In its own chain a stage finds the very folders that the jobs wrote one by one.
    stages = {
        stage["stage"]: stage["status"]
        for stage in json.loads((called.folder / TOP / "stages.json").read_text())
    }
    made = [name for name, status in stages.items() if status == "made"]
    assert made == ["twin", "far_samples", "far_evaluation", "twin_evaluation"]
    verified = {item["folder"] for item in json.loads(called.answers["verify"].stdout)}
    for name in ("data/train", "teacher", "tokenizer", "codes", "far", "samples", "evaluation"):
        assert str(called.folder / TOP / name) in verified
    for name in (
        "exported",
        "exported_generator",
        "scales",
        "generators",
        "generators/values/generator_samples",
        "sweep",
        "ablations",
        "ablations/rows/scale",
        "guidance",
        "guidance/values/guidance_2_evaluation",
        "report",
    ):
        assert str(called.folder / "runs" / name) in verified


def test_a_job_submitted_with_a_working_directory_writes_into_the_storage_root(
    called: Called,
) -> None:
    command = ("python", "-m", "jobs.train_tokenizer", "recipes/tokenizer.json")
    flags = ("--name", "submitted", "--schedule.stop-after-steps", "1")
    root = ("--storage-root", str(called.folder))
    options = ("--working-dir", ".")
    done = called.node.submit(*command, *flags, *root, options=options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert artefact.read_manifest(called.folder / TOP / "submitted", "tokenizer")["step"] == 1

    recipe = ("python", "-m", "jobs.train_tokenizer", "quickstart")
    refused = called.node.submit(*recipe, options=options)
    said = refused.stdout + refused.stderr
    assert refused.returncode == 1
    assert "failed with exit code 2" in said
    assert "Ray's temporary copy of the working directory, which Ray removes" in said
    assert "--storage-root DIR" in said
    assert "Traceback" not in said

    copies = list(
        (called.node.folder / "ray").glob("session_2*/runtime_resources/working_dir_files/*/")
    )
    assert any((copy / "jobs" / "train_tokenizer.py").is_file() for copy in copies)
    for copy in copies:
        assert not (copy / "runs").exists()
        assert not list(copy.rglob(artefact.MANIFEST))
