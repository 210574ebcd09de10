"""GPUs that runs are planned for, and what was measured of this project on one of them, each with its source.

Read next: glotok_ray/training/scale.py
"""

from typing import NamedTuple

from glotok_ray.training.device_rates import dense_bf16_rate


class GPU(NamedTuple):
    """One GPU in a node of eight."""

    name: str
    memory_gib: float
    """As the driver shows it."""
    within_gb_s: float
    """To the others of its node, one way, 10^9 bytes per second."""
    between_gb_s: float
    """Its share of the node's network, one way."""
    cpus: float
    """Its share of the node's CPUs."""
    source: str

    @property
    def rate(self) -> float:
        """Dense bf16 operations per second."""
        rate = dense_bf16_rate(self.name)
        assert rate is not None
        return rate


GPUS = {
    "a100": GPU("A100", 79.3, 300, 12.5, 12, "data sheet; AWS p4de.24xlarge: 400 Gbit/s, 96 CPUs"),
    "h100": GPU("H100", 79.6, 450, 50, 24, "data sheet; AWS p5.48xlarge: 3,200 Gbit/s, 192 CPUs"),
    "h200": GPU(
        "H200", 139.8, 450, 50, 24, "data sheet; AWS p5en.48xlarge: 3,200 Gbit/s, 192 CPUs"
    ),
    "b200": GPU("B200", 179.1, 900, 50, 24, "data sheet; AWS p6-b200: 3,200 Gbit/s, 192 CPUs"),
}
"""By the name that a command takes."""
GPUS_PER_NODE = 8


class Measured(NamedTuple):
    """A step on one H200 (docs/gpu_figures.md)."""

    recipe: str
    images: int
    images_per_s: float
    mfu: float
    busy: float
    """Share of the time in which the GPU works."""
    depth: int
    """Blocks of the generator, by which the launches of a step grow; 1 of a tokenizer."""

    @property
    def busy_mfu(self) -> float:
        """Share of the peak rate while the GPU works."""
        return self.mfu / self.busy

    @property
    def host_s(self) -> float:
        """Seconds that the host takes to launch a step, however few its images are; where the GPU works nearly all
        the time they are not known, and 0 stands for that.
        """
        return self.images / self.images_per_s if self.busy < 0.9 else 0.0


TOKENIZER = Measured("glotok_16k", 30, 89.4, 0.118, 0.52, 1)
XAR_B = Measured("xar_b", 64, 442.0, 0.081, 0.48, 16)
XAR_H = Measured("xar_h", 64, 85.5, 0.108, 0.95, 40)
MEMORY_OVER_EXPECTED = 27.6 / 25.4
"""Largest measured peak over what was expected: glotok_16k's, whose frozen networks and workspaces are not counted."""
DECODED_PER_CPU_S = 140.0
"""ImageNet originals that a core decodes and crops, the lower end (docs/full_size_runs.md)."""
ORIGINAL_KB = 110.0
"""Of an ImageNet original (docs/full_size_runs.md)."""
NETWORK_EFFICIENCY = 0.7
"""Share of a link's rate that NCCL's large collectives reach; a guess, not measured."""
