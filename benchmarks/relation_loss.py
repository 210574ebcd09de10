"""The relation loss (paper Eqs. 4-7) in four ways, in one run: time, memory and error.

    python -m benchmarks.relation_loss            # a table; about four minutes on 2 cores
    python -m benchmarks.relation_loss --json

- literal: Algorithm 1 as printed, all pairs x bins at once, by autograd (small codebooks alone).
- blocked exact: the same sums tile by tile, each exponential evaluated, forward and backward by hand.
- ours: `glotok_ray.losses.relation.codebook_histogram`.
- matrix product: what no such loss can do without, the n x n product of the forward and the two of the backward
  pass, tile by tile and nothing else: the bound. It visits all n^2 pairs, as a plain product does.

Errors are those of the normalised histogram and of the loss's gradient, relative to fp64. Memory is the largest
resident memory of a run in a process of its own, minus that before it.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import measured
from glotok_ray.config import RelationConfig
from glotok_ray.losses.relation import (
    codebook_histogram,
    histogram_bins,
    normalize_histogram,
    relation_loss,
    unit_rows,
)

WIDTH = 8
SIZES = (1024, 4096, 16384)
LITERAL_UP_TO = 1024
_TILE = 512


def codebook(size: int) -> Tensor:
    """Codes spread as an untrained codebook's, fp32."""
    return torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(size))


def teacher(relation: RelationConfig) -> Tensor:
    """The histogram of codes around a shared direction."""
    codes = torch.randn(1000, WIDTH, generator=torch.Generator().manual_seed(1)) + 0.3
    return codebook_histogram(codes, relation)


def exact_histogram(unit: Tensor, relation: RelationConfig) -> Tensor:
    """Eq. 6 with every exponential, one tile of the upper triangle at a time."""
    totals = torch.zeros(relation.num_bins, dtype=torch.float64)
    for rows, columns in _upper_tiles(len(unit)):
        cosines = unit[rows] @ unit[columns].T
        if rows == columns:
            cosines = cosines[torch.ones_like(cosines, dtype=torch.bool).triu_(1)]
        for k, center in enumerate(histogram_bins(relation.num_bins).tolist()):
            kernel = (cosines - center).square_().mul_(-relation.sharpness).exp_()
            totals[k] += kernel.sum(dtype=torch.float64)
    return totals.to(unit)


def exact_pull(unit: Tensor, gradient: Tensor, relation: RelationConfig) -> Tensor:
    """The gradient of Eq. 6 at the unit vectors, exponentials evaluated again tile by tile."""
    pulled = torch.zeros_like(unit)
    for rows, columns in _upper_tiles(len(unit)):
        cosines = unit[rows] @ unit[columns].T
        weights = torch.zeros_like(cosines)
        for center, slope in zip(
            histogram_bins(relation.num_bins).tolist(), gradient.tolist(), strict=True
        ):
            offset = cosines - center
            kernel = offset.square().mul_(-relation.sharpness).exp_()
            weights.addcmul_(offset, kernel, value=-2 * relation.sharpness * slope)
        if rows == columns:
            weights.triu_(1)
        pulled[rows] += weights @ unit[columns]
        pulled[columns] += weights.T @ unit[rows]
    return pulled


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, unit: Tensor, relation: RelationConfig) -> Tensor:
        ctx.save_for_backward(unit)
        ctx.relation = relation
        return exact_histogram(unit, relation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (unit,) = ctx.saved_tensors
        return exact_pull(unit, gradients[0], ctx.relation), None


def _upper_tiles(length: int) -> list[tuple[slice, slice]]:
    tops = range(0, length, _TILE)
    return [
        (slice(top, top + _TILE), slice(left, left + _TILE))
        for top in tops
        for left in tops
        if left >= top
    ]


def student_histogram(method: str, codes: Tensor, relation: RelationConfig) -> Tensor:
    """The normalised histogram by one method; fp64 codes give the reference."""
    if method == "blocked exact":
        return normalize_histogram(_Exact.apply(unit_rows(codes), relation), "sum")  # type: ignore[arg-type]
    return codebook_histogram(codes, relation)


def reference(size: int, relation: RelationConfig, path: Path) -> None:
    """Histogram and gradient in fp64."""
    leaf = codebook(size).double().requires_grad_()
    histogram = student_histogram("blocked exact", leaf, relation)
    loss = relation_loss(histogram, teacher(relation).double(), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.save((histogram.detach(), gradient), path)


def loss_case(
    method: str, size: int, relation: RelationConfig, path: str
) -> tuple[Callable, Callable]:
    """Forward and backward of the loss by one method; facts are its errors."""
    target, codes = teacher(relation), codebook(size)
    latest: list[Tensor] = []

    def run() -> dict[str, float]:
        leaf = codes.clone().requires_grad_()

        def forward() -> tuple[Tensor, Tensor]:
            histogram = student_histogram(method, leaf, relation)
            return histogram, relation_loss(histogram, target, reduction="sum")

        forward_s, (histogram, loss) = measured.seconds_of(forward)
        backward_s, (gradient,) = measured.seconds_of(lambda: torch.autograd.grad(loss, leaf))
        latest[:] = [histogram.detach(), gradient]
        return {"forward": forward_s, "backward": backward_s}

    def facts() -> dict[str, float]:
        if not path:
            return {}
        expected = torch.load(path, weights_only=True)
        names = ("histogram_error", "gradient_error")
        return {
            name: float((found.double() - exact).norm() / exact.norm())
            for name, found, exact in zip(names, latest, expected, strict=True)
        }

    return run, facts


def product_case(size: int) -> tuple[Callable, None]:
    """The bare products in tiles: U U^T; then W U and W^T U with a ready W."""
    unit = unit_rows(codebook(size))
    tile, pulled = torch.empty(_TILE, _TILE), torch.zeros_like(unit)
    tops = range(0, size, _TILE)

    def forward() -> None:
        for top in tops:
            for left in tops:
                torch.mm(unit[top : top + _TILE], unit[left : left + _TILE].T, out=tile)

    def backward() -> None:
        for top in tops:
            for left in tops:
                pulled[top : top + _TILE].addmm_(tile, unit[left : left + _TILE])
                pulled[left : left + _TILE].addmm_(tile.T, unit[top : top + _TILE])

    def run() -> dict[str, float]:
        return {
            "forward": measured.seconds_of(forward)[0],
            "backward": measured.seconds_of(backward)[0],
        }

    return run, None


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all cases and print them."""
    parser = measured.parser(str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="codebook sizes")
    options = parser.parse_args(argv)
    cases: dict[str, measured.Measured] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            path = Path(folder) / f"{size}.pt"
            reference(size, RelationConfig(), path)
            for method in ("literal", "blocked exact", "ours"):
                if method != "literal" or size <= LITERAL_UP_TO:
                    relation = RelationConfig(literal=method == "literal")
                    repeats = 7 if method == "ours" else 1
                    cases[f"{method}, n = {size}"] = measured.in_own_process(
                        loss_case, method, size, relation, str(path), repeats=repeats
                    )
            cases[f"matrix product, n = {size}"] = measured.in_own_process(
                product_case, size, repeats=7
            )
        largest = max(options.sizes)
        # The kernel of 40 bins on 256, and the 43 times sharper one that 256 bins have by default.
        bins_256 = {
            "256 bins of the same alpha": RelationConfig(
                num_bins=256, alpha=RelationConfig().sharpness
            ),
            "256 bins of their own alpha": RelationConfig(num_bins=256),
        }
        for name, relation in bins_256.items():
            cases[f"ours, n = {largest}, {name}"] = measured.in_own_process(
                loss_case, "ours", largest, relation, "", repeats=7
            )
    measured.answer(
        as_json=options.json,
        columns=(
            "method",
            "forward s",
            "backward s",
            "memory MiB",
            "histogram err",
            "gradient err",
        ),
        rows=[_row(name, case) for name, case in cases.items()],
        figures={name: {**vars(case), "total": case.total} for name, case in cases.items()},
        ratios=_ratios(cases, options.sizes),
    )


def _row(name: str, case: measured.Measured) -> list[str]:
    errors = [
        f"{case.facts[key]:.1e}" if key in case.facts else "-"
        for key in ("histogram_error", "gradient_error")
    ]
    return [
        name,
        f"{case.seconds['forward']:.4f}",
        f"{case.seconds['backward']:.4f}",
        f"{case.peak_mib:.0f}",
        *errors,
    ]


def _ratios(cases: dict[str, measured.Measured], sizes: Sequence[int]) -> dict[str, float]:
    ratios = {}
    for size in sizes:
        ours = cases[f"ours, n = {size}"].total
        exact, bound = cases[f"blocked exact, n = {size}"], cases[f"matrix product, n = {size}"]
        ratios[f"blocked exact / ours, n = {size}"] = exact.total / ours
        ratios[f"ours / matrix product, n = {size}"] = ours / bound.total
    smallest, largest = min(sizes), max(sizes)
    ours = cases[f"ours, n = {largest}"].total
    if smallest < largest:
        per_pair = cases[f"ours, n = {smallest}"].total / smallest**2
        name = f"seconds per pair, n = {largest} / n = {smallest}"
        ratios[name] = ours / largest**2 / per_pair
    start = f"ours, n = {largest}, "
    for name, case in cases.items():
        if name.startswith(start):
            ratios[f"{name.removeprefix(start)} / 40 bins, n = {largest}"] = case.total / ours
    return ratios


if __name__ == "__main__":
    main()
