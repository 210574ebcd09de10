"""Vectors of whole images: the embedded network's, and the class token of a transformer."""

import dataclasses

import pytest
import timm
import torch
from torch.nn import functional as F

from glotok_ray.config import ContrastConfig
from glotok_ray.teacher.image_vectors import (
    ClassTokens,
    as_teacher,
    build_image_network,
    check_image_network,
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
        ({"width": 1024}, r"contrast\.width = 1024: efficientnet_lite0 says vectors of 320"),
        ({"network": "clip_vitl14"}, r"contrast\.width = 320: clip_vitl14 says vectors of 1024"),
        ({"network": "resnet"}, r"network = 'resnet': unknown"),
    ],
)
def test_a_wrong_width_or_name_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_image_network(dataclasses.replace(EMBEDDED, **changes))


@pytest.mark.parametrize("name", ["clip_vitb16", "dinov2_vits14"])
def test_class_tokens_are_the_last_blocks_and_only_clips_come_before_the_norm(name):
    torch.manual_seed(0)
    teacher = as_teacher(ContrastConfig(network=name, width=384))
    facts = timm_facts(teacher)
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
    torch.testing.assert_close(ClassTokens(vit, teacher)(images), expected[:, 0])
