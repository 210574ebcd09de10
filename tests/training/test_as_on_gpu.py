"""What a GPU keeps, counted on the meta device, is to the byte what torch's own fake tensors of CUDA keep."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from glotok_ray.config import ScalingConfig, TokenizerRun, override
from glotok_ray.nn import group_norm
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.recipes import train_generator, train_tokenizer
from glotok_ray.training import activations, as_on_gpu
from glotok_ray.training.counted import generator_example

RUNS = {
    f"{recipes.__name__.rsplit('.', 1)[-1]}.{name}": make()
    for recipes in (train_tokenizer, train_generator)
    for name, make in recipes.RECIPES.items()
}
SMALL = [name for name in RUNS if "quickstart" in name]
# One recipe of each model and, of generators, each loss.
DISTINCT = list(
    {(run.model, getattr(run, "flow", None)): name for name, run in RUNS.items()}.values()
)


class KernelsOfCUDA(TorchFunctionMode):
    """What fake tensors leave open where no GPU is: which kernel attends, and how a convolution's result lies in
    memory. cuDNN answers channels_last with channels_last; without it torch picks another backend for each dtype.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            if torch.is_autocast_enabled("cuda"):
                args = tuple(each.to(torch.bfloat16) for each in args)
            return as_on_gpu._attention(*args, **kwargs)
        found = func(*args, **kwargs)
        if func is F.conv2d and args[0].is_contiguous(memory_format=torch.channels_last):
            return found.contiguous(memory_format=torch.channels_last)
        return found


@contextmanager
def fake_cuda(scaling: ScalingConfig) -> Iterator[None]:
    """The tensors of activations._without_numbers, as torch fakes them."""
    autocast = scaling.precision == "bf16_autocast"
    dtype = torch.bfloat16 if scaling.precision == "bf16" else torch.float32
    with FakeTensorMode(), KernelsOfCUDA(), torch.device("cuda"):
        # torch.autocast switches itself off where there is no GPU.
        torch.set_autocast_enabled("cuda", autocast)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.autocast_increment_nesting()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)
            torch.autocast_decrement_nesting()
            torch.clear_autocast_cache()
            torch.set_autocast_enabled("cuda", False)


def models(run: Any) -> list[tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]]]]:
    """What a run trains, and inputs for it."""
    if not isinstance(run, TokenizerRun):
        return [generator_example(run)]
    side = run.model.autoencoder.image_size

    def images(count: int) -> tuple[Tensor, ...]:
        return (torch.empty(count, 3, side, side).contiguous(memory_format=torch.channels_last),)

    return [
        (lambda: GloTokTokenizer(run.model), images),
        (lambda: PatchDiscriminator(run.discriminator), images),
    ]


def compare(name: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    scaling = {"use_gpu": True, "precision": "bf16_autocast", **changes}
    run = override(RUNS[name], {f"scaling.{key}": value for key, value in scaling.items()})
    for make, inputs in models(run):
        _, found = activations.kept_by_forward(make, inputs, run.scaling)
        with monkeypatch.context() as patched:
            patched.setattr(activations, "_without_numbers", fake_cuda)
            _, expected = activations.kept_by_forward(make, inputs, run.scaling)
        assert found == expected
        assert found.per_image > 0


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16", "zero_stage": 2},
        {"precision": "fp32"},
        {"activation_checkpointing": True},
    ],
)
def test_small_models_keep_what_fake_tensors_keep(name, changes, monkeypatch):
    compare(name, monkeypatch, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_every_recipe_keeps_what_fake_tensors_keep(name, monkeypatch):
    compare(name, monkeypatch)


def test_what_follows_on_a_gpu_sees_no_trace():
    with as_on_gpu.as_on_gpu(autocast=True):
        pass
    assert not torch.is_autocast_enabled("cuda")
    assert not group_norm._by_kernels(torch.empty(1, 2, 4, 4, device="meta"))
