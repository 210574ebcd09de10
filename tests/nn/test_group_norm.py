"""GroupNorm and SiLU by the Triton kernels: values and gradients against fp64, dtypes, layout and equal bits."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from glotok_ray.nn import group_norm as module
from glotok_ray.nn.blocks import group_norm
from glotok_ray.nn.group_norm import GroupNorm

LAST = torch.channels_last

# Shapes: one and several spans of positions and blocks of channels, groups of one channel and 32 of 16, more spans
# than are merged at once, maps of one position.
KERNELS = """
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from glotok_ray.nn.group_norm import fused_group_norm

# Every launch makes the tensors' device the current one; for a CPU's tensors that is none.
class Recorded(torch.cuda.device_of):
    entered = []

    def __enter__(self):
        self.entered.append(self.idx)
        super().__enter__()

torch.cuda.device_of = Recorded

CASES = [
    ((2, 32, 5, 7), 8, 0.0, torch.float32, 3e-6),
    ((1, 512, 4, 4), 32, 3.0, torch.float32, 3e-6),
    ((3, 6, 3, 5), 6, 0.0, torch.float32, 3e-6),
    ((2, 3, 9, 1), 1, -2.0, torch.float32, 3e-6),
    ((2, 1, 3, 3), 1, 0.0, torch.float32, 3e-6),
    ((1, 144, 33, 17), 3, 1.0, torch.bfloat16, 1e-2),
    ((1, 192, 8, 8), 32, 5.0, torch.float16, 1e-3),
    # A mean of ten thousand deviations, by which fp32 itself rounds as much as this; plain sums of squares give noise.
    ((1, 4, 120, 150), 2, 1e4, torch.float32, 1e-3),
]

def draw(shape, mean, dtype):
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator) + mean
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    return x, *(torch.randn(shape[1], generator=generator) for _ in range(2)), torch.randn(shape, generator=generator)

def values(function, inputs, gradient):
    leaves = [value.clone(memory_format=torch.preserve_format).requires_grad_() for value in inputs]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, gradient.to(y.dtype))

def check(shape, groups, mean, dtype, limit, silu):
    *inputs, gradient = draw(shape, mean, dtype)
    gradient = gradient.to(dtype)

    def kernels(x, weight, bias):
        return fused_group_norm(x, weight, bias, num_groups=groups, eps=1e-6, silu=silu)

    def exact(x, weight, bias):
        y = F.group_norm(x, groups, weight, bias, 1e-6)
        return F.silu(y) if silu else y

    found = values(kernels, inputs, gradient)
    again = values(kernels, inputs, gradient)
    assert all(torch.equal(a, b) for a, b in zip(found, again)), "bits"
    recomputed = values(lambda *x: checkpoint(kernels, *x, use_reentrant=False), inputs, gradient)
    assert all(torch.equal(a, b) for a, b in zip(found, recomputed)), "checkpoint"
    assert [value.dtype for value in found] == [dtype, dtype, torch.float32, torch.float32]
    for value in found[:2]:
        assert value.is_contiguous(memory_format=torch.channels_last)
    expected = values(exact, [value.double() for value in inputs], gradient.double())
    for name, a, b in zip(("y", "x", "weight", "bias"), found, expected):
        # A map of few numbers has gradients of x that all but cancel.
        error = (a.double() - b).norm() / b.norm().clamp_min(1e-3)
        assert error < limit, (shape, groups, silu, name, float(error))

for case in CASES:
    check(*case, True)
check(*CASES[0], False)
check(*CASES[1], False)

# NCHW is turned around; weights in bf16 get gradients in bf16; an image's bits are its own.
x, weight, bias, gradient = draw((3, 32, 6, 6), 0.0, torch.float32)
options = dict(num_groups=4, eps=1e-6, silu=True)
whole = fused_group_norm(x, weight, bias, **options)
assert torch.equal(fused_group_norm(x.contiguous(), weight, bias, **options), whole)
assert torch.equal(fused_group_norm(x[1:2], weight, bias, **options), whole[1:2])
_, _, *found = values(lambda *a: fused_group_norm(*a, **options), (x, weight.bfloat16(), bias.bfloat16()), gradient)
assert [value.dtype for value in found] == [torch.bfloat16] * 2
# What is not finite stays in its group.
x[1, 0, 2, 2] = float("nan")
broken = fused_group_norm(x, weight, bias, **options)
assert broken[1, :8].isnan().all() and broken[1, 8:].isfinite().all() and broken[[0, 2]].isfinite().all()
# Gradients of gradients are refused, not wrong.
leaf = x[:1].clone().requires_grad_()
try:
    torch.autograd.grad(fused_group_norm(leaf, weight, bias, **options).sum(), leaf, create_graph=True)
except NotImplementedError as error:
    assert "create_graph" in str(error), error
    assert len(Recorded.entered) > 50 and set(Recorded.entered) == {-1}, Recorded.entered
    print("equal")
"""


@pytest.mark.slow
def test_kernels_equal_fp64_in_the_interpreter():
    pytest.importorskip("triton")
    answer = subprocess.run(
        [sys.executable, "-c", KERNELS],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(module.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.strip() == "equal", answer.stderr[-2000:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("silu", [True, False])
def test_on_a_cpu_it_is_torchs_own_bit_by_bit(dtype, silu):
    norm = group_norm(12, 4, silu=silu).to(dtype)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 12, 5, 5, dtype=dtype).contiguous(memory_format=LAST)
    plain = nn.GroupNorm(4, 12, eps=1e-6).to(dtype)
    plain.load_state_dict(norm.state_dict())
    expected = F.silu(plain(x)) if silu else plain(x)
    assert torch.equal(norm(x), expected)
    assert list(norm.state_dict()) == ["weight", "bias"]


def on_cuda(dtype: torch.dtype) -> tuple[GroupNorm, torch.Tensor]:
    """Within a FakeTensorMode: tensors of a GPU without numbers."""
    with torch.device("cuda"):
        x = torch.empty(2, 12, 4, 4, dtype=dtype, requires_grad=True)
        return group_norm(12, 4), x


@pytest.mark.parametrize(
    ("dtype", "autocast", "expected"),
    [
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float32, None, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float16, torch.float16),
    ],
)
def test_the_result_has_the_dtype_of_the_convolution_that_follows(dtype, autocast, expected):
    enabled, before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    kept = []
    try:
        torch.set_autocast_enabled("cuda", autocast is not None)
        torch.set_autocast_dtype("cuda", autocast or before)
        with FakeTensorMode():
            norm, x = on_cuda(dtype)
            with torch.autograd.graph.saved_tensors_hooks(
                lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor
            ):
                y = norm(x)
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", before)
    assert (y.dtype, y.is_contiguous(memory_format=LAST)) == (expected, True)
    # Of maps the input alone.
    assert [tensor.dtype for tensor in kept if tensor.ndim == 4] == [dtype]


def test_torchs_own_takes_over_where_the_kernels_do_not_apply(monkeypatch):
    with FakeTensorMode():
        norm, x = on_cuda(torch.float32)
        assert module._by_kernels(x)
        assert not module._by_kernels(x.double())
        assert not module._by_kernels(x[0])
        assert not module._by_kernels(x[:0])
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not module._by_kernels(x)
        assert norm(x).shape == x.shape
    monkeypatch.undo()
    assert not module._by_kernels(torch.ones(1, 4, 2, 2))


def test_a_block_with_the_kernels_compiles_without_them():
    norm = group_norm(8, 2)
    x = torch.randn(2, 8, 4, 4)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), norm(x))


def test_without_numbers_no_device_is_made_current():
    with FakeTensorMode():
        _, x = on_cuda(torch.float32)
        # Before any use of CUDA, which a machine that only counts memory need not have.
        with module._on_device_of(x):
            assert not torch.cuda.is_initialized()


@pytest.fixture
def _nothing_remembered():
    module._triton_works.cache_clear()
    yield
    module._triton_works.cache_clear()


@pytest.mark.usefixtures("_nothing_remembered")
def test_without_triton_one_line_per_gpu_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "glotok_ray.nn.group_norm_cuda", None)
    with caplog.at_level("WARNING"):
        for gpu in (0, 1, 1, 0):
            assert not module._triton_works(gpu)
    lines = [record.getMessage() for record in caplog.records]
    assert [f"Triton does not work on GPU {gpu}" in lines[gpu] for gpu in (0, 1)] == [True, True]
    assert len(lines) == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    ],
)
@pytest.mark.usefixtures("_nothing_remembered")
def test_what_another_step_may_not_meet_is_not_remembered(monkeypatch, error):
    kernels = pytest.importorskip("glotok_ray.nn.group_norm_cuda")

    def short(*_: object) -> None:
        raise error

    with FakeTensorMode():
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "forward", short)
            with pytest.raises(type(error)):
                module._triton_works(0)
        monkeypatch.setattr(kernels, "forward", lambda *_: None)
        assert module._triton_works(0)


@pytest.mark.gpu
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(2, 128, 64, 64), (3, 512, 16, 16), (1, 96, 31, 33), (4, 32, 1, 1)]
)
def test_kernels_on_a_gpu(shape, dtype, silu):
    assert module._triton_works(torch.cuda.current_device())
    torch.manual_seed(0)
    norm = group_norm(shape[1], 32, silu=silu).cuda()
    nn.init.normal_(norm.weight)
    x = (torch.randn(shape, device="cuda") + 2).to(dtype).contiguous(memory_format=LAST)
    gradient = torch.randn_like(x)
    exact = nn.GroupNorm(32, shape[1], eps=1e-6).cuda().double()
    exact.load_state_dict(norm.state_dict())

    def values(function, layer, x):
        x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = function(x)
        return y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), gradient.to(y.dtype))

    found, again = values(norm, norm, x), values(norm, norm, x)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    expected = values(lambda x: F.silu(exact(x)) if silu else exact(x), exact, x.double())
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).norm() <= limit * b.norm().clamp_min(1e-3)
    assert found[0].is_contiguous(memory_format=LAST)


@pytest.mark.gpu
def test_under_autocast_on_a_gpu_the_map_stays_in_bf16_and_channels_last():
    norm = group_norm(64, 32).cuda()
    x = torch.randn(2, 64, 8, 8, device="cuda").contiguous(memory_format=LAST).requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        y = norm(x)
    assert (y.dtype, y.is_contiguous(memory_format=LAST)) == (torch.bfloat16, True)
    gradients = torch.autograd.grad(y.float().sum(), (x, norm.weight))
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.float32]
    assert gradients[0].is_contiguous(memory_format=LAST)


@pytest.mark.gpu
def test_kernels_on_a_gpu_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    torch.manual_seed(0)
    norm = group_norm(64, 32)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 64, 8, 8).contiguous(memory_format=LAST)

    def values(device: str) -> list[torch.Tensor]:
        layer = copy.deepcopy(norm).to(device)
        leaf = x.to(device).requires_grad_()
        y = layer(leaf)
        found = y, *torch.autograd.grad(y.square().sum(), (leaf, *layer.parameters()))
        assert torch.cuda.current_device() == 0
        return [value.detach().cpu() for value in found]

    assert module._triton_works(1)
    pairs = zip(values("cuda:1"), values("cuda:0"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
