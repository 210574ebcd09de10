"""`--help` is at once there: it imports no torch, no Ray, nothing that computes; jobs run as modules and as scripts."""

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
