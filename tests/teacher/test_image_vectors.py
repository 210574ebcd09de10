"""Vectors of whole images: the embedded network's, and the class token of a transformer."""

import dataclasses
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from glotok_ray.config import ContrastConfig
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.teacher.features import load_transformer
from glotok_ray.teacher.image_vectors import (
    ClassTokens,
    build_image_network,
    check_image_network,
    network_config,
    resampled_as_dinov2,
)
from glotok_ray.teacher.networks import timm_facts

EMBEDDED = ContrastConfig(network="efficientnet_lite0", width=320, num_heads=8)


def test_the_embedded_network_says_one_vector_per_image():
    network = build_image_network(EMBEDDED)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vectors = network(images)
    assert vectors.shape == (2, 320)
    assert not network.train().training
    other = network(images.flip(-1))
    assert F.cosine_similarity(vectors, other).min() > F.cosine_similarity(vectors[:1], vectors[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 1024}, r"contrast\.width = 1024: efficientnet_lite0 gives vectors of 320"),
        ({"network": "clip_vitl14"}, r"contrast\.width = 320: clip_vitl14 gives vectors of 1024"),
        ({"network": "resnet"}, r"contrast\.network = 'resnet': unknown"),
    ],
)
def test_a_wrong_width_or_name_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_image_network(dataclasses.replace(EMBEDDED, **changes))


@pytest.mark.parametrize("name", ["clip_vitb16", "dinov2_vits14"])
def test_class_tokens_are_the_last_blocks_and_only_clips_come_before_the_norm(name):
    torch.manual_seed(0)
    config = network_config(ContrastConfig(network=name, width=384))
    facts = timm_facts(config)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=224, depth=2, embed_dim=24, num_heads=2, num_classes=0
    ).eval()
    torch.nn.init.normal_(vit.norm.weight)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    pixels = (F.interpolate(images, size=(224, 224)) + 1) / 2
    mean, std = (torch.tensor(facts[key]).view(3, 1, 1) for key in ("mean", "std"))
    tokens = vit._pos_embed(vit.patch_embed((pixels - mean) / std))
    hidden = vit.blocks(vit.norm_pre(vit.patch_drop(tokens)))
    expected = hidden if name == "clip_vitb16" else vit.norm(hidden)
    torch.testing.assert_close(ClassTokens(vit, config)(images), expected[:, 0])


def keys_cubic(table: Tensor, scale: float, count: int) -> Tensor:
    """Keys's cubic convolution, a = -0.75, of rows (old, c) at (i + 1/2) / scale - 1/2, edges repeated."""
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / scale - 0.5
    result = torch.zeros(count, table.shape[1], dtype=torch.float64)
    for tap in range(-1, 3):
        source = places.floor() + tap
        t = (places - source).abs()
        near = (1.25 * t - 2.25) * t * t + 1
        far = -0.75 * (((t - 5) * t + 8) * t - 4)
        weight = torch.where(t <= 1, near, torch.where(t < 2, far, 0))
        rows = table.double()[source.long().clamp(0, len(table) - 1)]
        result += weight[:, None] * rows
    return result


def as_fqgan_resamples(positions: Tensor, side: int = 16, old: int = 37) -> Tensor:
    grid = positions[0, 1:].unflatten(0, (old, old))
    scale = (side + 0.1) / old
    rows = keys_cubic(grid.flatten(1), scale, side).unflatten(1, (old, -1))
    both = keys_cubic(rows.transpose(0, 1).flatten(1), scale, side).unflatten(1, (side, -1))
    return torch.cat([positions[0, :1].double(), both.transpose(0, 1).flatten(0, 1)])


def test_positions_of_dinov2_are_resampled_as_fqgan_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch14_dinov2.lvd142m", img_size=518, num_classes=0)
    torch.nn.init.normal_(vit.pos_embed)
    torch.save(vit.state_dict(), tmp_path / "dinov2.pt")
    contrast = ContrastConfig(
        network="dinov2_vits14", width=384, weights_path=str(tmp_path / "dinov2.pt")
    )
    found = build_image_network(contrast).transformer.pos_embed[0].double()
    expected = as_fqgan_resamples(vit.pos_embed.detach())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    # The teacher's way: another table altogether.
    teacher = load_transformer(network_config(contrast)).pos_embed[0].double()
    assert (
        float((found - teacher.detach())[1:].abs().mean() / teacher.detach()[1:].abs().mean()) > 0.5
    )


def test_positions_of_the_right_size_stay_as_they_are() -> None:
    positions = torch.randn(1, 1 + 256, 8)
    assert resampled_as_dinov2(positions, 16) is positions


@pytest.mark.parametrize("shape", [(1, 1 + 200, 384), (1, 1, 384), (1, 0, 384), (257, 384), (257,)])
def test_a_table_of_positions_that_is_no_square_is_refused_with_its_file(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "foreign.pt"
    torch.save({"pos_embed": torch.zeros(shape)}, path)
    contrast = ContrastConfig(network="dinov2_vits14", width=384, weights_path=str(path))
    said = rf"foreign\.pt'.*pos_embed.*{re.escape(str(shape))}.*contrast\.weights_path"
    with pytest.raises(ArtefactError, match=said):
        build_image_network(contrast)
