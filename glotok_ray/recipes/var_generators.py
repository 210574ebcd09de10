"""VAR on its own tokenizer's scales, d16 to d30, and ImageFolder's generator on its tokenizer's (paper, Table 2).

All of VAR sample with `ScaleSamplerConfig()`: guidance 1.5 (2.5 at the last scale), top-k 900, top-p 0.96, 50 images of
each class, as in VAR's README; its paper names guidance 2.0. Each image has 680 tokens, drawn in 10 steps;
Table 2 says 256. The settings of training are those of VAR's repository, with its exceptions here: random crops without
flips there, the centre crop's cached codes here; fp16 with a loss scaler there, bf16 here; decay of class embedding and
AdaLN alone of what is no matrix product there, of all here; the label is dropped in validation too there. ImageFolder's
is VAR's code with two branches of codes, and its settings.
Read next: glotok_ray/nn/var.py
"""

from collections.abc import Callable

from glotok_ray.config.overrides import override
from glotok_ray.config.runs import VARRun
from glotok_ray.config.training import (
    CodeDataConfig,
    OptimizerConfig,
    ScalingConfig,
    ScheduleConfig,
)
from glotok_ray.config.var import VARConfig

TOKENIZER = "var_256"
"""The recipe of `jobs.export_tokenizer` that imports VAR's tokenizer."""
IMAGEFOLDER_TOKENIZER = "imagefolder_4096"
"""The one that imports the tokenizer of ImageFolder's generator."""


def _var(
    depth: int,
    *,
    epochs: int,
    learning_rate: float,
    final_share: float,
    gate_scale: float,
    num_workers: int,
    global_batch_size: int = 768,
) -> VARRun:
    return VARRun(
        name=f"var_d{depth}",
        tokenizer_path=f"runs/{TOKENIZER}_imported",
        ema_decay=0.0,
        model=VARConfig(
            width=64 * depth,
            depth=depth,
            num_heads=depth,
            stochastic_depth=0.1 * depth / 24,
            gate_scale=gate_scale,
        ),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            gradient_clip=2.0,
            schedule="warmup_hold_linear",
            warmup_fraction=0.02,
            # 5 % of the steps after warm-up.
            hold_fraction=0.069,
            final_learning_rate=final_share * learning_rate,
        ),
        data=CodeDataConfig(train_path=f"runs/{TOKENIZER}_codes", views="center"),
        schedule=ScheduleConfig(
            global_batch_size=global_batch_size,
            micro_batch_size=global_batch_size // num_workers,
            epochs=epochs,
            checkpoint_every_minutes=15,
        ),
        scaling=ScalingConfig(num_workers=num_workers, precision="bf16_autocast"),
    )


def var_d16() -> VARRun:
    """310,283,520 parameters, 200 epochs; Table 2: gFID 3.30, IS 274.4; the README has 3.55 for the released file;
    24 GPUs x 32 images.
    """
    return _var(
        16, epochs=200, learning_rate=3e-4, final_share=0.1, gate_scale=1e-3, num_workers=24
    )


def var_d20() -> VARRun:
    """600,917,136 parameters, 250 epochs; not in Table 2 (VAR's paper: 2.57 / 302.6; its README: 2.95); 24 GPUs x 32
    images.
    """
    return _var(
        20, epochs=250, learning_rate=3e-4, final_share=0.1, gate_scale=1e-3, num_workers=24
    )


def var_d24() -> VARRun:
    """1,033,399,360 parameters, 350 epochs; Table 2: gFID 2.09, IS 312.9; the README has 2.33 for the released file;
    48 GPUs x 16 images.
    """
    return _var(
        24, epochs=350, learning_rate=2.4e-4, final_share=0.01, gate_scale=1e-4, num_workers=48
    )


def var_d30() -> VARRun:
    """2,010,020,356 parameters, 350 epochs; Table 2: gFID 1.92, IS 323.1; the README has 1.97 for the released file;
    its decay rises to 0.08 over the run, here it stays 0.05; 128 GPUs x 8 images.
    """
    return _var(
        30,
        epochs=350,
        learning_rate=3.2e-4,
        final_share=0.01,
        gate_scale=1e-5,
        num_workers=128,
        global_batch_size=1024,
    )


def imagefolder_var_d17() -> VARRun:
    """ImageFolder's generator, 375,258,593 parameters, of which its blocks have the 362 million of Table 2; 350 epochs;
    Table 2: gFID 2.60, IS 295.0; 24 GPUs x 32 images.

    Each image has 286 positions of two codes, 572 codes drawn in 10 steps; Table 2 says 256 tokens. Inputs are not
    masked, as in the published command (`--model.input-masking` masks them). Tokenizer, weights and all that is derived
    from them are under the Adobe Research License: non-commercial research only.
    """
    base = _var(
        17, epochs=350, learning_rate=2.4e-4, final_share=0.01, gate_scale=1e-4, num_workers=24
    )
    changes = {
        "name": "imagefolder_var_d17",
        "tokenizer_path": f"runs/{IMAGEFOLDER_TOKENIZER}_imported",
        "data.train_path": f"runs/{IMAGEFOLDER_TOKENIZER}_codes",
        "model.scale_sides": (1, 1, 2, 3, 3, 4, 5, 6, 8, 11),
        "model.num_branches": 2,
        "model.code_width": 2 * 32,
    }
    return override(base, changes)


RECIPES: dict[str, Callable[[], VARRun]] = {
    recipe.__name__: recipe for recipe in (var_d16, var_d20, var_d24, var_d30, imagefolder_var_d17)
}
