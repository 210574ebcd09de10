"""Faster pools have the bits of torch's own, alone and in the whole graph of Inception."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from benchmarks.calibrated_inception import calibrated_images
from glotok_ray.pretrained import equal_pools
from glotok_ray.pretrained.equal_pools import EqualPools
from glotok_ray.pretrained.inception import load_inception


@pytest.mark.parametrize("side", [8, 17, 35])
def test_pools_have_the_bits_of_torch_s(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(2, 5, side, side, generator=torch.Generator().manual_seed(side))
    maps[0, 0, 3, 3] = torch.nan
    taken = []
    fast = equal_pools.strided_maximum
    monkeypatch.setattr(equal_pools, "strided_maximum", lambda maps: taken.append(1) or fast(maps))

    def pools() -> list[torch.Tensor]:
        return [
            functional.max_pool2d(maps, kernel_size=3, stride=2),
            torch.nn.MaxPool2d(3, 2)(maps),
            functional.max_pool2d(maps, kernel_size=3, stride=1, padding=1),
            functional.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False),
        ]

    expected = pools()
    assert not taken
    with EqualPools():
        found = pools()
    # The two at stride 2 alone.
    assert len(taken) == 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert one.is_contiguous()


def test_inception_has_the_bits_of_torch_fidelity_s_graph(inception_file: Path) -> None:
    inception = load_inception(str(inception_file)).network
    images = calibrated_images(2, seed=4)
    with torch.inference_mode():
        pooled, logits = inception.network(images)
        found = inception(images)
    assert torch.equal(found.pooled, pooled)
    assert torch.equal(found.logits, logits)
