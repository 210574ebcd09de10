"""What the public methods of a tokenizer refuse, in words: other kinds, ranges and shapes; and a diverged network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from glotok_ray.config import (
    CodebookConfig,
)
from glotok_ray.data.pixel_range import pixels_to_model_range, to_model_range, to_uint8
from glotok_ray.nn.quantizer import NO_CODE
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.storage.artefact import ArtefactError
from tests.small_models import VISUAL, tiny_tokenizer

SMALL = tiny_tokenizer(VISUAL, CodebookConfig(name="semantic", size=16, width=2), adapter_depth=0)


@pytest.fixture
def model() -> GloTokTokenizer:
    torch.manual_seed(0)
    return GloTokTokenizer(SMALL).eval().requires_grad_(False)


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16) * 2 - 1


def test_pixels_of_other_kinds_and_ranges_are_refused(model):
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    for bad, text in (
        (pixels, r"dtype torch\.uint8.*to_model_range"),
        (pixels.long(), r"dtype torch\.int64"),
        (pixels > 9, r"dtype torch\.bool"),
        (pixels.numpy(), "a ndarray"),
        (pixels.float(), r"from 0 to 255.*\[-1, 1\].*127\.5"),
        (images() * 2.6, r"must lie in \[-1, 1\]"),
        (images() * torch.nan, "from nan to nan"),
        (images()[:, 0, 0], r"shape \(2, 16\)"),
    ):
        for method in (model.encode, model.reconstruct):
            with pytest.raises(ValueError, match=text):
                method(bad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_are_taken(model, dtype):
    assert model.encode(images().to(dtype)).shape == (2, 2, 4, 4)
    assert model.encode(images()[0] * (1 + 1e-4)).shape == (2, 4, 4)


class NoDouble(TorchDispatchMode):
    """Fails where an operation makes fp64, as MPS does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for value in pytree.tree_leaves(found):
            assert not isinstance(value, torch.Tensor) or value.dtype != torch.float64, func
        return found


def test_devices_without_double_precision_encode_and_decode(model):
    with NoDouble():
        model.decode(model.encode(images()))
        model.reconstruct(images()[0])


@pytest.mark.parametrize("overshoot", [1.05, 1.4, 1.5])
def test_what_a_decoder_makes_is_encoded_as_it_is(model, overshoot):
    codes = model.encode(images())
    made = model.decode(codes)
    last = model.decoder_last_layer
    factor = overshoot / made.abs().max()
    last.weight *= factor
    last.bias *= factor
    again = model.decode(codes)
    assert float(again.abs().max()) == pytest.approx(overshoot)
    again = again.clamp(-1.5, 1.5)  # of the last rounding alone
    assert torch.equal(model.encode(again), model.look_up(again))
    with pytest.raises(ValueError, match=r"decoder's overshoot, up to 1\.5"):
        model.encode(again * (1.6 / overshoot))


def test_codes_of_other_kinds_ranges_and_shapes_are_refused(model):
    codes = model.encode(images())
    assert torch.equal(model.decode(codes.to(torch.uint16)), model.decode(codes))
    too_large, negative = codes.clone(), codes.clone()
    too_large[1, 1, 2, 3] = 16
    negative[0, 0, 0, 0] = -1
    for bad, text in (
        (codes + 0.7, r"dtype torch\.float32.*whole numbers"),
        (codes > 3, r"dtype torch\.bool"),
        (codes.numpy(), "a ndarray"),
        (too_large, r"'semantic' reach from \d+ to 16: must be in \[0, 16\)"),
        (negative, r"'visual' reach from -1"),
        (codes[:, :1], "2 codebooks"),
        (codes.flatten(2), r"2 images with flat grids.*unflatten\(-1, \(4, 4\)\)"),
    ):
        with pytest.raises(ValueError, match=text):
            model.decode(bad)


def test_what_encodes_and_decodes_without_a_look_gives_the_same(model):
    codes = model.encode(images())
    again = images()
    assert torch.equal(model.look_up(again), model.encode(again))
    assert torch.equal(model.images_of(codes), model.decode(codes))


def test_a_diverged_encoder_gives_no_code_and_no_picture(model):
    model.encoder.conv_in.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"encoder's output is not finite.*fp32"):
        model.encode(images())
    codes = model.look_up(images())
    assert (codes == NO_CODE).all()
    with pytest.raises(ValueError, match="image 0 of 2 holds NaN"):
        to_uint8(model.images_of(codes))


def test_one_image_without_codes_leaves_the_others_as_they_are(model):
    codes = model.encode(images(3))
    expected = model.decode(codes)
    codes[1, 0, 2, 2] = NO_CODE
    found = model.images_of(codes)
    assert torch.isnan(found[1]).any()
    torch.testing.assert_close(found[::2], expected[::2])


def test_snapping_a_latent_that_is_not_finite_gives_no_code(model):
    latents = torch.randn(2, 6, 4, 4)
    expected = model.snap(latents)
    latents[1, 4, 0, 0] = torch.inf
    found = model.snap(latents)
    assert torch.equal(found[0], expected[0])
    assert torch.isnan(found[1, 4:, 0, 0]).all()
    with pytest.raises(ValueError, match="image 1 of 2"):
        to_uint8(model.decode_latents(found, refine=True))


def test_a_folder_with_weights_that_are_not_finite_does_not_load(model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.decoder.conv_out.bias.data[1] = torch.nan
    with pytest.raises(ArtefactError, match=r"decoder\.conv_out\.bias \(1 of 3 values\)"):
        model.save_pretrained(tmp_path)
    again = GloTokTokenizer.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    with pytest.raises(ArtefactError, match="no such file"):
        GloTokTokenizer.from_pretrained(tmp_path / "tokenizer.safetensors")


def test_pixel_ranges_take_bytes_alone():
    with pytest.raises(ValueError, match=r"float32; must be uint8"):
        pixels_to_model_range(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"float64; must be uint8"):
        to_model_range(np.zeros((1, 2, 2, 3)), torch.device("cpu"))
