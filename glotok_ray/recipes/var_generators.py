"""Models of VAR on its own tokenizer's scales (paper, Table 2), as configs: training and jobs do not know them yet.

All sample with `ScaleSamplerConfig()`: guidance 1.5 (2.5 at the last scale), top-k 900, top-p 0.96, 50 images of
each class, as in VAR's README; its paper names guidance 2.0. Each image has 680 tokens, drawn in 10 steps;
Table 2 says 256.
Read next: glotok_ray/nn/var.py
"""

from glotok_ray.config.var import VARConfig


def _var(depth: int, gate_scale: float) -> VARConfig:
    return VARConfig(
        width=64 * depth,
        depth=depth,
        num_heads=depth,
        stochastic_depth=0.1 * depth / 24,
        gate_scale=gate_scale,
    )


def var_d16() -> VARConfig:
    """310,283,520 parameters, 200 epochs; Table 2: gFID 3.30, IS 274.4; the README has 3.55 for the released file."""
    return _var(16, 1e-3)


def var_d20() -> VARConfig:
    """600,917,136 parameters, 250 epochs; not in Table 2 (VAR's paper: 2.57 / 302.6; its README: 2.95)."""
    return _var(20, 1e-3)


def var_d24() -> VARConfig:
    """1,033,399,360 parameters, 350 epochs; Table 2: gFID 2.09, IS 312.9; the README has 2.33 for the released file."""
    return _var(24, 1e-4)


def var_d30() -> VARConfig:
    """2,010,020,356 parameters, 350 epochs; Table 2: gFID 1.92, IS 323.1; the README has 1.97 for the released file."""
    return _var(30, 1e-5)


MODELS = {function.__name__: function for function in (var_d16, var_d20, var_d24, var_d30)}
