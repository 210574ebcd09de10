"""The passes over pairs: compiled, tiled and Triton agree with sums written out, in any share, and
with any number of threads.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from glotok_ray.losses.pairs import cpu, passes
from glotok_ray.losses.pairs.passes import accumulate_gradient, pair_histogram
from glotok_ray.losses.pairs.tables import Share
from glotok_ray.losses.relation import unit_rows

NODES = 1024


def vectors(n: int, d: int = 8, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n + d)
    return unit_rows(torch.randn(n, d, dtype=torch.float64, generator=generator)).to(dtype)


def counts_by_hand(unit: torch.Tensor, num_nodes: int) -> torch.Tensor:
    unit = unit.double()
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    position = ((unit[rows] * unit[columns]).sum(1).clamp(-1, 1) + 1) * num_nodes / 2
    left = position.floor().clamp(max=num_nodes - 1)
    counts = torch.zeros(num_nodes + 1, dtype=torch.float64)
    counts.index_add_(0, left.long(), 1 - (position - left))
    counts.index_add_(0, left.long() + 1, position - left)
    return counts


def pull_by_hand(unit: torch.Tensor) -> torch.Tensor:
    """The slope 3 s^2 + s, whose linear interpolation on fine nodes is all but exact."""
    unit = unit.double()
    cosines = unit @ unit.T
    weights = 3 * cosines.square() + cosines
    return weights.fill_diagonal_(0) @ unit


def slope(num_nodes: int = 16384) -> torch.Tensor:
    s = torch.linspace(-1, 1, num_nodes + 1, dtype=torch.float64)
    return 3 * s.square() + s


# Below four rows, no multiple of four, several stripes; widths below, at and above the padding.
SHAPES = [(1, 8), (2, 8), (3, 5), (7, 8), (101, 1), (258, 8), (1030, 3), (517, 33)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_equal_the_sum_over_pairs(shape, dtype):
    unit = vectors(*shape, dtype=dtype)
    counts = pair_histogram(unit, NODES, Share())
    expected = counts_by_hand(unit, NODES)
    assert counts.dtype == torch.float64
    assert float(counts.sum()) == len(unit) * (len(unit) - 1) / 2 == float(expected.sum().round())
    # In fp32 a split is rounded to 1/1024 of a pair, half of which may be missing here and surplus there.
    limit = 1e-9 if dtype == torch.float64 else 1.1e-3
    assert (counts - expected).abs().sum() <= limit * max(1.0, float(expected.sum()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 3e-6), (torch.float64, 1e-7)])
def test_the_gradient_equals_the_sum_over_pairs(shape, dtype, limit):
    unit = vectors(*shape, dtype=dtype)
    pulled = accumulate_gradient(unit, slope(), Share())
    expected = pull_by_hand(unit)
    assert pulled.dtype == dtype
    assert (pulled - expected).norm() <= limit * expected.norm()


def test_degenerate_sets():
    same = vectors(1, 8).repeat(700, 1)
    opposite = torch.cat([same[:300], -same[:300]])
    counts = pair_histogram(same, NODES, Share())
    assert float(counts[-3:].sum()) == 700 * 699 / 2
    counts = pair_histogram(opposite, NODES, Share())
    assert float(counts[:3].sum()) == 300 * 300
    assert float(counts[-3:].sum()) == 300 * 299
    assert torch.isfinite(accumulate_gradient(opposite, slope(), Share())).all()
    zeros = pair_histogram(torch.zeros(10, 8), NODES, Share())
    assert float(zeros[NODES // 2]) == 45


@pytest.mark.parametrize("workers", [2, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shares_add_up_to_the_whole(workers, dtype):
    unit = vectors(1030, dtype=dtype)
    shares = [Share(index, workers) for index in range(workers)]
    counts = torch.stack([pair_histogram(unit, NODES, share) for share in shares]).sum(0)
    pulled = torch.stack([accumulate_gradient(unit, slope(), share) for share in shares]).sum(0)
    whole = pair_histogram(unit, NODES, Share())
    if dtype == torch.float32:
        assert torch.equal(counts, whole)
    torch.testing.assert_close(counts, whole)
    torch.testing.assert_close(
        pulled, accumulate_gradient(unit, slope(), Share()), rtol=1e-4, atol=1e-5
    )


def test_threads_do_not_change_a_bit(restored_threads):
    unit = vectors(2050)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(
            (pair_histogram(unit, NODES, Share()), accumulate_gradient(unit, slope(), Share())),
        )
    for counts, pulled in results[1:]:
        assert torch.equal(counts, results[0][0])
        assert torch.equal(pulled, results[0][1])


@pytest.fixture
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("length", [1, 4, 255, 4097, 16384, 300_000])
def test_stripes_cover_every_row_once_and_keep_the_packed_counts_in_range(length):
    stripes = cpu.stripes(length)
    assert [first for first, _ in stripes[1:]] == [last for _, last in stripes[:-1]]
    assert (stripes[0][0], stripes[-1][1]) == (0, length)
    assert all(first % 4 == 0 for first, _ in stripes)
    sizes = [
        sum(length - 1 - i for i in (first, last - 1)) * (last - first) / 2
        for first, last in stripes
    ]
    assert max(sizes) < 1 << 26  # what a count above bit 37 of a signed 64-bit number can hold


@pytest.mark.parametrize("num_nodes", [1000, 1024, 8192, 65536])
def test_positions_stay_exact_in_single_precision(num_nodes):
    assert num_nodes << cpu.fraction_bits(num_nodes) <= 1 << 24


def test_packed_counts_come_apart():
    packed = np.zeros(4, np.int64)
    packed[1] = (3 << 37) + 512 + 256  # three pairs, half and a quarter of a way to node 2
    packed[3] = 2 << 37
    np.testing.assert_array_equal(cpu.unpack(packed, 10), [0, 2.25, 0.75, 2])


def test_nan_reaches_the_counts_and_harms_nothing():
    unit = vectors(100)
    unit[3, 2] = float("nan")
    assert pair_histogram(unit, NODES, Share()).isnan().all()
    assert accumulate_gradient(unit, slope(), Share()).isfinite().all()


KERNELS = """
import torch
from glotok_ray.losses.pairs import cuda, passes
from glotok_ray.losses.pairs.tables import Share

# Every launch makes the tensors' device the current one; for a CPU's tensors that is none.
class Recorded(torch.cuda.device_of):
    entered = []

    def __enter__(self):
        self.entered.append(self.idx)
        super().__enter__()

torch.cuda.device_of = Recorded

torch.manual_seed(0)
for n, d in ((1, 8), (70, 8), (130, 3), (150, 24)):
    unit = torch.nn.functional.normalize(torch.randn(n, d), dim=1)
    slope = torch.linspace(-1, 2, 513, dtype=torch.float64)
    whole = passes.TILED.pair_histogram(unit.double(), 512, Share())
    counts = [cuda.pair_histogram(unit, 512, Share(i, 2)) for i in range(2)]
    assert float(sum(counts).sum()) == n * (n - 1) / 2, (n, d)
    assert (sum(counts) - whole).abs().sum() <= 1e-3 * max(1.0, whole.sum()), (n, d)
    assert torch.equal(cuda.pair_histogram(unit, 512, Share()), sum(counts)), (n, d)
    whole = passes.TILED.accumulate_gradient(unit.double(), slope, Share())
    pulled = sum(cuda.accumulate_gradient(unit, slope, Share(i, 2)) for i in range(2))
    assert (pulled - whole).norm() <= 1e-5 * whole.norm(), (n, d)

# Of three workers, one lacks Triton, or has it alone. Blocks of 64 rows: some of a tile of plain torch, and more.
for n in (1, 70, 150, 700):
    unit = torch.nn.functional.normalize(torch.randn(n, 8), dim=1)
    shares = [Share(i, 3) for i in range(3)]
    kernels = passes.Backend(cuda.pair_histogram, cuda.accumulate_gradient)
    counts = [kernels.pair_histogram(unit, 512, share) for share in shares]
    pulled = [kernels.accumulate_gradient(unit, slope, share) for share in shares]
    for backends in ((kernels, kernels, passes.BY_ROWS), (passes.BY_ROWS, kernels, passes.BY_ROWS)):
        for backend, share, own, row in zip(backends, shares, counts, pulled):
            found = backend.pair_histogram(unit, 512, share)
            assert round(float(found.sum()), 6) == float(own.sum()), (n, share)
            assert (found - own).abs().sum() <= 1e-3 * own.sum(), (n, share)
            found = backend.accumulate_gradient(unit, slope, share)
            assert (found - row).norm() <= 1e-5 * row.norm(), (n, share)
    alone = passes.BY_ROWS.accumulate_gradient(unit, slope, Share())
    assert (alone - sum(pulled)).norm() <= 1e-5 * alone.norm(), n
assert len(Recorded.entered) > 10 and set(Recorded.entered) == {-1}, Recorded.entered
print("equal")
"""


def test_triton_kernels_equal_the_tiles_in_the_interpreter():
    pytest.importorskip("triton")
    answer = subprocess.run(
        [sys.executable, "-c", KERNELS],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(passes.__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.strip() == "equal", answer.stderr[-2000:]


@pytest.fixture
def _nothing_remembered():
    passes._triton_works.cache_clear()
    yield
    passes._triton_works.cache_clear()


@pytest.mark.usefixtures("_nothing_remembered")
def test_without_triton_one_line_per_gpu_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "glotok_ray.losses.pairs.cuda", None)
    with caplog.at_level("WARNING"):
        for gpu in (0, 1, 1, 0):
            assert not passes._triton_works(gpu)
    lines = [record.getMessage() for record in caplog.records]
    assert [f"Triton does not work on GPU {gpu}" in lines[gpu] for gpu in (0, 1)] == [True, True]
    assert len(lines) == 2


@pytest.mark.usefixtures("_nothing_remembered")
def test_a_worker_without_triton_divides_the_pairs_as_one_with_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "glotok_ray.losses.pairs.cuda", None)
    with FakeTensorMode():
        on_gpu = torch.empty(10, 8, device="cuda")
        assert passes._backend(on_gpu) is passes.BY_ROWS
        # Of these the kernels take none, on whichever worker.
        assert passes._backend(on_gpu.double()) is passes.TILED
        assert passes._backend(torch.empty(10, 129, device="cuda")) is passes.TILED


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
    kernels = pytest.importorskip("glotok_ray.losses.pairs.cuda")

    def short(*_: object) -> None:
        raise error

    with FakeTensorMode():
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "pair_histogram", short)
            with pytest.raises(type(error)):
                passes._triton_works(0)
        monkeypatch.setattr(kernels, "pair_histogram", lambda *_: None)
        assert passes._triton_works(0)


@pytest.mark.gpu
def test_triton_kernels_on_a_gpu():
    unit = vectors(3000).cuda()
    counts = pair_histogram(unit, NODES, Share())
    pulled = accumulate_gradient(unit, slope().cuda(), Share())
    expected = pair_histogram(unit.cpu(), NODES, Share())
    assert (counts.cpu() - expected).abs().sum() < 1e-3 * expected.sum()
    torch.testing.assert_close(
        pulled.cpu(), accumulate_gradient(unit.cpu(), slope(), Share()), rtol=1e-3, atol=1e-3
    )


@pytest.mark.gpu
def test_triton_kernels_on_a_gpu_equal_fp64():
    unit, table = vectors(4096).cuda(), slope().cuda()
    backend = passes._backend(unit)
    assert backend is not passes.BY_ROWS  # Triton works
    exact = passes.TILED.pair_histogram(unit.double(), NODES, Share())
    counts = [backend.pair_histogram(unit, NODES, Share(index, 3)) for index in range(3)]
    # Whole pairs are counted exactly; fractions of a node are rounded.
    assert float(sum(counts).sum()) == 4096 * 4095 / 2
    assert torch.equal(sum(counts), backend.pair_histogram(unit, NODES, Share()))
    assert (sum(counts) - exact).abs().sum() < 1e-3 * exact.sum()
    pulled = backend.accumulate_gradient(unit, table, Share())
    assert torch.equal(pulled, backend.accumulate_gradient(unit, table, Share()))
    expected = passes.TILED.accumulate_gradient(unit.double(), table, Share())
    assert (pulled - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.gpu
def test_triton_kernels_on_a_gpu_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    unit, table = vectors(3000), slope()
    there, here = unit.to("cuda:1"), unit.to("cuda:0")
    assert passes._triton_works(1)
    counts = pair_histogram(there, NODES, Share()).cpu()
    assert torch.equal(counts, pair_histogram(here, NODES, Share()).cpu())
    pulled = accumulate_gradient(there, table.to("cuda:1"), Share()).cpu()
    assert torch.equal(pulled, accumulate_gradient(here, table.to("cuda:0"), Share()).cpu())
    assert torch.cuda.current_device() == 0
