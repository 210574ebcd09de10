"""The released sizes of RQ-Transformer on ImageNet, for checkpoints (not in the paper's Table 2; their weights are for
non-commercial use, and the code that trained them is not released, so no job trains one).

FID by its authors' own statistics, not ADM's, without rejection: 480M 15.72, 821M 13.11, 1.4B 11.56, each on an RQ-VAE
of 10 epochs; on the RQ-VAE of 50 epochs 1.4B 8.71, 3.8B 7.55.
Read next: glotok_ray/nn/rq_transformer.py
"""

from collections.abc import Callable

from glotok_ray.config.rq import RQConfig


def rq_480m() -> RQConfig:
    """480,921,088 parameters."""
    return RQConfig()


def rq_821m() -> RQConfig:
    """820,899,328 parameters."""
    return RQConfig(depth=24)


def rq_1400m() -> RQConfig:
    """1,387,529,728 parameters."""
    return RQConfig(depth=42, head_depth=6)


def rq_3800m() -> RQConfig:
    """3,822,488,064 parameters."""
    return RQConfig(width=2560, depth=42, head_depth=6, num_heads=40)


SIZES: dict[str, Callable[[], RQConfig]] = {
    size.__name__: size for size in (rq_480m, rq_821m, rq_1400m, rq_3800m)
}
