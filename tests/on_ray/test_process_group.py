"""The workers' process group: what Ray Train's controller gets of it brings no torch along."""

import os
import subprocess
import sys
from pathlib import Path

from glotok_ray.config import ScalingConfig, override

# What the driver sends; `sent` is read from stdin, as the controller reads it.
_UNPICKLE = """
import pickle, sys
found = pickle.load(sys.stdin.buffer)
found.backend_cls()
assert "ray.train" in sys.modules
print(found.backend, found.timeout_s, "torch" in sys.modules)
"""


def test_a_controller_that_gets_the_group_s_settings_imports_no_torch() -> None:
    from ray import cloudpickle

    from glotok_ray.on_ray.train import _process_group

    scaling = ScalingConfig(use_gpu=False, precision="fp32", stall_minutes=20)
    sent = cloudpickle.dumps(_process_group(scaling))
    answer = subprocess.run(
        [sys.executable, "-c", _UNPICKLE],
        input=sent,
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    # Three times as long for the first step, and ten minutes.
    assert answer.stdout.decode().split() == ["gloo", str(3 * 20 * 60 + 600), "False"]
    assert _process_group(override(scaling, {"use_gpu": True})).backend == "nccl"
