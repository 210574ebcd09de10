"""Generators of the paper's Table 2 (xAR and FAR on GloTok, xAR on LlamaGen-VQ, other systems, VAR), and small ones.

xAR's training is that of Ren et al. 2025 ("800 epochs following xAR settings", section 3.4), FAR's that of FQGAN's
script. Read next: jobs/train_generator.py
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from glotok_ray.config.causal import CausalVariantConfig
from glotok_ray.config.generator import FARConfig, VocabularyConfig, XARConfig
from glotok_ray.config.overrides import override
from glotok_ray.config.runs import AnyGeneratorRun, FARRun, VARRun, XARRun
from glotok_ray.config.training import (
    CodeDataConfig,
    OptimizerConfig,
    ScalingConfig,
    ScheduleConfig,
)
from glotok_ray.config.var import VARConfig
from glotok_ray.recipes import peer_generators, rq_transformers, var_generators

Run = TypeVar("Run", XARRun, FARRun)


def xar_b() -> XARRun:
    """xAR-B on GloTok, 172,638,224 parameters; Table 2: gFID 2.12, IS 272; 32 GPUs x 64 images, 800 epochs."""
    return XARRun(
        name="xar_b",
        tokenizer_path="runs/glotok_16k",
        ema_decay=0.9999,
        ema_warmup=False,
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=4e-4,
            betas=(0.9, 0.96),
            weight_decay=0.02,
            schedule="warmup_hold_cosine",
            warmup_fraction=0.125,
            hold_fraction=0.75,
            final_learning_rate=1e-5,
        ),
        data=CodeDataConfig(train_path="runs/glotok_16k_codes", views="center_flip"),
        # An epoch takes minutes, and a checkpoint of xAR-H is 19 GB.
        schedule=ScheduleConfig(
            global_batch_size=2048,
            micro_batch_size=64,
            epochs=800,
            checkpoint_every_epochs=5,
            checkpoint_every_minutes=15,
        ),
        scaling=ScalingConfig(num_workers=32),
    )


def xar_l() -> XARRun:
    """xAR-L, 608,397,968 parameters; xAR's own paper: FID 1.28 on KL latents; 64 GPUs x 32 images."""
    return _larger("xar_l", width=1024, depth=32, num_heads=16)


def xar_h() -> XARRun:
    """xAR-H, 1,186,024,096 parameters (the paper's 1.1B); Table 2: gFID 1.75, IS 327.5; 64 GPUs x 32 images."""
    return _larger("xar_h", width=1280, depth=40, num_heads=16)


def xar_b_2x() -> XARRun:
    """xAR-B on GloTok (2x); Table 2: gFID 2.00, IS 269; 32 GPUs x 64 images."""
    return _on(xar_b(), "xar_b_2x", "glotok_2x", "glotok_2x_codes")


def xar_l_2x() -> XARRun:
    """xAR-L on GloTok (2x); 64 GPUs x 32 images."""
    return _on(xar_l(), "xar_l_2x", "glotok_2x", "glotok_2x_codes")


def xar_h_2x() -> XARRun:
    """xAR-H on GloTok (2x); 64 GPUs x 32 images."""
    return _on(xar_h(), "xar_h_2x", "glotok_2x", "glotok_2x_codes")


def xar_b_llamagen() -> XARRun:
    """xAR-B on LlamaGen's VQ-16, the baseline of Table 2 (gFID 2.47, IS 278): 8 channels; 32 GPUs x 64 images."""
    run = _on(xar_b(), "xar_b_llamagen", "llamagen_vq16_imported", "llamagen_vq16_codes")
    return override(run, {"model.channels": 8})


def _larger(name: str, *, width: int, depth: int, num_heads: int) -> XARRun:
    changes = {
        "name": name,
        "model.width": width,
        "model.depth": depth,
        "model.num_heads": num_heads,
        "schedule.micro_batch_size": 32,
        "scaling.num_workers": 64,
    }
    return override(xar_b(), changes)


def far_b() -> FARRun:
    """FAR-B on GloTok, 383,550,464 parameters; Table 2: gFID 3.13, IS 281; 200 epochs, 8 GPUs x 32 images."""
    return FARRun(
        name="far_b",
        tokenizer_path="runs/glotok_16k",
        ema_decay=0.0,
        model=FARConfig(
            codebooks=(
                VocabularyConfig(name="visual", size=12288),
                VocabularyConfig(name="semantic", size=4096),
            )
        ),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=1e-4, betas=(0.9, 0.95), weight_decay=0.05
        ),
        data=CodeDataConfig(train_path="runs/glotok_16k_ten_crop_codes", views="ten_crop"),
        schedule=ScheduleConfig(
            global_batch_size=256, micro_batch_size=32, epochs=200, checkpoint_every_minutes=15
        ),
        scaling=ScalingConfig(num_workers=8, precision="bf16_autocast"),
    )


def far_l() -> FARRun:
    """FAR-L on GloTok, 859,252,480 parameters; Table 2: gFID 2.98, IS 285; 200 epochs, 16 GPUs x 16 images."""
    return _far_l(far_b(), "far_l")


def far_b_2x() -> FARRun:
    """FAR-B on GloTok (2x), 417,104,896 parameters; Table 2: gFID 2.95, IS 261; 8 GPUs x 32 images."""
    run = _on(far_b(), "far_b_2x", "glotok_2x", "glotok_2x_ten_crop_codes")
    return override(run, {"model": FARConfig()})


def far_l_2x() -> FARRun:
    """FAR-L on GloTok (2x), 901,195,520 parameters; 16 GPUs x 16 images."""
    return _far_l(far_b_2x(), "far_l_2x")


def far_b_fqgan() -> FARRun:
    """FAR-B on FQGAN-Dual, 417,104,896 parameters (FQGAN: gFID 3.38, IS 248): 300 epochs; 8 GPUs x 32 images."""
    run = _on(far_b_2x(), "far_b_fqgan", "fqgan_dual_imported", "fqgan_dual_ten_crop_codes")
    return override(run, {"schedule.epochs": 300})


def far_l_fqgan() -> FARRun:
    """FAR-L on FQGAN-Dual, 901,195,520 parameters (FQGAN: gFID 3.08, IS 273): epochs as far_b_fqgan; 16 GPUs x 16."""
    return _far_l(far_b_fqgan(), "far_l_fqgan")


def _far_l(base: FARRun, name: str) -> FARRun:
    changes = {
        "name": name,
        "model.width": 1280,
        "model.depth": 36,
        "model.head_depth": 4,
        "model.num_heads": 20,
        "schedule.micro_batch_size": 16,
        "scaling.num_workers": 16,
    }
    return override(base, changes)


def _on(base: Run, name: str, tokenizer: str, codes: str) -> Run:
    changes = {
        "name": name,
        "tokenizer_path": f"runs/{tokenizer}",
        "data.train_path": f"runs/{codes}",
    }
    return override(base, changes)


def quickstart() -> XARRun:
    """xAR at width 96 and depth 4 on four cells of 6 x 6, on 2 CPU workers: about four minutes."""
    return XARRun(
        name="generator",
        output_path="runs/quickstart",
        tokenizer_path="runs/quickstart/tokenizer",
        ema_decay=0.99,
        model=XARConfig(
            grid_size=12,
            cell_size=6,
            width=96,
            depth=4,
            num_heads=4,
            num_classes=10,
            dropout=0.0,
            zero_init_gates=True,
        ),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1.2e-2,
            betas=(0.9, 0.96),
            weight_decay=0.02,
            schedule="warmup_cosine",
            warmup_fraction=0.05,
            final_learning_rate=1e-5,
        ),
        data=CodeDataConfig(train_path="runs/quickstart/codes", num_train_images=4100),
        schedule=ScheduleConfig(
            global_batch_size=32,
            micro_batch_size=16,
            epochs=5,
            log_every_steps=32,
            checkpoints_to_keep=1,
        ),
        scaling=ScalingConfig(
            num_workers=2,
            use_gpu=False,
            cpus_per_worker=1,
            threads_per_worker=1,
            # Parts of so few weights save no memory that counts, and cost a part of each step.
            zero_stage=0,
            precision="fp32",
            max_failures=1,
        ),
    )


def quickstart_far() -> FARRun:
    """FAR at width 96 with 3 blocks and a head of one, on 2 CPU workers: about three and a half minutes."""
    base = quickstart()
    return FARRun(
        name="far",
        output_path="runs/quickstart",
        tokenizer_path="runs/quickstart/tokenizer",
        ema_decay=0.99,
        model=FARConfig(
            grid_size=12,
            codebooks=(
                VocabularyConfig(name="visual", size=512),
                VocabularyConfig(name="semantic", size=256),
            ),
            width=96,
            depth=3,
            head_depth=1,
            num_heads=4,
            mlp_multiple=1,
            num_classes=10,
            dropout=0.0,
        ),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=1.4e-2),
        data=base.data,
        schedule=dataclasses.replace(
            base.schedule, global_batch_size=16, micro_batch_size=8, epochs=5
        ),
        scaling=base.scaling,
    )


def quickstart_ibq() -> FARRun:
    """quickstart_far with IBQ's blocks, whose norms and gates the class moves: about three minutes on 2 CPU workers."""
    changes = {
        "name": "ibq",
        "model.variant": CausalVariantConfig(block="ibq", gate_scale=0.5),
        "optimizer.learning_rate": 8e-3,
        "schedule.epochs": 4,
    }
    return override(quickstart_far(), changes)


def quickstart_var() -> VARRun:
    """VAR at width 96 with 4 blocks on the scales of `jobs.build_scales quickstart`, 291 codes per image, on 2 CPU
    workers: about four minutes.
    """
    base = quickstart_far()
    return VARRun(
        name="var",
        output_path="runs/quickstart",
        tokenizer_path="runs/quickstart/scales",
        ema_decay=0.99,
        model=VARConfig(
            scale_sides=(1, 2, 3, 4, 6, 9, 12),
            width=96,
            depth=4,
            num_heads=4,
            num_codes=512,
            code_width=16,
            num_classes=10,
            stochastic_depth=0.0,
            gate_scale=0.5,
        ),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=8e-3),
        data=dataclasses.replace(base.data, train_path="runs/quickstart/scale_codes"),
        schedule=dataclasses.replace(base.schedule, epochs=4),
        scaling=base.scaling,
    )


RECIPES: dict[str, Callable[[], AnyGeneratorRun]] = {
    "xar_b": xar_b,
    "xar_l": xar_l,
    "xar_h": xar_h,
    "xar_b_2x": xar_b_2x,
    "xar_l_2x": xar_l_2x,
    "xar_h_2x": xar_h_2x,
    "xar_b_llamagen": xar_b_llamagen,
    "far_b": far_b,
    "far_l": far_l,
    "far_b_2x": far_b_2x,
    "far_l_2x": far_l_2x,
    "far_b_fqgan": far_b_fqgan,
    "far_l_fqgan": far_l_fqgan,
    **peer_generators.RECIPES,
    **var_generators.RECIPES,
    **rq_transformers.RECIPES,
    "quickstart": quickstart,
    "quickstart_far": quickstart_far,
    "quickstart_ibq": quickstart_ibq,
    "quickstart_var": quickstart_var,
}
