"""`--help` is at once there: it imports no torch, no Ray, nothing that computes. `--dry-run` imports torch at most, and
none for a training, whose models were counted before. Jobs run as modules and as scripts.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOBS = sorted(
    path.stem for path in (ROOT / "jobs").glob("*.py") if "\ndef main(" in path.read_text()
)
# Standard library apart: all that `--help` may import. Each of the heavy ones takes from 0.1 to 2 seconds.
ALLOWED = {"__main__", "_distutils_hack", "glotok_ray", "jobs", "google", "mpl_toolkits"}
SCRIPT = """
import sys
from jobs.{job} import main
try:
    main(["--help"])
except SystemExit:
    pass
names = {{name.split(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)
sys.stderr.write(" ".join(sorted(names)))
"""


@pytest.mark.parametrize("job", JOBS)
def test_help_imports_nothing_that_is_heavy(job: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(job=job)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith("usage: python -m jobs.")
    found = {name for name in done.stderr.split() if not name.startswith(("__editable__", "_vir"))}
    assert found <= ALLOWED


WITH_RECIPES = [
    job for job in JOBS if "return run_job" in (ROOT / "jobs" / f"{job}.py").read_text()
]
# Jobs whose recipes' models are counted in training/recorded_counts.json.
COUNTED = {"quickstart", "sweep_tokenizer", "train_generator", "train_tokenizer"}
HEAVY = (
    "deepspeed",
    "faiss",
    "lpips",
    "matplotlib",
    "numba",
    "pandas",
    "ray",
    "scipy",
    "sklearn",
    "timm",
    "torch._dynamo",
    "torch.onnx",
    "torchvision",
    "triton",
)
# Of every recipe its exit code and which heavy modules it has imported.
DRY_RUNS = """
import contextlib, io, json, sys
from jobs.{job} import RECIPES, main
found = {{}}
for recipe in RECIPES:
    before = set(sys.modules)
    with contextlib.redirect_stdout(io.StringIO()):
        code = main([recipe, "--dry-run", "--storage-root", {root!r}])
    found[recipe] = code, [name for name in {heavy!r} if name in {{*sys.modules}} - before]
print(json.dumps(found))
"""


@pytest.mark.parametrize("job", WITH_RECIPES)
def test_dry_run_imports_nothing_that_takes_seconds(job: str, tmp_path: Path) -> None:
    # The one recipe that lists its inputs.
    classes = tmp_path / "data" / "imagenet_folders"
    for split in ("train", "val"):
        (classes / split / "cats").mkdir(parents=True)
        (classes / split / "cats" / "cat.jpg").touch()
    heavy = (*HEAVY, "torch") if job in COUNTED else HEAVY
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUNS.format(job=job, root=str(tmp_path), heavy=heavy)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found
    expected = {recipe: [0, []] for recipe in found}
    if job == "train_tokenizer":
        # The layout of the networks that its heads are compared with is asked for.
        expected["fqgan_dual"] = [0, ["torch"]]
    assert found == expected, done.stderr


def test_jobs_and_benchmarks_run_as_scripts_too() -> None:
    for script in ("jobs/verify.py", "benchmarks/relation_loss.py"):
        done = subprocess.run(
            [sys.executable, script, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("usage: ")
