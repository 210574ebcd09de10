"""ImageFolder's generator from codes of two branches to images: encoded, trained without Ray, sampled, exported and
imported with the tokenizer of the same file; and the masking of its inputs.
"""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from glotok_ray.config import EncodeRun, ExportGeneratorRun, override
from glotok_ray.config.jobs import VARSampleRun
from glotok_ray.config.runs import VARRun
from glotok_ray.config.samplers import ScaleSamplerConfig
from glotok_ray.data.records import read_dataset
from glotok_ray.export import generator as export
from glotok_ray.interop.peer_tokenizers import import_peer
from glotok_ray.pretrained.generator import load_generator
from glotok_ray.recipes.train_generator import quickstart_var
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.stages import encode_images, sample_images, train_generator
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.generator_step import ScaleObjective
from glotok_ray.training.inputs import check_inputs
from glotok_ray.training.metrics_file import last_metrics
from tests.peers.peer_folders import write_peer_folder
from tests.peers.small_systems import released_tensors, small_model
from tests.small_data import small_pool, write_shards
from tests.small_pyramid import TINY_BRANCHES

STEPS = 30
SAMPLER = ScaleSamplerConfig(guidance_scale=0.5, temperature=5.0, top_k=0, top_p=0.95)


def in_this_process(units: Any, actor_class: Any, arguments: Any, pool: Any, **_: Any) -> Any:
    """In place of actors: every unit by an object of its own."""
    return (actor_class(**arguments)(unit) for unit in units)


def small_run(folder: Path) -> VARRun:
    classes = len(read_dataset(folder / "codes").classes)
    changes = {
        "output_path": str(folder),
        "tokenizer_path": str(folder / "tokenizer"),
        "launcher": "local",
        "model.scale_sides": (1, 1, 2, 3, 3, 4, 5, 6, 8, 11),
        "model.num_branches": 2,
        "model.num_codes": 32,
        "model.code_width": 8,
        "model.num_classes": classes,
        "model.width": 32,
        "model.depth": 1,
        "model.num_heads": 2,
        "model.input_masking": 0.3,
        "data.train_path": str(folder / "codes"),
        "data.num_train_images": 36,
        "schedule.epochs": STEPS // 3,
        "schedule.global_batch_size": 12,
        "schedule.micro_batch_size": 12,
        "schedule.log_every_steps": 1,
        "scaling.num_workers": 1,
        "scaling.engine": "torch",
        "ema_decay": 0.0,
    }
    return override(quickstart_var(), changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("branches")
    write_shards(folder / "shards")
    write_peer_folder(folder / "tokenizer", "imagefolder_4096")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glotok_ray.on_ray.actor_pool.map_shards", in_this_process)
        encode = EncodeRun(
            data_path=str(folder / "shards"),
            tokenizer_path=str(folder / "tokenizer"),
            output_path=str(folder / "codes"),
            views="center",
            pool=small_pool(),
        )
        encode_images.run(encode)
    assert train_generator.run(small_run(folder))["step"] == STEPS
    return folder


def test_it_learns_both_branches_from_cached_codes(trained: Path) -> None:
    codes = read_dataset(trained / "codes")
    names = list(codes.code_counts)
    assert (names[0], names[1], names[10]) == (
        "branch_0_scale_1x1",
        "branch_0_scale_1x1_2",
        "branch_1_scale_1x1",
    )
    assert codes.num_indices == 572
    first, last = (last_metrics(trained / "var", step) for step in (1, STEPS))
    branches = [last[f"train/branch_{branch}_cross_entropy"] for branch in range(2)]
    assert np.mean(branches) == pytest.approx(last["train/cross_entropy"], rel=1e-4)
    assert last["train/cross_entropy"] < first["train/cross_entropy"] - 0.3
    assert first["train/cross_entropy"] == pytest.approx(np.log(32), rel=0.1)


def test_any_number_of_actors_gives_the_same_pictures(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glotok_ray.on_ray.actor_pool.map_shards", in_this_process)
    found = []
    for size in (1, 4):
        run = VARSampleRun(
            generator_path=str(trained / "var"),
            output_path=str(tmp_path / str(size)),
            num_images=4,
            sampler=SAMPLER,
            pool=dataclasses.replace(small_pool(), batch_size=size),
        )
        sample_images.run(run)
        found.append(np.load(tmp_path / f"{size}/samples.npz")["arr_0"].astype(int))
    assert found[0].shape == (4, 64, 64, 3)
    assert len({image.tobytes() for image in found[0]}) == 4
    assert np.abs(found[0] - found[1]).max() <= 1


def test_a_training_file_brings_generator_and_tokenizer(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ExportGeneratorRun(
        source_path=str(trained / "var"), output_path=str(tmp_path / "exported"), layout="peer"
    )
    export.run(own)
    card = (tmp_path / "exported/README.md").read_text()
    assert "572 codes of 32 per image, 2 at each position" in card
    assert "ImageFolder's code loads" in card
    assert "Licence of the tokenizer: Adobe Research License" in card
    assert "Licence of the weights" not in card
    peers = load_file(tmp_path / "exported/generator_peer.safetensors")
    assert peers["attn_bias_for_masking"].shape == (1, 1, 286, 286)
    tokenizer = released_tensors("imagefolder_4096", small_model("imagefolder_4096", monkeypatch))
    content = {"epoch": 9, "trainer": {"var_wo_ddp": peers, "vae_local": tokenizer}}
    torch.save(content, tmp_path / "ar-ckpt-last.pth")
    read = import_peer(tmp_path / "ar-ckpt-last.pth", "imagefolder_4096", weights="model").model
    stored = load_file(trained / "tokenizer/tokenizer.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in read.state_dict().items())
    imported = ExportGeneratorRun(
        source_path=str(tmp_path / "ar-ckpt-last.pth"),
        output_path=str(tmp_path / "imported"),
        tokenizer_path=str(trained / "tokenizer"),
        weights="model",
        architecture="var",
        var=small_run(trained).model,
    )
    export.run(imported)
    again = ExportGeneratorRun(
        source_path=str(tmp_path / "imported"), output_path=str(tmp_path / "again")
    )
    export.run(again)
    for name in ("imported", "again"):
        text = (tmp_path / name / "README.md").read_text()
        assert "Licence of the weights: Adobe Research License" in text
        assert "non-commercial research only, and so is all that is derived from them" in text
    states = [
        load_generator(path, use_ema=False).state_dict()
        for path in (trained / "var", tmp_path / "imported")
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    ours, theirs = (
        ImageGenerator.from_pretrained(path).generate([0, 1], seed=1, sampler=SAMPLER)
        for path in (trained / "var", tmp_path / "imported")
    )
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.num_branches": 1}, r"draws 1 x 1 of 32 codes.*decodes 1 x 1 of 32"),
        ({"model.code_width": 10}, r"model\.code_width = 10: .* a map of 8 channels"),
    ],
)
def test_codes_that_do_not_fit_are_refused(
    trained: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ArtefactError, match=message):
        check_inputs(override(small_run(trained), changes))


class Masks(nn.Module):
    """In place of a generator: keeps what is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor, labels: Tensor, masked: Tensor) -> Tensor:
        """Logits that say nothing."""
        self.seen.append(masked)
        return torch.zeros(len(inputs), inputs.shape[1] + 1, 2 * 24)


def test_a_training_tells_each_step_how_far_the_run_is(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, at = [], ScaleObjective.at

    def noted(self: ScaleObjective, step: int) -> None:
        seen.append((step, self._total_steps))
        at(self, step)

    monkeypatch.setattr(ScaleObjective, "at", noted)
    train_generator.run(override(small_run(trained), {"name": "short", "schedule.epochs": 1}))
    assert seen == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize(("step", "largest"), [(0, 0.4), (5, 0.2), (10, 0.0)])
def test_shares_of_masked_inputs_are_uniform_and_fall_over_the_run(
    step: int, largest: float
) -> None:
    """Of the share p of a batch, uniform in [0, L): mean L / 2, variance L^2 / 12."""
    tokenizer: Any = SimpleNamespace(contribution=lambda *_: torch.zeros(20, 6, 5, 5))
    names = [str(place) for place in range(12)]
    objective = ScaleObjective(tokenizer, TINY_BRANCHES, names, 0.0, total_steps=10)
    lengths = 2 * TINY_BRANCHES.scale_lengths
    batch = {
        name: torch.zeros(20, length, dtype=torch.int64)
        for name, length in zip(names, lengths, strict=True)
    }
    batch["label"] = torch.zeros(20, dtype=torch.int64)
    model = Masks()

    class Engine:
        module = model

        def __call__(self, *inputs: Tensor) -> Tensor:
            return model(*inputs)

    engine: Any = Engine()
    generator = torch.Generator().manual_seed(0)
    objective.at(step)
    for _ in range(400):
        terms = objective(engine, batch, generator)
    assert terms["cross_entropy"].item() == pytest.approx(np.log(24))
    masked = torch.stack(model.seen).double()
    assert masked.shape == (400, 20, 48)
    shares = masked.mean(dim=(1, 2))
    # 960 inputs tell a share to 0.016, which adds 0.00025 at most.
    assert shares.mean().item() == pytest.approx(largest / 2, abs=0.1 * largest)
    assert shares.var().item() == pytest.approx(largest**2 / 12, abs=0.03 * largest**2)
    assert shares.max() < largest + 0.08
    # No place is preferred.
    assert (masked.mean(dim=(0, 1)) - largest / 2).abs().max() < 0.1 * largest + 1e-9
