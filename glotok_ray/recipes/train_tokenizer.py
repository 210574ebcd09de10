"""Tokenizer runs: every tokenizer row of the paper's tables, the two systems that it compares with, and small ones.

Numbers are the paper's section 4.1; what it leaves open is FQGAN's script (DECISIONS.md). What makes a row of GloTok is
in glotok_ray/recipes/tokenizer_rows.py. Read next: jobs/train_tokenizer.py
"""

from typing import Any

from glotok_ray.config.losses import TokenizerLossConfig
from glotok_ray.config.overrides import override
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.tokenizer import (
    AdapterConfig,
    AutoencoderConfig,
    CodebookConfig,
    ContrastConfig,
    DiscriminatorConfig,
    ResidualConfig,
    TokenizerConfig,
)
from glotok_ray.config.training import (
    ImageDataConfig,
    OptimizerConfig,
    ScalingConfig,
    ScheduleConfig,
)
from glotok_ray.recipes.tokenizer_rows import EMBEDDED_NETWORK, ROWS, local_contrast

# What FQGAN's and LlamaGen's scripts share, and the paper says nothing of: the discriminator's loss times 0.5, and a
# game that begins when their count of steps, which starts at 1, reaches 20,000.
_PEERS_GAME = {"loss.discriminator_loss_scale": 0.5, "loss.adversarial_start_step": 19_999}
_FORTY_EPOCHS = {"schedule.epochs": 40}
_IMAGENET = ImageDataConfig(
    max_bad_rows=100,
    train_path="data/imagenet/train",
    validation_path="data/imagenet/validation",
    adm_protocol=True,
)
_LLAMAGEN_OPTIMIZER = OptimizerConfig(learning_rate=1e-4)


def _sizes(*, visual: int, semantic: int) -> tuple[CodebookConfig, ...]:
    return (
        CodebookConfig(name="visual", size=visual),
        CodebookConfig(name="semantic", size=semantic),
    )


def _row(name: str, row: str, more: dict[str, Any] | None = None) -> TokenizerRun:
    return override(ROWS[row](glotok_16k()), {"name": name, **(more or {})})


def glotok_16k() -> TokenizerRun:
    """4,096 semantic + 12,288 visual codes; Table 1 and Table 5's last row: rFID 0.92, PSNR 22.44; 8 x 80 GB GPUs."""
    return TokenizerRun(
        name="glotok_16k",
        teacher_path="runs/teacher_4096",
        model=TokenizerConfig(codebooks=_sizes(visual=12288, semantic=4096)),
        data=_IMAGENET,
        schedule=ScheduleConfig(checkpoint_every_minutes=15),
        scaling=ScalingConfig(precision="bf16_autocast"),
    )


def glotok_2x() -> TokenizerRun:
    """16,384 semantic + 16,384 visual codes; Table 1: rFID 0.83, PSNR 22.7; 8 x 80 GB GPUs."""
    changes = {
        "name": "glotok_2x",
        "teacher_path": "runs/teacher_16384",
        "model.codebooks": _sizes(visual=16384, semantic=16384),
    }
    return override(glotok_16k(), changes)


def vanilla_dual() -> TokenizerRun:
    """Table 5, first row: two codebooks, neither relation nor residual learning; rFID 1.43, PSNR 22.06; 8 x 80 GB.

    The paper's number seems to be that of Table 4's 40 epochs: see relation_off_40.
    """
    return _row("vanilla_dual", "vanilla_dual")


def relation_only() -> TokenizerRun:
    """Table 5, second row: relation learning without residual learning; rFID 0.97, PSNR 22.30; 8 x 80 GB."""
    return _row("relation_only", "relation_only")


def relation_off_40() -> TokenizerRun:
    """Table 4, first row: no relation learning, 40 epochs, no residual; rFID 1.43, PSNR 22.06; 8 x 80 GB."""
    return _row("relation_off_40", "vanilla_dual", _FORTY_EPOCHS)


def relation_01_40() -> TokenizerRun:
    """Table 4, second row: lambda_hist 0.1, 40 epochs, no residual; rFID 1.27, PSNR 21.97; 8 x 80 GB."""
    return _row("relation_01_40", "relation_weight_01", _FORTY_EPOCHS)


def relation_001_40() -> TokenizerRun:
    """Table 4, third row: lambda_hist 0.01, 40 epochs, no residual; rFID 1.21, PSNR 22.23; 8 x 80 GB."""
    return _row("relation_001_40", "relation_only", _FORTY_EPOCHS)


def teacher_fqgan() -> TokenizerRun:
    """Table 6: the teacher is FQGAN's semantic codebook (CLIP); no residual; rFID 0.98, PSNR 22.03; 8 x 80 GB.

    The teacher: `python -m jobs.build_teacher fqgan_codebook --data-path fqgan_dual_ds16.pt`.
    """
    return _row("teacher_fqgan", "relation_only", {"teacher_path": "runs/teacher_fqgan"})


def teacher_imagefolder() -> TokenizerRun:
    """Table 6: the teacher is ImageFolder's semantic codebook (DINOv2); no residual; rFID 0.95, PSNR 22.37.

    8 x 80 GB GPUs. The teacher: `python -m jobs.build_teacher imagefolder_codebook --data-path CHECKPOINT`.
    """
    return _row(
        "teacher_imagefolder", "relation_only", {"teacher_path": "runs/teacher_imagefolder"}
    )


def teacher_dinov2() -> TokenizerRun:
    """Table 6: the teacher is k-means of DINOv2's patch tokens; no residual; rFID 0.95, PSNR 22.39; 8 x 80 GB.

    As relation_only, for which Table 5 gives 0.97 and 22.30.
    """
    return _row("teacher_dinov2", "relation_only", {"teacher_path": "runs/teacher_4096"})


def llamagen_vq16() -> TokenizerRun:
    """LlamaGen's VQ-16, the single codebook of Tables 1 and 3: 16,384 codes; rFID 2.19, PSNR 20.7; 8 x 80 GB.

    Its own script: batch 128, 40 epochs, Adam at 1e-4, the discriminator's loss times 0.5 from step 19,999 on (20,000
    in its count from 1).
    """
    changes = {
        **_PEERS_GAME,
        "optimizer": _LLAMAGEN_OPTIMIZER,
        "schedule.global_batch_size": 128,
        "schedule.epochs": 40,
    }
    return _row("llamagen_vq16", "single_codebook", changes)


def llamagen_vq8() -> TokenizerRun:
    """LlamaGen's VQ-8: as llamagen_vq16 with half the downsampling, 32 x 32 tokens; not in the paper; 8 x 80 GB."""
    changes = {
        "name": "llamagen_vq8",
        "model.autoencoder.channel_multipliers": (1, 2, 2, 4),
        "schedule.micro_batch_size": 16,
    }
    return override(llamagen_vq16(), changes)


def fqgan_dual() -> TokenizerRun:
    """FQGAN-Dual, Table 1: a local contrastive loss to CLIP, 16,384 + 16,384 codes; rFID 0.94, PSNR 22.0; 8 x 80 GB.

    Its own script: batch 256, 40 epochs, entropy 0.03 with 1e-5 added to the mean probabilities, disentanglement 0.1,
    the discriminator's loss times 0.5 from step 19,999 on (20,000 in its count from 1). One thing is not repeated:
    there the discriminator's Adam has counted 19,999 steps of zero gradients by then, so its first real ones are short.
    """
    changes = {
        **_PEERS_GAME,
        "name": "fqgan_dual",
        "schedule.global_batch_size": 256,
        "schedule.micro_batch_size": 32,
        "schedule.epochs": 40,
    }
    return override(local_contrast(glotok_2x()), changes)


def fqgan_triple() -> TokenizerRun:
    """FQGAN-Triple, contrasted with DINOv2-S and CLIP B/16: 3 x 16,384 codes; its own rFID 0.76, PSNR 22.73; 8 x 80 GB.

    Not in the paper's tables.
    """
    changes = {
        "name": "fqgan_triple",
        "model.codebooks": (
            CodebookConfig(name="visual"),
            CodebookConfig(
                name="semantic_mid", contrast=ContrastConfig(network="dinov2_vits14", width=384)
            ),
            CodebookConfig(
                name="semantic_high", contrast=ContrastConfig(network="clip_vitb16", width=768)
            ),
        ),
    }
    return override(fqgan_dual(), changes)


def taming_f16_16384() -> TokenizerRun:
    """VQGAN's f16 of taming-transformers: 16,384 raw vectors of width 256; Table 1: rFID 5.96 (own: 4.98); 8 x 80 GB.

    Its own config, but for the crop, which is ADM's here; how long it was trained is not published, 30 epochs are ours.
    """
    codebook = CodebookConfig(name="visual", size=16384, width=256, lookup="euclidean")
    changes = {
        # taming weighs the codebook's side of Eq. 1 by 0.25 and the encoder's by 1.
        "loss.quantization_weight": 0.25,
        "loss.commitment_weight": 4.0,
        "data.horizontal_flip": False,
        "scaling.precision": "fp32",
        "schedule.epochs": 30,
        "model.codebooks": (codebook,),
        "optimizer": OptimizerConfig(
            learning_rate=4.5e-6 * 96, betas=(0.5, 0.9), gradient_clip=0.0
        ),
        "loss.reconstruction_kind": "l1",
        "loss.adversarial_weight": 0.8,
        "loss.adaptive_adversarial_weight": True,
        "loss.adversarial_start_step": 250001,
        "schedule.global_batch_size": 96,
        "schedule.micro_batch_size": 12,
    }
    return _row("taming_f16_16384", "single_codebook", changes)


def taming_f16_1024() -> TokenizerRun:
    """VQGAN's f16 with 1,024 codes, otherwise as taming_f16_16384; not in the paper; 8 x 80 GB."""
    return override(taming_f16_16384(), {"name": "taming_f16_1024", "model.codebooks.0.size": 1024})


def quickstart() -> TokenizerRun:
    """The same model at 48 pixels on a 12 x 12 grid, width 8, on 2 CPU workers: about three minutes."""
    return TokenizerRun(
        name="tokenizer",
        output_path="runs/quickstart",
        teacher_path="runs/quickstart/teacher",
        model=TokenizerConfig(
            autoencoder=AutoencoderConfig(
                image_size=48,
                base_channels=8,
                channel_multipliers=(1, 2, 4),
                num_res_blocks=1,
                latent_channels=32,
                norm_groups=4,
            ),
            adapter=AdapterConfig(depth=1, num_heads=2),
            codebooks=_sizes(visual=512, semantic=256),
            residual=ResidualConfig(width=32, num_heads=2),
        ),
        discriminator=DiscriminatorConfig(base_channels=8, num_layers=2),
        loss=TokenizerLossConfig(
            perceptual_network=EMBEDDED_NETWORK,
            reconstruction_weight=5.0,
            perceptual_weight=0.2,
            adversarial_weight=0.02,
            adversarial_start_step=384,
            # The paper's 0.01 acts over its 150 epochs; within a few hundred steps it moved nothing that can be seen.
            relation_weight=0.3,
            # Without it a codebook collapses within the few hundred steps that a laptop can afford.
            entropy_weight=0.03,
            entropy_tokens=512,
        ),
        optimizer=OptimizerConfig(
            learning_rate=3.5e-3, schedule="warmup_hold_cosine", hold_fraction=0.7
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
            # Parts of so few weights save no memory that counts, and cost a part of each step.
            zero_stage=0,
            precision="fp32",
            max_failures=1,
        ),
    )


RECIPES = {
    function.__name__: function
    for function in (
        glotok_16k,
        glotok_2x,
        vanilla_dual,
        relation_only,
        relation_off_40,
        relation_01_40,
        relation_001_40,
        teacher_fqgan,
        teacher_imagefolder,
        teacher_dinov2,
        llamagen_vq16,
        llamagen_vq8,
        fqgan_dual,
        fqgan_triple,
        taming_f16_16384,
        taming_f16_1024,
        quickstart,
    )
}
