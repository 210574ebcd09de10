"""RQ-Transformer at its released sizes, on the residual codes of RQ-VAE: 8 x 8 positions of four codes.

Not in the paper's Table 2. Its authors' FID is by statistics of their own, not ADM's, without rejection: 480M 15.72,
821M 13.11, 1.4B 11.56, each on an RQ-VAE of 10 epochs; on the RQ-VAE of 50 epochs 1.4B 8.71, 3.8B 7.55. The weights of
both are for non-commercial use. The code that trained it is not released. Batches, epochs, optimizer and learning rate
are those of its configurations, with these exceptions: targets are the codes here, softened there, where inputs are
drawn too (glotok_ray/training/generator_step.py); random crops there, the centre crop's cached codes here, both with
flips; the decay of its average is not published, here it is 0.9999; the number of GPUs is not either.
Read next: glotok_ray/nn/rq_transformer.py
"""

from collections.abc import Callable

from glotok_ray.config.overrides import override
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.runs import RQRun
from glotok_ray.config.training import (
    CodeDataConfig,
    OptimizerConfig,
    ScalingConfig,
    ScheduleConfig,
)

TOKENIZER = "rq_vae"
"""The recipe of `jobs.export_tokenizer` that imports the RQ-VAE of 50 epochs."""
FIRST_TOKENIZER = "rq_vae_10_epochs"
"""The RQ-VAE of 10 epochs, imported by the same recipe into another folder."""
_BATCH_SIZE = 2048


def _run(
    name: str, model: RQConfig, tokenizer: str, *, num_workers: int, micro_batch_size: int
) -> RQRun:
    return RQRun(
        name=name,
        tokenizer_path=f"runs/{tokenizer}_imported",
        model=model,
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=5e-4,
            betas=(0.9, 0.95),
            weight_decay=1e-4,
            gradient_clip=1.0,
            schedule="warmup_cosine",
        ),
        data=CodeDataConfig(train_path=f"runs/{tokenizer}_codes", views="center_flip"),
        schedule=ScheduleConfig(
            global_batch_size=_BATCH_SIZE,
            micro_batch_size=micro_batch_size,
            epochs=100,
            checkpoint_every_minutes=15,
        ),
        scaling=ScalingConfig(num_workers=num_workers, precision="bf16_autocast"),
    )


def rq_480m() -> RQRun:
    """480,921,088 parameters, 100 epochs; its README: FID 15.72 by statistics of its own; 32 GPUs x 64 images."""
    return _run("rq_480m", RQConfig(), FIRST_TOKENIZER, num_workers=32, micro_batch_size=64)


def rq_821m() -> RQRun:
    """820,899,328 parameters, 100 epochs; its README: FID 13.11 by statistics of its own; 32 GPUs x 64 images."""
    model = RQConfig(depth=24)
    return _run("rq_821m", model, FIRST_TOKENIZER, num_workers=32, micro_batch_size=64)


def rq_1400m() -> RQRun:
    """1,387,529,728 parameters, 100 epochs; its README: FID 8.71 by statistics of its own; 64 GPUs x 32 images."""
    model = RQConfig(depth=42, head_depth=6)
    return _run("rq_1400m", model, TOKENIZER, num_workers=64, micro_batch_size=32)


def rq_3800m() -> RQRun:
    """3,822,488,064 parameters, 100 epochs; its README: FID 7.55 by statistics of its own; 128 GPUs x 16 images."""
    model = RQConfig(width=2560, depth=42, head_depth=6, num_heads=40)
    run = _run("rq_3800m", model, TOKENIZER, num_workers=128, micro_batch_size=16)
    # Full shards, as gpt_3b: the weights alone are 15 GB in fp32.
    return override(run, {"scaling.zero_stage": 3, "scaling.activation_checkpointing": True})


RECIPES: dict[str, Callable[[], RQRun]] = {
    recipe.__name__: recipe for recipe in (rq_480m, rq_821m, rq_1400m, rq_3800m)
}
