"""Weights that are not finite, or codes of a quantised file: refused by name where they are read and written."""

import io
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.weights import (
    check_finite,
    check_stored,
    load_weights,
    misfits,
    save_weights,
    stored_shapes,
    tensors_of,
    write_weights,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2]
)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_bad_number_among_many_is_found_in_every_dtype(dtype: torch.dtype, value: float):
    tensor = torch.linspace(-3, 3, 1000)
    check_finite({"a": tensor.to(dtype)}, "file.pt", "bring another")
    tensor[741] = value
    with pytest.raises(ArtefactError) as found:
        check_finite({"b": torch.ones(2), "a": tensor.to(dtype)}, "file.pt", "bring another")
    assert str(found.value) == (
        "file.pt: 1 of its tensors hold NaN or infinite values: a (1 of 1,000 values); bring another"
    )


def test_the_first_tensors_are_named_and_the_others_counted():
    broken = {f"layer{number}": torch.full((2, 3), NAN) for number in range(7)}
    with pytest.raises(ArtefactError, match=r"7 of its .*layer0 \(6 of 6 values\).*and 2 more"):
        check_finite(broken, "file", "remedy")


def test_whole_numbers_empty_tensors_and_shapes_alone_pass():
    check_finite(
        {
            "counts": torch.tensor([2**62]),
            "flags": torch.ones(2, dtype=torch.bool),
            "empty": torch.empty(0, 3),
            "shape": torch.empty(5, device="meta"),
        },
        "file",
        "remedy",
    )
    with pytest.raises(ArtefactError):
        check_finite({"complex": torch.tensor([1 + 1j, complex(0, INF)])}, "file", "remedy")


def test_a_file_of_ours_with_nan_is_refused_and_the_module_stays_as_it_was(tmp_path):
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    broken = {name: value.clone() for name, value in module.state_dict().items()}
    broken["weight"][1, 2] = INF
    save_file(broken, str(tmp_path / "model.safetensors"))
    for read in (lambda path: load_weights(module, path), check_stored):
        with pytest.raises(
            ArtefactError, match=r"model\.safetensors: 1 of its.*weight \(1 of 6 values\).*earlier"
        ):
            read(tmp_path / "model.safetensors")
    assert torch.equal(module.weight, before)


def test_nothing_is_written_of_weights_that_are_not_finite(tmp_path):
    state = {"weight": torch.tensor([1.0, NAN])}
    with pytest.raises(ArtefactError, match=r"out\.safetensors.*nothing is written"):
        save_weights(tmp_path / "out.safetensors", state)
    stream = io.BytesIO()
    with pytest.raises(ArtefactError, match="tokenizer: 1 of its"):
        write_weights(stream, state, name="tokenizer")
    assert not list(tmp_path.iterdir())
    assert not stream.getvalue()


def test_numbers_that_fp32_cannot_hold_are_not_written_as_infinity(tmp_path):
    with pytest.raises(ArtefactError, match="infinite"):
        save_weights(tmp_path / "out.safetensors", {"weight": torch.tensor([1e300]).double()})


def test_masks_hold_infinities_rightly(tmp_path):
    state = {"mask": torch.tensor([0.0, -INF]), "weight": torch.ones(2)}
    save_weights(tmp_path / "out.safetensors", state, masks=("mask",))
    assert torch.equal(load_file(tmp_path / "out.safetensors")["mask"], state["mask"])


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn],
)
def test_numbers_of_another_kind_are_no_weights(dtype, tmp_path):
    model = torch.nn.Linear(3, 2, bias=False)
    name = str(dtype).removeprefix("torch.")
    codes = torch.ones(2, 3).to(dtype)
    message = rf"1 of another kind of number \(weight {name} for float32\)"
    assert re.fullmatch(message, misfits({"weight": codes}, model.state_dict()))
    assert tensors_of({"weight": codes})["weight"].dtype == dtype
    save_file({"weight": codes}, tmp_path / "codes.safetensors")
    stored = stored_shapes(tmp_path / "codes.safetensors")
    assert re.fullmatch(message, misfits(stored, model.state_dict()))
    with pytest.raises(ArtefactError, match=message):
        load_weights(model, tmp_path / "codes.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_of_every_precision_fit_and_so_do_counters_in_them(dtype, tmp_path):
    norm = torch.nn.BatchNorm1d(2)
    state = {
        name: value.to(dtype) if value.is_floating_point() else value.int()
        for name, value in norm.state_dict().items()
    }
    save_file(state, tmp_path / "norm.safetensors")
    load_weights(norm, tmp_path / "norm.safetensors")
    counter = {**state, "num_batches_tracked": torch.tensor(2, dtype=dtype)}
    assert not misfits(counter, norm.state_dict())
    counter["num_batches_tracked"] = torch.tensor(2j)
    assert "num_batches_tracked complex64 for int64" in misfits(counter, norm.state_dict())
