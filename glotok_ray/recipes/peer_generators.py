"""Causal transformers of other systems in the paper's Table 2, each on the codes of its own tokenizer.

Sizes and settings are those of their papers, READMEs and configurations; a docstring says where they are not published.
They train on any other single codebook too, with --tokenizer-path, --data.train-path, --model.codebooks.0.size and, of
another system's codes, --model.codebooks.0.name codes.
Read next: glotok_ray/recipes/train_generator.py
"""

from collections.abc import Callable

from glotok_ray.config.causal import CausalVariantConfig
from glotok_ray.config.checkpoint_evaluation import FARCheckpointsConfig
from glotok_ray.config.generator import FARConfig, VocabularyConfig
from glotok_ray.config.overrides import override
from glotok_ray.config.runs import FARRun
from glotok_ray.config.samplers import TokenSamplerConfig
from glotok_ray.config.training import (
    CodeDataConfig,
    OptimizerConfig,
    ScalingConfig,
    ScheduleConfig,
)

_OTHERS_CODES = "codes"
"""Column of the codes of another system's single grid, as `jobs.encode_images` calls it."""


def _run(name: str, tokenizer: str, model: FARConfig) -> FARRun:
    """With the settings of LlamaGen's script: AdamW at a constant 1e-4, decay 0.05, batches of 256, 300 epochs."""
    has_null_label = model.variant.has_null_label
    guidance_scale = TokenSamplerConfig().guidance_scale if has_null_label else 1.0
    return FARRun(
        name=name,
        tokenizer_path=f"runs/{tokenizer}_imported",
        ema_decay=0.0,
        model=model,
        label_dropout=0.1 if has_null_label else 0.0,
        checkpoint_evaluation=FARCheckpointsConfig(
            sampler=TokenSamplerConfig(guidance_scale=guidance_scale)
        ),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=1e-4, betas=(0.9, 0.95), weight_decay=0.05
        ),
        data=CodeDataConfig(train_path=f"runs/{tokenizer}_ten_crop_codes", views="ten_crop"),
        schedule=ScheduleConfig(
            global_batch_size=256, micro_batch_size=32, epochs=300, checkpoint_every_minutes=15
        ),
        scaling=ScalingConfig(num_workers=8, precision="bf16_autocast"),
    )


def _gpt(name: str, width: int, depth: int, num_heads: int) -> FARRun:
    model = FARConfig(
        codebooks=(VocabularyConfig(name="visual"),),
        width=width,
        depth=depth,
        head_depth=0,
        num_heads=num_heads,
    )
    return _run(name, "llamagen_vq16", model)


def gpt_b() -> FARRun:
    """LlamaGen's GPT-B on its VQ-16, 110,888,448 parameters: 300 epochs; 8 GPUs x 32 images."""
    return _gpt("gpt_b", 768, 12, 12)


def gpt_l() -> FARRun:
    """LlamaGen's GPT-L on its VQ-16, 342,910,976 parameters (its own paper: gFID 3.80, IS 248 at 256 pixels)."""
    return _gpt("gpt_l", 1024, 24, 16)


def gpt_xl() -> FARRun:
    """LlamaGen's GPT-XL, 774,699,520 parameters: 50 epochs (its paper, at guidance 1.75: gFID 3.391, IS 227.08);
    not in Table 2; 16 GPUs x 16 images.
    """
    return _fifty_epochs(_gpt("gpt_xl", 1280, 36, 20), num_workers=16)


def gpt_xxl() -> FARRun:
    """LlamaGen's GPT-XXL, 1,410,972,672 parameters; Table 2: gFID 3.09, IS 253.60. The source has 3.094 / 253.609 after
    50 epochs, beside 300 of gpt_b; 32 GPUs x 8 images.
    """
    return _fifty_epochs(_gpt("gpt_xxl", 1536, 48, 24), num_workers=32)


def gpt_3b() -> FARRun:
    """LlamaGen's GPT-3B, 3,096,659,200 parameters, heads of 100; Table 2: gFID 3.06, IS 279.71. The source has 3.063 /
    279.716 after 50 epochs, beside 300 of gpt_b; 64 GPUs x 4 images.
    """
    run = _fifty_epochs(_gpt("gpt_3b", 3200, 24, 32), num_workers=64)
    # As FSDP's full shards: no GPU holds all weights, 12 GB in fp32.
    changes = {"scaling.zero_stage": 3, "scaling.activation_checkpointing": True}
    return override(run, changes)


def _fifty_epochs(run: FARRun, *, num_workers: int) -> FARRun:
    changes = {
        "schedule.epochs": 50,
        "schedule.micro_batch_size": run.schedule.global_batch_size // num_workers,
        "scaling.num_workers": num_workers,
    }
    return override(run, changes)


def ibq_b() -> FARRun:
    """IBQ-B on IBQ's tokenizer, 342,994,944 parameters; Table 2: gFID 2.88, IS 254.73, as in its README: 300 epochs;
    24 GPUs x 32 images.
    """
    return _ibq("ibq_b", depth=16, epochs=300, gate_scale=1e-3)


def ibq_l() -> FARRun:
    """IBQ-L, 649,640,960 parameters (its README: gFID 2.45, IS 267.48); not in Table 2: 350 epochs; 24 GPUs x 32."""
    return _ibq("ibq_l", depth=20, epochs=350, gate_scale=1e-3)


def ibq_xl() -> FARRun:
    """IBQ-XL, 1,076,103,168 parameters (its README: gFID 2.14, IS 278.99); not in Table 2: 400 epochs; 48 GPUs x 16."""
    return _ibq("ibq_xl", depth=24, epochs=400, gate_scale=1e-4, final_rate=3e-6, num_workers=48)


def ibq_xxl() -> FARRun:
    """IBQ-XXL, 2,063,331,840 parameters; Table 2: gFID 2.05, IS 286.73, as in its README: 450 epochs; its decay rises
    to 0.08 over the run, here it stays 0.05; 96 GPUs x 8 images.
    """
    return _ibq("ibq_xxl", depth=30, epochs=450, gate_scale=1e-5, final_rate=3e-6, num_workers=96)


def _ibq(
    name: str,
    *,
    depth: int,
    epochs: int,
    gate_scale: float,
    final_rate: float = 3e-5,
    num_workers: int = 24,
) -> FARRun:
    # SEED-Voken's configurations. Its scheduler decays norms and biases too, by mistake; here they are not.
    model = FARConfig(
        codebooks=(VocabularyConfig(name=_OTHERS_CODES),),
        width=64 * depth,
        depth=depth,
        head_depth=0,
        num_heads=depth,
        variant=CausalVariantConfig(block="ibq", gate_scale=gate_scale),
    )
    changes = {
        "optimizer.learning_rate": 3e-4,
        "optimizer.schedule": "warmup_hold_linear",
        "optimizer.warmup_fraction": 0.02,
        # 5 % of the steps after warm-up.
        "optimizer.hold_fraction": 0.069,
        "optimizer.final_learning_rate": final_rate,
        # Random crops without flips there; the nearest cached views are the ten crops.
        "schedule.global_batch_size": 768,
        "schedule.micro_batch_size": 768 // num_workers,
        "schedule.epochs": epochs,
        "scaling.num_workers": num_workers,
    }
    return override(_run(name, "ibq_16384", model), changes)


def taming_gpt() -> FARRun:
    """taming-transformers' class-conditional GPT, 1,410,640,896 parameters (its README: FID 15.98 to 5.20, the last
    with rejection by a classifier): no null label. Epochs, batch and learning rate of it are not published: these are
    LlamaGen's; 32 GPUs x 8 images. Table 2's VQGAN is another model: see taming_gpt_small.
    """
    run = _taming("taming_gpt", "taming_f16_16384", 16384, width=1536, depth=48, num_heads=24)
    changes = {"schedule.micro_batch_size": 8, "scaling.num_workers": 32}
    return override(run, changes)


def taming_gpt_small() -> FARRun:
    """The same at MaskGIT's size, 24 blocks of width 768, on 1,024 codes: 171,879,936 parameters; Table 2, VQGAN: gFID
    18.65, IS 80.4 at 227M, which counts the tokenizer's 54.5M too. MaskGIT's authors trained that baseline; neither
    its code nor its weights are published, so this is the nearest model known; 8 GPUs x 32 images.
    """
    return _taming("taming_gpt_small", "taming_f16_1024", 1024, width=768, depth=24, num_heads=16)


def _taming(
    name: str, tokenizer: str, size: int, *, width: int, depth: int, num_heads: int
) -> FARRun:
    variant = CausalVariantConfig(block="gpt", class_input="among_codes")
    run = _run(name, tokenizer, _plain(size, width, depth, num_heads, variant))
    # The peer decays Linear layers alone; here embeddings and positions are decayed too.
    return override(run, {"optimizer.weight_decay": 0.01})


def vqgan_lc_gpt() -> FARRun:
    """VQGAN-LC's GPT on 100,000 codes, 509,422,592 parameters; Table 2: 404M, which leaves out the embedding, gFID 15.4
    by clean-fid against the training images, not by ADM's evaluator. 450,000 steps of 1,024 images; its script also
    restricts the data to 4 classes. 32 GPUs x 32 images.
    """
    variant = CausalVariantConfig(block="gpt", class_input="after_codes", unread_positions=1)
    run = _run("vqgan_lc_gpt", "vqgan_lc_100k", _plain(100_000, 1024, 24, 16, variant))
    run = override(run, {"model.codebooks.0.name": _OTHERS_CODES})
    changes = {
        "code_noise": 0.2,
        "optimizer.learning_rate": 4.5e-4,
        "optimizer.weight_decay": 0.01,
        "optimizer.schedule": "warmup_hold_cosine",
        "optimizer.warmup_fraction": 5_000 / 450_000,
        "optimizer.hold_fraction": 80_000 / 450_000,
        "optimizer.final_learning_rate": 1e-5,
        "data.train_path": "runs/vqgan_lc_100k_center_codes",
        "data.views": "center",
        "schedule.global_batch_size": 1024,
        "schedule.epochs": 360,
        "scaling.num_workers": 32,
    }
    return override(run, changes)


def _plain(
    size: int, width: int, depth: int, num_heads: int, variant: CausalVariantConfig
) -> FARConfig:
    return FARConfig(
        codebooks=(VocabularyConfig(name="visual", size=size),),
        width=width,
        depth=depth,
        head_depth=0,
        num_heads=num_heads,
        dropout=0.0,
        token_dropout=0.0,
        variant=variant,
    )


RECIPES: dict[str, Callable[[], FARRun]] = {
    recipe.__name__: recipe
    for recipe in (
        gpt_b,
        gpt_l,
        gpt_xl,
        gpt_xxl,
        gpt_3b,
        ibq_b,
        ibq_l,
        ibq_xl,
        ibq_xxl,
        taming_gpt,
        taming_gpt_small,
        vqgan_lc_gpt,
    )
}
