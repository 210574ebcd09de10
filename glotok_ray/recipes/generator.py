"""xAR runs of the paper's Table 2 and the small one of the quickstart.

Sizes and training recipe: xAR (Ren et al. 2025), section 4.1 of the paper ("800 epochs following xAR settings").
Read next: jobs/train_generator.py
"""

from glotok_ray.config import (
    CodeDataConfig,
    FlowConfig,
    GeneratorRun,
    OptimizerConfig,
    ScalingConfig,
    ScheduleConfig,
    XARConfig,
    override,
)


def xar_b() -> GeneratorRun:
    """xAR-B, 172,638,224 parameters; Table 2: gFID 2.12, IS 272 at CFG 2.7; 32 GPUs x 64 images."""
    return GeneratorRun(
        name="xar_b",
        tokenizer_path="runs/glotok_16k",
        model=XARConfig(),
        flow=FlowConfig(),
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
        data=CodeDataConfig(train_path="runs/glotok_16k_codes"),
        schedule=ScheduleConfig(global_batch_size=2048, micro_batch_size=64, epochs=800),
        scaling=ScalingConfig(num_workers=32),
    )


def xar_l() -> GeneratorRun:
    """xAR-L, 608,397,968 parameters; xAR's own paper: FID 1.28 on KL latents; 64 GPUs x 32 images."""
    return _larger("xar_l", width=1024, depth=32, num_heads=16)


def xar_h() -> GeneratorRun:
    """xAR-H, 1,186,024,096 parameters (the paper's 1.1B); Table 2: gFID 1.75, IS 327.5; 64 GPUs x 32 images."""
    return _larger("xar_h", width=1280, depth=40, num_heads=16)


def _larger(name: str, *, width: int, depth: int, num_heads: int) -> GeneratorRun:
    changes = {
        "name": name,
        "model.width": width,
        "model.depth": depth,
        "model.num_heads": num_heads,
        "schedule.micro_batch_size": 32,
        "scaling.num_workers": 64,
    }
    return override(xar_b(), changes)


def quickstart() -> GeneratorRun:
    """The same model at width 96 and depth 4 on xAR's own four cells of 8 x 8, on 2 CPU workers: about four minutes."""
    return GeneratorRun(
        name="generator",
        output_path="runs/quickstart",
        tokenizer_path="runs/quickstart/tokenizer",
        ema_decay=0.99,
        model=XARConfig(width=96, depth=4, num_heads=4, num_classes=10, dropout=0.0),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=2e-3,
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
            epochs=3,
            log_every_steps=16,
            checkpoints_to_keep=1,
        ),
        scaling=ScalingConfig(
            num_workers=2,
            use_gpu=False,
            cpus_per_worker=1,
            threads_per_worker=1,
            precision="fp32",
            max_failures=1,
        ),
    )


RECIPES = {"xar_b": xar_b, "xar_l": xar_l, "xar_h": xar_h, "quickstart": quickstart}
