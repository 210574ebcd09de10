"""Tokenizer runs of the paper's Tables 1 and 5, and the small one of the quickstart.

Numbers are the paper's section 4.1; what it leaves open is FQGAN's script (DECISIONS.md).
Read next: jobs/train_tokenizer.py
"""

from glotok_ray.config import (
    AdapterConfig,
    AutoencoderConfig,
    CodebookConfig,
    DiscriminatorConfig,
    ImageDataConfig,
    OptimizerConfig,
    ResidualConfig,
    ScalingConfig,
    ScheduleConfig,
    TokenizerConfig,
    TokenizerLossConfig,
    TokenizerRun,
    override,
)


def glotok_16k() -> TokenizerRun:
    """4,096 semantic + 12,288 visual codes; Table 1: rFID 0.92, PSNR 22.4; 8 x 80 GB GPUs."""
    return TokenizerRun(
        name="glotok_16k",
        teacher_path="runs/teacher_4096",
        model=TokenizerConfig(
            semantic=CodebookConfig(size=4096), visual=CodebookConfig(size=12288)
        ),
        data=ImageDataConfig(
            train_path="data/imagenet/train", validation_path="data/imagenet/validation"
        ),
    )


def glotok_2x() -> TokenizerRun:
    """16,384 semantic + 16,384 visual codes; Table 1: rFID 0.83, PSNR 22.7; 8 x 80 GB GPUs."""
    changes = {
        "name": "glotok_2x",
        "teacher_path": "runs/teacher_16384",
        "model.semantic.size": 16384,
        "model.visual.size": 16384,
    }
    return override(glotok_16k(), changes)


def vanilla_dual() -> TokenizerRun:
    """Table 5, first row: two codebooks, neither relation nor residual learning; rFID 1.43, PSNR 22.06."""
    changes = {
        "name": "vanilla_dual",
        "model.residual.enabled": False,
        "loss.relation_weight": 0.0,
        "loss.residual_weight": 0.0,
    }
    return override(glotok_16k(), changes)


def relation_only() -> TokenizerRun:
    """Table 5, second row: relation learning without residual learning; rFID 0.97, PSNR 22.30."""
    changes = {
        "name": "relation_only",
        "model.residual.enabled": False,
        "loss.residual_weight": 0.0,
    }
    return override(glotok_16k(), changes)


def quickstart() -> TokenizerRun:
    """The same model at 64 pixels on a 16 x 16 grid, width 8, on 2 CPU workers: about six minutes."""
    return TokenizerRun(
        name="tokenizer",
        output_path="runs/quickstart",
        teacher_path="runs/quickstart/teacher",
        model=TokenizerConfig(
            autoencoder=AutoencoderConfig(
                image_size=64,
                base_channels=8,
                channel_multipliers=(1, 2, 4),
                num_res_blocks=1,
                latent_channels=32,
                norm_groups=4,
            ),
            adapter=AdapterConfig(depth=1, num_heads=2),
            semantic=CodebookConfig(size=256),
            visual=CodebookConfig(size=512),
            residual=ResidualConfig(width=32, num_heads=2),
        ),
        discriminator=DiscriminatorConfig(base_channels=8, num_layers=2),
        loss=TokenizerLossConfig(
            perceptual_network="efficientnet_lite0",
            reconstruction_weight=5.0,
            perceptual_weight=0.05,
            adversarial_weight=0.02,
            adversarial_start_step=300,
            # Without it a codebook collapses within the few hundred steps that a laptop can afford.
            entropy_weight=0.03,
            entropy_tokens=512,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, schedule="warmup_hold_cosine", hold_fraction=0.5
        ),
        data=ImageDataConfig(
            train_path="runs/quickstart/data/train",
            validation_path="runs/quickstart/data/validation",
            num_train_images=4100,
            num_validation_images=200,
            crop="center",
        ),
        schedule=ScheduleConfig(
            global_batch_size=16,
            micro_batch_size=8,
            epochs=2,
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


RECIPES = {
    "glotok_16k": glotok_16k,
    "glotok_2x": glotok_2x,
    "vanilla_dual": vanilla_dual,
    "relation_only": relation_only,
    "quickstart": quickstart,
}
