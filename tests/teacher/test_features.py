"""Feature networks: timm's transformers with random weights, their files, refusals, and the draw of
vectors.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from glotok_ray.config import FeatureNetworkConfig
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.teacher import features, networks

CPU = torch.device("cpu")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SIDES = {"dinov2_vits14": 28, "dinov2_vits14_reg": 28, "clip_vitb16": 32}


class Reference:
    """A timm transformer whose every tensor is random, with its weights in a file in timm's naming.

    The file is in half precision, which holds these values exactly.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.side = SIDES[name]
        architecture = networks.NETWORKS[name].architecture
        with torch.device("meta"):
            network = timm.create_model(architecture, img_size=self.side)
        assert isinstance(network, VisionTransformer)
        generator = torch.Generator().manual_seed(0)
        tensors = {
            # Gains around one: LayerScale starts at 1e-5, where no block would do anything.
            key: torch.randn(value.shape, generator=generator)
            .mul_(0.1)
            .add_("norm" in key or "gamma" in key)
            .half()
            for key, value in network.state_dict().items()
        }
        self.path = folder / f"{name}.safetensors"
        save_file(tensors, self.path)
        network.load_state_dict(tensors, assign=True)
        self.network = network.float().eval().requires_grad_(False)
        self.tensors = self.network.state_dict()

    def config(self, **changes: object) -> FeatureNetworkConfig:
        fields = {"weights_path": str(self.path), "input_size": self.side, **changes}
        return FeatureNetworkConfig(name=self.name, **fields)  # pyright: ignore[reportArgumentType]

    def pixels(self, images: Tensor) -> Tensor:
        """`images` in [-1, 1], normalised."""
        mean, std = CLIP if self.name.startswith("clip") else IMAGENET
        return ((images + 1) / 2 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(
            3, 1, 1
        )

    def run_blocks(self, images: Tensor, number: int) -> Tensor:
        """All tokens after the first `number` blocks, step by step."""
        network = self.network
        tokens = network.norm_pre(network._pos_embed(network.patch_embed(self.pixels(images))))
        for block in list(network.blocks)[:number]:
            tokens = block(tokens)
        return tokens


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference("dinov2_vits14", tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def registers(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference("dinov2_vits14_reg", tmp_path_factory.mktemp("registers"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference("clip_vitb16", tmp_path_factory.mktemp("clip"))


def draw_images(side: int) -> Tensor:
    return torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(1)) * 2 - 1


def spatial(config: FeatureNetworkConfig) -> Tensor:
    return features.build_feature_network(config, CPU).spatial(draw_images(config.input_size))


def as_map(patches: Tensor) -> Tensor:
    """(2, 4, c) in row-major order as (2, c, 2, 2), written out."""
    rows = [torch.stack([patches[:, 2 * row], patches[:, 2 * row + 1]], -1) for row in (0, 1)]
    return torch.stack(rows, -2)


# ---------------------------------------------------------------------------------------- features


@pytest.mark.parametrize(("name", "prefix"), [("plain", 1), ("registers", 5), ("clip", 1)])
def test_last_block_gives_timms_patch_tokens(
    name: str, prefix: int, request: pytest.FixtureRequest
) -> None:
    reference: Reference = request.getfixturevalue(name)
    tokens = reference.network.forward_features(reference.pixels(draw_images(reference.side)))
    maps = spatial(reference.config())
    assert tokens.shape[1] == prefix + 4  # class and register tokens, and a grid of 2 x 2
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, as_map(tokens[:, prefix:]))
    config = reference.config()
    assert maps.shape[1:] == (features.channels(config), *[features.grid_side(config)] * 2)


@pytest.mark.parametrize("final_norm", [False, True])
def test_earlier_block_is_the_run_up_to_it(plain: Reference, final_norm: bool) -> None:
    config = plain.config(block=-3, final_norm=final_norm)
    tokens = plain.run_blocks(draw_images(28), 10)
    expected = as_map((plain.network.norm(tokens) if final_norm else tokens)[:, 1:])
    torch.testing.assert_close(spatial(config), expected)
    network = features.build_feature_network(config, CPU)
    assert isinstance(network, features.PatchFeatures)
    assert len(network.transformer.blocks) == 10


def test_projection_follows_the_norm(clip: Reference) -> None:
    normalised = clip.network.norm(clip.run_blocks(draw_images(32), 12))[:, 1:]
    expected = normalised @ clip.tensors["head.weight"].T + clip.tensors["head.bias"]
    config = clip.config(projected=True)
    torch.testing.assert_close(spatial(config), as_map(expected))
    assert features.channels(config) == expected.shape[-1] == 512


def test_clip_runs_with_openais_activation(clip: Reference) -> None:
    network = features.build_feature_network(clip.config(), CPU)
    assert isinstance(network, features.PatchFeatures)
    values = torch.linspace(-3, 3, 7)
    activation = network.transformer.get_submodule("blocks.0.mlp.act")
    torch.testing.assert_close(activation(values), values * torch.sigmoid(1.702 * values))


def test_network_is_frozen(plain: Reference) -> None:
    network = features.build_feature_network(plain.config(), CPU)
    assert isinstance(network, features.PatchFeatures)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_embedded_network_is_frozen_and_any_size_fits() -> None:
    config = FeatureNetworkConfig(name="efficientnet_lite0", input_size=100)
    network = features.build_feature_network(config, CPU)
    images = draw_images(100)
    maps = network.spatial(images)
    assert maps.shape == (2, features.channels(config), 4, 4)
    assert features.grid_side(config) == 4
    assert not maps.requires_grad
    # In evaluation mode an image does not depend on its batch.
    torch.testing.assert_close(network.spatial(images[:1]), maps[:1], rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------- weights


def dinov2_release(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors as facebookresearch/dinov2 names them; there the class token has a position."""
    tensors = dict(tensors)
    position = torch.full_like(tensors["cls_token"], 0.3)
    tensors["cls_token"] = tensors["cls_token"] - position
    tensors["pos_embed"] = torch.cat([position, tensors["pos_embed"]], dim=1)
    tensors["register_tokens"] = tensors.pop("reg_token")
    return {**tensors, "mask_token": torch.zeros(1, 384)}


def openai_release(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors as OpenAI and open_clip name them, beside a text tower's."""
    names = {
        "patch_embed.proj": "conv1",
        "norm_pre": "ln_pre",
        "blocks.": "transformer.resblocks.",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    renamed = {"logit_scale": torch.tensor(4.6), "positional_embedding": torch.zeros(77, 512)}
    for key, value in tensors.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[f"visual.{key}"] = value
    renamed["visual.class_embedding"] = renamed.pop("visual.cls_token").flatten()
    renamed["visual.positional_embedding"] = renamed.pop("visual.pos_embed").squeeze(0)
    renamed["visual.proj"] = renamed.pop("visual.head.weight").T
    del renamed["visual.head.bias"]
    renamed["visual.ln_post.weight"] = renamed.pop("visual.norm.weight")
    renamed["visual.ln_post.bias"] = renamed.pop("visual.norm.bias")
    return renamed


def hugging_face_release(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors as a CLIPModel names them, beside a text tower's."""
    tower = {
        "embeddings.class_embedding": tensors["cls_token"].flatten(),
        "embeddings.position_embedding.weight": tensors["pos_embed"].squeeze(0),
        "embeddings.position_ids": torch.arange(tensors["pos_embed"].shape[1])[None],
        "embeddings.patch_embedding.weight": tensors["patch_embed.proj.weight"],
    }
    for kind in ("weight", "bias"):
        tower[f"pre_layrnorm.{kind}"] = tensors[f"norm_pre.{kind}"]
        tower[f"post_layernorm.{kind}"] = tensors[f"norm.{kind}"]
    for block in range(12):
        for kind in ("weight", "bias"):
            ours, theirs = f"blocks.{block}.", f"encoder.layers.{block}."
            joined = tensors[f"{ours}attn.qkv.{kind}"].chunk(3)
            for part, value in zip("qkv", joined, strict=True):
                tower[f"{theirs}self_attn.{part}_proj.{kind}"] = value.clone()
            tower[f"{theirs}self_attn.out_proj.{kind}"] = tensors[f"{ours}attn.proj.{kind}"]
            for number in "12":
                tower[f"{theirs}layer_norm{number}.{kind}"] = tensors[f"{ours}norm{number}.{kind}"]
                tower[f"{theirs}mlp.fc{number}.{kind}"] = tensors[f"{ours}mlp.fc{number}.{kind}"]
    return {
        "logit_scale": torch.tensor(4.6),
        "text_projection.weight": torch.zeros(512, 512),
        "text_model.embeddings.position_embedding.weight": torch.zeros(77, 512),
        "visual_projection.weight": tensors["head.weight"],
        **{f"vision_model.{name}": value for name, value in tower.items()},
    }


def test_hugging_faces_clip_gives_the_same_features(clip: Reference, tmp_path: Path) -> None:
    stored = hugging_face_release(clip.tensors)
    save_file(
        {name: value.contiguous() for name, value in stored.items()}, tmp_path / "model.safetensors"
    )
    torch.save(stored, tmp_path / "pytorch_model.bin")
    images = draw_images(32)
    tokens = clip.network.forward_features(clip.pixels(images))[:, 1:]
    expected = as_map(tokens @ clip.tensors["head.weight"].T)
    for name in ("model.safetensors", "pytorch_model.bin"):
        config = clip.config(weights_path=str(tmp_path / name), projected=True)
        # Its projection has no bias.
        torch.testing.assert_close(spatial(config), expected)


def test_what_a_hugging_face_file_lacks_is_named(clip: Reference, tmp_path: Path) -> None:
    stored = hugging_face_release(clip.tensors)
    del stored["vision_model.encoder.layers.3.self_attn.k_proj.weight"]
    del stored["vision_model.post_layernorm.bias"]
    torch.save(stored, tmp_path / "part.bin")
    config = clip.config(weights_path=str(tmp_path / "part.bin"))
    message = r"missing \(norm\.bias\); 1 misshapen \(blocks\.3\.attn\.qkv\.weight \(1536, 768\) for \(2304"
    with pytest.raises(ArtefactError, match=message):
        features.build_feature_network(config, CPU)


def test_dinov2_release_gives_the_same_features(registers: Reference, tmp_path: Path) -> None:
    path = tmp_path / "release.pth"
    torch.save(dinov2_release(registers.tensors), path)
    torch.testing.assert_close(
        spatial(registers.config(weights_path=str(path))), spatial(registers.config())
    )


def test_openai_release_gives_the_same_features(clip: Reference, tmp_path: Path) -> None:
    path = tmp_path / "release.pt"
    halves = {key: value.half() for key, value in clip.tensors.items()}
    torch.save({"state_dict": openai_release(halves)}, path)
    config = clip.config(weights_path=str(path), projected=True)
    images = draw_images(32)
    tokens = clip.network.forward_features(clip.pixels(images))[:, 1:]
    # The release's projection has no bias.
    torch.testing.assert_close(spatial(config), as_map(tokens @ clip.tensors["head.weight"].T))


def test_positions_are_resampled_to_the_input_size(plain: Reference) -> None:
    resized = timm.create_model(networks.NETWORKS[plain.name].architecture, img_size=28).eval()
    assert isinstance(resized, VisionTransformer)
    resized.load_state_dict(plain.tensors)
    resized.set_input_size((56, 56))
    tokens = resized.forward_features(plain.pixels(draw_images(56)))[:, 1:]
    maps = spatial(plain.config(input_size=56))
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens.detach())
    assert maps.shape[2:] == (4, 4)


def test_download_is_found_in_the_cache(
    plain: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--vit_small_patch14_dinov2.lvd142m"
    snapshot = repository / "snapshots" / "a1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(plain.path)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a1")
    config = plain.config(weights_path="")
    torch.testing.assert_close(spatial(config), spatial(plain.config()))
    # Of the tensors as they are kept, whatever the input size makes of the positions.
    other = plain.config(weights_path="", input_size=42)
    assert networks.weights_digest(config) == networks.weights_digest(other)


def test_failed_download_names_the_files_to_bring(
    registers: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = (
        r"dinov2_vits14_reg bring model\.safetensors .* timm/vit_small_patch14_reg4_dinov2\.lvd142m "
        r"or .* dinov2_vits14_reg4_pretrain\.pth, .* network\.weights_path"
    )
    with pytest.raises(ArtefactError, match=message):
        features.build_feature_network(registers.config(weights_path=""), CPU)
    with pytest.raises(ArtefactError, match=message):
        networks.weights_digest(registers.config(weights_path=""))


def without_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.startswith("norm.")}


def with_four_more(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, **{f"more{index}": torch.zeros(1) for index in range(4)}}


def with_narrow_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "norm.bias": torch.zeros(5)}


def with_patches_of_sixteen(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "patch_embed.proj.weight": torch.zeros(384, 3, 16, 16)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_norm, r"2 missing \(norm\.bias, norm\.weight\)"),
        (with_four_more, r"4 extra \(more0, more1, more2, more3\)"),
        (with_narrow_norm, r"1 misshapen \(norm\.bias \(5,\) for \(384,\)\)"),
        (
            with_patches_of_sixteen,
            r"shape \(384, 3, 16, 16\), while patches of dinov2_vits14 have 14",
        ),
        (
            lambda tensors: {**tensors, "norm.weight": torch.full((384,), torch.nan)},
            r"norm\.weight \(384 of 384 values\).*fetch the file again",
        ),
        (
            lambda tensors: {**tensors, "norm.weight": torch.ones(384, dtype=torch.int8)},
            r"norm\.weight holds torch\.int8, must be floating-point",
        ),
        (lambda tensors: {"epoch": 3, **tensors}, "no plain state dict"),
        (lambda tensors: list(tensors.values()), "no plain state dict"),
    ],
)
def test_tensors_that_do_not_fit_are_listed(
    plain: Reference,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
) -> None:
    path = tmp_path / "weights.pth"
    # Views of one number: the file has every shape and next to no bytes.
    shapes = {key: torch.zeros(1).expand(value.shape) for key, value in plain.tensors.items()}
    torch.save(change(shapes), path)
    with pytest.raises(ArtefactError, match=rf"weights\.pth.*{message}"):
        features.build_feature_network(plain.config(weights_path=str(path)), CPU)


def test_weights_of_another_network_are_refused(
    plain: Reference, registers: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "release.pth"
    torch.save(dinov2_release(registers.tensors), path)
    with pytest.raises(ArtefactError, match=r"release\.pth.*dinov2_vits14\b"):
        features.build_feature_network(plain.config(weights_path=str(path)), CPU)
    with pytest.raises(ArtefactError, match=r"1 missing \(reg_token\)"):
        features.build_feature_network(registers.config(weights_path=str(plain.path)), CPU)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_foreign_file_is_refused(plain: Reference, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"no tensors at all")
    with pytest.raises(ArtefactError, match=rf"{name}.*cannot be read"):
        features.build_feature_network(plain.config(weights_path=str(path)), CPU)


# ------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_network_exists_and_passes_its_checks(name: str) -> None:
    config = FeatureNetworkConfig(name=name)
    networks.check_network(config)
    width = {"s": 384, "b": 768, "l": 1024, "g": 1536}.get(name.split("_vit")[-1][0], 1280)
    assert features.channels(config) == width
    assert features.grid_side(config) == {16: 14, 14: 16, 32: 7}[networks.NETWORKS[name].side]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "dinov3"}, r"network\.name = 'dinov3'.*dinov2_vitb14_reg.*clip_vitl14"),
        ({"input_size": 225}, r"network\.input_size = 225: .* 14 .* 224 or 238"),
        ({"input_size": 13}, r"network\.input_size = 13: .* take 14"),
        ({"input_size": 0}, r"network\.input_size = 0: .* take 14"),
        ({"block": -13}, r"network\.block = -13: dinov2_vitb14_reg has 12 blocks; .* -12 "),
        (
            {"projected": True},
            r"network\.projected = True: dinov2_vitb14_reg has no projection.*clip_vitl14",
        ),
        (
            {"name": "clip_vitb16", "projected": True, "final_norm": False},
            r"turn network\.final_norm on",
        ),
        ({"weights_sha256": "ab"}, r"network\.weights_sha256 = 'ab'"),
        ({"name": networks.EMBEDDED, "weights_path": "a.pth"}, r"network\.weights_path = 'a.pth'"),
        ({"name": networks.EMBEDDED, "block": -2}, r"network\.block = -2: .*leave it at -1"),
        ({"name": networks.EMBEDDED, "final_norm": False}, r"network\.final_norm = False"),
        ({"name": networks.EMBEDDED, "projected": True}, r"network\.projected = True"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    config = FeatureNetworkConfig(**fields)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=message) as refusal:
        networks.check_network(config)
    assert not isinstance(refusal.value, ArtefactError)


def test_first_block_is_allowed(plain: Reference) -> None:
    config = plain.config(block=-12, final_norm=False)
    torch.testing.assert_close(spatial(config), as_map(plain.run_blocks(draw_images(28), 1)[:, 1:]))


def test_missing_file_is_named(plain: Reference) -> None:
    with pytest.raises(ArtefactError, match=r"'absent\.pth': no such file.*pretrain\.pth"):
        networks.check_network(plain.config(weights_path="absent.pth"))


def test_sha256_of_the_file_is_checked(plain: Reference) -> None:
    found = artefact.sha256_of(plain.path)
    networks.check_network(plain.config(weights_sha256=found))
    networks.check_network(plain.config(weights_sha256=found.upper()))
    for check in (networks.check_network, networks.weights_digest):
        with pytest.raises(ArtefactError, match=rf"has sha256 {found}.*expects {'0' * 64}"):
            check(plain.config(weights_sha256="0" * 64))


# ------------------------------------------------------------------------------------------- facts


def test_facts_are_json_and_bind_the_file(plain: Reference) -> None:
    facts = features.feature_facts(plain.config(block=-2))
    assert json.loads(json.dumps(facts)) == {
        "network": "dinov2_vits14",
        "timm_architecture": "vit_small_patch14_dinov2.lvd142m",
        "timm_version": timm.__version__,
        "block": -2,
        "final_norm": True,
        "projected": False,
        "input_size": 28,
        "weights_sha256": artefact.sha256_of(plain.path),
    }


def test_facts_of_the_embedded_network_bind_its_tensors() -> None:
    facts = features.feature_facts(FeatureNetworkConfig(name="efficientnet_lite0", input_size=64))
    again = networks.weights_digest(FeatureNetworkConfig(name="efficientnet_lite0"))
    assert facts == {"network": "efficientnet_lite0", "input_size": 64, "weights_sha256": again}
    assert len(again) == 64


def test_drawn_vectors_are_different_positions_and_follow_the_key() -> None:
    feature_map = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4)
    draw = [
        features.draw_vectors(feature_map, 5, seeded_generator("vectors", 0, key))
        for key in ("a", "a", "b")
    ]
    torch.testing.assert_close(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    positions = draw[0][:, 0].long()
    assert len(set(positions.tolist())) == 5
    torch.testing.assert_close(draw[0], feature_map.flatten(1).T[positions])


def test_all_vectors_of_a_small_map_are_drawn() -> None:
    drawn = features.draw_vectors(torch.arange(4.0).reshape(1, 2, 2), 16, np.random.default_rng(0))
    assert sorted(drawn[:, 0].tolist()) == [0, 1, 2, 3]


def test_stated_depths_and_widths_are_those_of_timm():
    for name, network in networks.NETWORKS.items():
        if name == networks.EMBEDDED:
            continue
        config = FeatureNetworkConfig(name=name, input_size=16 * network.side)
        transformer = networks.transformer_without_weights(config)
        found = len(transformer.blocks), transformer.embed_dim, transformer.num_classes
        assert found == (network.depth, network.width, network.projected_width)
        assert transformer.patch_embed.patch_size == (network.side, network.side)
