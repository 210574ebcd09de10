"""Kernels that run on a GPU alone, checked and timed: the relation loss's by Triton, and torch's fused Adam.

Two sections of `benchmarks.gpu_check`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.utils.cpp_extension
from torch import Tensor, nn

from benchmarks.gpu_place import RATIO, Place, Row
from glotok_ray.config import OptimizerConfig, RelationConfig, ScalingConfig
from glotok_ray.losses.pairs import passes
from glotok_ray.losses.pairs.passes import BY_ROWS, TILED
from glotok_ray.losses.pairs.tables import Share
from glotok_ray.losses.relation import codebook_histogram, relation_loss, unit_rows
from glotok_ray.training.engine import Engine, make_engine
from glotok_ray.training.snapshot import Snapshot

_WIDTH = 8


def relation(place: Place) -> Iterator[Row]:
    """The kernels of the relation loss against fp64, and their time beside the bare matrix products."""
    unit = unit_rows(_codes(place, place.size(16384, 512)))
    backend = passes._backend(unit)
    if place.on_gpu and backend is BY_ROWS:
        yield Row(
            "Triton works", 0, "", "plain torch stands in, as the log says; it is timed below"
        )
    elif place.on_gpu:
        yield Row("Triton works", 1, "")
    yield from _relation_errors(place)
    settings, share = RelationConfig(), Share()
    slope = torch.linspace(-1, 1, settings.num_nodes + 1, device=unit.device).double()
    repeats = place.size(10, 1)
    count, pull = (
        place.seconds(action, repeats)
        for action in (
            lambda: backend.pair_histogram(unit, settings.num_nodes, share),
            lambda: backend.accumulate_gradient(unit, slope, share),
        )
    )
    note = f"{len(unit):,} codes"
    yield Row("count, forward", 1e3 * count, "ms", note)
    yield Row("pull, backward", 1e3 * pull, "ms", note)
    first, second = _products(unit)
    products = [place.seconds(action, repeats) for action in (first, second)]
    yield Row("bare products, forward", 1e3 * products[0], "ms", "U U^T in fp32, in tiles")
    yield Row("bare products, backward", 1e3 * products[1], "ms", "W U and W^T U")
    yield Row("relation / bare products, time", (count + pull) / sum(products), RATIO)
    if backend not in (BY_ROWS, TILED):
        tiled = place.seconds(lambda: TILED.pair_histogram(unit, settings.num_nodes, share), 1)
        tiled += place.seconds(lambda: TILED.accumulate_gradient(unit, slope, share), 1)
        yield Row("plain torch / kernels, time", tiled / (count + pull), RATIO)


def _codes(place: Place, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, _WIDTH, generator=generator).to(place.torch_device)


def _relation_errors(place: Place) -> Iterator[Row]:
    settings = RelationConfig()
    teacher = codebook_histogram(_codes(place, 1000) + 0.3, settings)
    codes = _codes(place, place.size(4096, 256))

    def found(codes: Tensor) -> tuple[Tensor, Tensor]:
        leaf = codes.clone().requires_grad_()
        histogram = codebook_histogram(leaf, settings)
        loss = relation_loss(histogram, teacher, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        return histogram.detach(), gradient

    ours, again, exact = found(codes), found(codes), found(codes.double())
    for name, mine, reference in zip(("histogram", "gradient"), ours, exact, strict=True):
        error = (mine.double() - reference).norm() / reference.norm()
        yield Row(f"error of the {name}", float(error), "", f"{len(codes):,} codes, against fp64")
    alike = all(torch.equal(*pair) for pair in zip(ours, again, strict=True))
    yield Row("equal bits in two runs", float(alike), "")


def _products(unit: Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    side = min(4096, len(unit))
    tile, pulled = unit.new_empty(side, side), torch.zeros_like(unit)
    parts = unit.split(side)

    def forward() -> None:
        for top in parts:
            for left in parts:
                torch.mm(top, left.T, out=tile)

    def backward() -> None:
        for rows, top in zip(pulled.split(side), parts, strict=True):
            for columns, left in zip(pulled.split(side), parts, strict=True):
                rows.addmm_(tile, left)
                columns.addmm_(tile.T, top)

    return forward, backward


def adam(place: Place) -> Iterator[Row]:
    """torch's fused Adam under DeepSpeed at every ZeRO stage, in a process that finds no compiler."""
    _hide_compilers()
    plain = replace(_scaling(place), engine="torch")
    expected = _learn(_small_engine(place, plain), place, 6)
    with place.worker(), TemporaryDirectory() as folder:
        for stage in (0, 1, 2, 3):
            scaling = replace(_scaling(place), zero_stage=stage)
            engine = _small_engine(place, scaling)
            losses = _learn(engine, place, 3)
            copies = Snapshot()
            engine.snapshot(copies)
            copies.write(Path(folder) / str(stage))
            losses += _learn(engine, place, 3)
            difference = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
            note = f"6 losses, against torch's plain Adam; fused: {_is_fused(engine)}"
            yield Row(f"ZeRO {stage}: largest difference", difference, "", note)
            resumed = _small_engine(place, scaling)
            resumed.load(Path(folder) / str(stage))
            alike = _learn(resumed, place, 3) == losses[3:]
            yield Row(f"ZeRO {stage}: resumed with equal losses", float(alike), "")
    yield from _adam_times(place)


def _hide_compilers() -> None:
    os.environ["PATH"] = ""
    for name in ("CUDA_HOME", "CUDA_PATH", "CC", "CXX"):
        os.environ.pop(name, None)
    # Found when it was imported.
    torch.utils.cpp_extension.CUDA_HOME = None


def _scaling(place: Place) -> ScalingConfig:
    return ScalingConfig(num_workers=1, use_gpu=place.on_gpu, precision="fp32")


def _small_engine(place: Place, scaling: ScalingConfig) -> Engine:
    torch.manual_seed(0)
    width = place.size(1024, 32)
    # An odd number of parameters, which ZeRO pads.
    module = nn.Sequential(nn.Linear(16, width), nn.GELU(), nn.Linear(width, 3))
    optimizer = OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=0.02)
    return make_engine(module.to(place.torch_device), optimizer, scaling, 8, 1)


def _learn(engine: Engine, place: Place, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 16, generator=generator).to(place.torch_device)
    losses = []
    for _ in range(steps):
        loss = (engine(inputs) - 1).square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    return losses


def _is_fused(engine: Any) -> bool:
    optimizer = engine._engine.optimizer
    groups = getattr(optimizer, "optimizer", optimizer).param_groups
    return all(group.get("fused") for group in groups)


def _adam_times(place: Place) -> Iterator[Row]:
    """A step on as many numbers as xAR-B has, in pieces of a million."""
    pieces = place.size(172, 2)
    seconds = {}
    for name, fused in (("fused", True), ("of many kernels", False)):
        parameters = [
            nn.Parameter(torch.zeros(2**20, device=place.torch_device)) for _ in range(pieces)
        ]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = torch.optim.AdamW(parameters, fused=fused)
        seconds[name] = place.seconds(optimizer.step, place.size(10, 1))
        yield Row(f"step, {name}", 1e3 * seconds[name], "ms", f"{pieces} x 2^20 numbers")
    yield Row("of many kernels / fused, time", seconds["of many kernels"] / seconds["fused"], RATIO)
