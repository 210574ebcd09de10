"""ImageFolder under pseudo-weights gives the numbers of its own code."""

import pytest
import torch

from glotok_ray.nn.next_scale import codes_by_scale
from glotok_ray.peers import imagefolder
from glotok_ray.peers.imagefolder import SIDES, ImageFolder, ImageFolderConfig
from tests.peers.pseudo_weights import (
    GOLDEN,
    assert_codes_match,
    assert_tensor_matches,
    golden_images,
    pseudo_model,
    random_codes,
    released_buffers,
    released_shapes,
)

NAME = "imagefolder_msvr10p2_4096"
SMALL = ImageFolderConfig(image_size=64, num_codes=13, code_width=4, width=32, depth=1, num_heads=2)


@pytest.fixture(scope="module")
def model() -> ImageFolder:
    buffers = released_buffers(NAME)
    shapes = {key: shape for key, shape in released_shapes(NAME).items() if key not in buffers}
    found = pseudo_model(imagefolder.SYSTEM, ImageFolderConfig(), shapes)
    assert isinstance(found, ImageFolder)
    return found


def small_model() -> ImageFolder:
    small = ImageFolder(SMALL)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return small.eval()


def test_the_encoder_gives_the_golden_codes(model: ImageFolder) -> None:
    golden = GOLDEN[NAME]
    with torch.no_grad():
        latents = model.unquantized(golden_images(-1, 256))
        assert_tensor_matches(latents, golden["latent_after_quant_conv_Bx32x242x1"])
        scales = model.find(latents)
    for branch, part in enumerate((scales[:10], scales[10:])):
        flat = torch.cat([scale.flatten(1) for scale in part], dim=1)
        assert_codes_match(flat, golden[f"branch{branch}_indices"])


def test_the_decoder_gives_the_golden_images(model: ImageFolder) -> None:
    golden = GOLDEN[NAME]["decode_of_random_indices"]
    drawn = random_codes(4096, *((1, side * side) for side in (*SIDES, *SIDES)))
    codes = tuple(
        part.unflatten(1, (side, side)) for part, side in zip(drawn, (*SIDES, *SIDES), strict=True)
    )
    with torch.no_grad():
        maps = model.latents(codes)
        assert_tensor_matches(maps, golden["f_hat_Bx64x11x11"])
        assert_tensor_matches(model.decode_latents(maps), golden["out_before_clamp"])


def test_the_methods_of_the_protocol() -> None:
    model, images = small_model(), 2 * torch.rand(2, 3, 64, 64) - 1
    codes = model.encode(images)
    assert [tuple(part.shape) for part in codes] == [(2, side, side) for side in 2 * SIDES]
    assert torch.equal(model.reconstruct(images), model.decode(codes).clamp(-1, 1))
    by_scale = [
        codes_by_scale([part.flatten(1) for part in codes], 2)[scale] for scale in range(10)
    ]
    parts = [
        model.contribution(found.unflatten(-1, (side, side)), scale)
        for scale, (found, side) in enumerate(zip(by_scale, SIDES, strict=True))
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), model.latents(codes))
    assert model.code_width == parts[0].shape[1] == 8
    with torch.device("meta"):
        released = ImageFolder(ImageFolderConfig())
    assert (released.rate.num_indices, released.rate.bits) == (572, 572 * 12)
    assert sum(released.module_parameters().values()) == 172_327_456


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_heads = 5: must divide width = 768"):
        ImageFolderConfig(num_heads=5)
