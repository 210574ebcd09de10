"""The config of a DeepSpeed engine, as a pure function of ours.

Read next: glotok_ray/training/engine.py
"""

from typing import Any

from glotok_ray.config.training import OptimizerConfig, ScalingConfig


def deepspeed_config(
    optimizer: OptimizerConfig,
    scaling: ScalingConfig,
    micro_batch_size: int,
    accumulation_steps: int,
    num_parameters: int,
) -> dict[str, Any]:
    """The whole DeepSpeed config of one engine; the learning rate follows the trainer's schedule."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        # At stage 0 the engine does it, with the norm that it logs.
        "gradient_clipping": optimizer.gradient_clip if scaling.zero_stage else 0.0,
        # Not "elastic_checkpoint": DeepSpeed 0.19.8 cannot load one back with torch's Adam.
        "zero_optimization": {
            "stage": scaling.zero_stage,
            **_buckets(scaling, num_parameters),
        },
        "bf16": {"enabled": scaling.precision == "bf16"},
        # Gradients travel in fp32, so no module is named as safe in lower precision.
        "torch_autocast": {
            "enabled": scaling.precision == "bf16_autocast",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "optimizer": {
            "type": "AdamW" if optimizer.name == "adamw" else "Adam",
            "params": {
                "lr": optimizer.learning_rate,
                "betas": list(optimizer.betas),
                "weight_decay": optimizer.weight_decay,
                # DeepSpeed's own would be compiled at first use, by an nvcc of torch's CUDA version. What torch brings
                # ready is one kernel as well.
                "torch_adam": True,
                "adam_w_mode": optimizer.name == "adamw",
                # On a CPU, stage 0 has many small tensors, which the fused one updates in a fifth of the time; at other
                # stages what is known of the memory of a step is of the plain one.
                **({"fused": True} if scaling.use_gpu or scaling.zero_stage == 0 else {}),
            },
        },
    }


def _buckets(scaling: ScalingConfig, num_parameters: int) -> dict[str, int]:
    """Sizes, in numbers, of what DeepSpeed moves at once; its own are ten times ours, whatever the model."""
    # DeepSpeed refuses odd ones.
    bucket = max(2, min(scaling.bucket_elements, num_parameters) // 2 * 2)
    found = {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if scaling.zero_stage == 3:
        # Weights that were gathered stay until so many others have come: at DeepSpeed's own distance of a billion
        # a model up to that size would never be in parts.
        names = ("prefetch_bucket_size", "max_live_parameters", "max_reuse_distance")
        found |= {f"stage3_{name}": bucket for name in names} | {"sub_group_size": bucket}
    return found
