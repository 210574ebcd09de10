"""What a pass keeps: on a GPU as autocast and fused kernels keep it, counted without one, and as an H200 has shown."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glotok_ray.config import ScalingConfig, override
from glotok_ray.nn.blocks import ResidualBlock
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.recipes.train_generator import far_b, xar_b, xar_h
from glotok_ray.recipes.train_tokenizer import glotok_16k
from glotok_ray.training.activations import kept_by_forward
from glotok_ray.training.describe import describe_generator, describe_tokenizer

GPU = ScalingConfig(num_workers=1, precision="bf16_autocast")
CPU = override(GPU, {"use_gpu": False})


def batch_of(*shape: int):
    return lambda count: (torch.empty(count, *shape),)


def on_one_gpu(run, batch: int):
    changes = {"schedule.global_batch_size": batch, "schedule.micro_batch_size": batch}
    return override(run, {"scaling.num_workers": 1, "data.num_train_images": 1000, **changes})


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2), ("bf16_autocast", 2)])
def test_a_product_keeps_its_input_as_it_is_multiplied(precision, width):
    scaling = override(GPU, {"precision": precision})
    module, kept = kept_by_forward(lambda: nn.Linear(10, 20), batch_of(10), scaling)
    # Its input needs no gradient, so the weight is not kept.
    assert kept == (10 * width, 0)
    assert next(module.parameters()).dtype == (
        torch.bfloat16 if precision == "bf16" else torch.float32
    )


# 211 and 223 are numbers of images that are counted with.
@pytest.mark.parametrize("width", [20, 211, 211 * 223])
def test_what_autocast_casts_once_does_not_grow_with_the_batch(width):
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(10, width, bias=False), nn.Linear(width, 30, bias=False))

    _, kept = kept_by_forward(make, batch_of(10), GPU)
    assert kept == (2 * (10 + width), 2 * width * 30)
    assert kept.of_batch(7) == 7 * 2 * (10 + width) + 2 * width * 30


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (x * gain for gain in self.gain)
        return F.scaled_dot_product_attention(query, key, value)


def test_attention_keeps_no_scores_on_a_gpu():
    heads, tokens, width = 2, 512, 64
    _, kept = kept_by_forward(Attention, batch_of(heads, tokens, width), GPU)
    scores = heads * tokens * tokens
    # The products' inputs in fp32; query, key, value and result in half; a sum per query in fp32.
    own = heads * tokens * (4 * width + 4 * 2 * width + 4)
    assert kept.per_image == pytest.approx(own, rel=0.01)
    _, on_cpu = kept_by_forward(Attention, batch_of(heads, tokens, width), CPU)
    assert on_cpu.per_image > scores > kept.per_image - own


def test_a_residual_block_keeps_four_maps_in_half_on_a_gpu():
    channels, side = 32, 64

    def images(count: int) -> tuple[Tensor, ...]:
        return (torch.empty(count, channels, side, side, dtype=torch.bfloat16),)

    _, kept = kept_by_forward(lambda: ResidualBlock(channels, channels, 8, 0.0), images, GPU)
    # What enters both norms and both convolutions.
    assert kept.per_image == pytest.approx(4 * 2 * channels * side * side, rel=0.01)
    recomputing = override(GPU, {"activation_checkpointing": True})
    _, less = kept_by_forward(
        lambda: ResidualBlock(channels, channels, 8, 0.0), images, recomputing
    )
    assert less.per_image == pytest.approx(2 * channels * side * side, rel=0.01)


def test_all_maps_between_convolutions_are_in_half_precision_on_a_gpu():
    wide = []

    def make() -> nn.Module:
        model = GloTokTokenizer(glotok_16k().model)
        for name, part in model.named_modules():
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(
                    lambda _, inputs, result, name=name: wide.append((name, inputs, result))
                )
        return model

    kept_by_forward(make, batch_of(3, 256, 256), GPU)
    assert {result.dtype for _, _, result in wide} == {torch.bfloat16}
    # The images themselves, and the codes that are looked up in full precision.
    exceptions = {name for name, (x,), _ in wide if x.dtype != torch.bfloat16}
    assert exceptions == {"encoder.conv_in", "decoder_projection"}


def test_autocast_and_the_default_dtype_are_as_they_were():
    for precision in ("bf16", "bf16_autocast"):
        kept_by_forward(
            lambda: nn.Linear(2, 2), batch_of(2), override(GPU, {"precision": precision})
        )
        assert torch.get_default_dtype() == torch.float32
        assert not torch.is_autocast_enabled("cuda")
        assert torch.ones(1).device.type == "cpu"


@pytest.mark.parametrize(("recipe", "measured"), [(xar_b, 13.86), (xar_h, 64.44)])
def test_generators_need_what_an_h200_has_shown(recipe, measured):
    # benchmarks.gpu_check: torch 2.11, 64 images in bf16.
    found = describe_generator(on_one_gpu(recipe(), 64))
    assert found["memory_per_worker_gib"] == pytest.approx(measured, rel=0.02)


def test_a_tokenizer_counts_the_perceptual_network_on_a_gpu():
    run = on_one_gpu(glotok_16k(), 30)
    found = describe_tokenizer(run)["memory_parts_gib"]["activations"]
    without = override(run, {"loss.perceptual_weight": 0.0})
    assert 3 < found - describe_tokenizer(without)["memory_parts_gib"]["activations"] < 6
    other = override(run, {"loss.perceptual_network": "efficientnet_lite0"})
    assert describe_tokenizer(other)["memory_parts_gib"]["activations"] < found


def test_far_is_counted_on_a_gpu_too():
    run = on_one_gpu(far_b(), 64)
    on_cpu = describe_generator(override(run, {"scaling.use_gpu": False}))
    found = describe_generator(run)
    assert found["parameters"] == on_cpu["parameters"]
    assert found["modules"] == on_cpu["modules"]
    gib = [each["memory_parts_gib"]["activations"] for each in (found, on_cpu)]
    assert 0.5 < gib[0] / gib[1] < 1
