"""RQ-Transformer from residual codes to images: trained without Ray, loaded, sampled; its loss; and what is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from glotok_ray.config import override
from glotok_ray.config.runs import RQRun
from glotok_ray.config.samplers import TokenSamplerConfig
from glotok_ray.evaluation.generator_loss import LOSS, Codes, ResidualLoss
from glotok_ray.nn.rq_transformer import RQTransformer
from glotok_ray.peers.rq_vae import RQVAETokenizer
from glotok_ray.pretrained.generator import load_generator
from glotok_ray.pretrained.tokenizer import read_any_tokenizer
from glotok_ray.recipes import rq_transformers
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.sampling.residual_codes import sample_residual_codes
from glotok_ray.stages import train_generator
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.training.generator_step import ResidualObjective
from glotok_ray.training.inputs import check_inputs
from glotok_ray.training.metrics_file import last_metrics
from tests.evaluation.test_generator_loss import engine_of
from tests.small_codes import CLASSES, write_codes
from tests.small_residuals import TINY_RQ, write_tokenizer

STEPS = 60
# Of one image per class.
CODES = torch.randint(24, (2, 2, 2, 3), generator=torch.Generator().manual_seed(4))


def write_parts(folder: Path) -> None:
    """A tokenizer of three depths, and codes of 16 images."""
    write_tokenizer(folder / "tokenizer")
    write_codes(folder, [CODES[CLASSES].numpy()])


def small_run(folder: Path) -> RQRun:
    changes = {
        "name": "rq",
        "output_path": str(folder),
        "tokenizer_path": str(folder / "tokenizer"),
        "launcher": "local",
        "ema_decay": 0.0,
        "model": TINY_RQ,
        "model.num_classes": 2,
        "model.width": 32,
        "model.dropout": 0.0,
        "optimizer.learning_rate": 1e-2,
        "data.train_path": str(folder / "codes"),
        "data.num_train_images": 16,
        "data.views": "center",
        "schedule.global_batch_size": 16,
        "schedule.micro_batch_size": 16,
        "schedule.epochs": STEPS,
        "schedule.log_every_steps": STEPS,
        "schedule.checkpoint_every_epochs": STEPS,
        "scaling.num_workers": 1,
        "scaling.engine": "torch",
        "scaling.use_gpu": False,
        "scaling.precision": "fp32",
    }
    return override(rq_transformers.rq_480m(), changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("residuals")
    write_parts(folder)
    assert train_generator.run(small_run(folder))["step"] == STEPS
    return folder


def parts(folder: Path) -> tuple[RQTransformer, RQVAETokenizer]:
    model, tokenizer = (
        load_generator(folder / "rq", use_ema=True),
        read_any_tokenizer(folder / "rq/tokenizer"),
    )
    assert isinstance(model, RQTransformer)
    assert isinstance(tokenizer, RQVAETokenizer)
    return model, tokenizer


def test_it_learns_its_classes_and_draws_them(trained: Path) -> None:
    logged = last_metrics(trained / "rq", STEPS)
    assert logged["train/cross_entropy"] < 0.3 * math.log(TINY_RQ.num_codes)
    depths = [logged[f"train/depth_{depth}_cross_entropy"] for depth in range(3)]
    assert np.mean(depths) == pytest.approx(logged["train/cross_entropy"], rel=1e-4)
    model, tokenizer = parts(trained)
    greedy = TokenSamplerConfig(guidance_scale=1.0, top_k=1)
    drawn = sample_residual_codes(
        model, torch.tensor([0, 1]), greedy, tokenizer.codebook, image_ids=[0, 1], seed=0
    )
    assert (drawn == CODES).double().mean() > 0.9
    images = ImageGenerator.from_pretrained(trained / "rq").generate([0, 1], seed=0, sampler=greedy)
    assert images.shape == (2, 16, 16, 3)


@torch.no_grad()
def test_its_loss_in_evaluation_is_that_of_its_training(trained: Path) -> None:
    model, tokenizer = parts(trained)
    # Codes that it has not learned.
    codes = torch.randint(24, (5, 2, 2, 3), generator=torch.Generator().manual_seed(0))
    labels = CLASSES[:5]
    found = ResidualLoss(model, tokenizer, seed=7)(Codes([codes], labels, range(5)))
    objective = ResidualObjective(tokenizer.codebook, model.config, "codes")
    batch = {"codes": codes.flatten(1), "label": torch.from_numpy(labels)}
    terms = objective(engine_of(model), batch, torch.Generator())
    assert found[LOSS].mean() == pytest.approx(terms["cross_entropy"].item(), rel=1e-5)
    # Depth by depth with a model that sees the class and the codes before alone.
    logits = model(tokenizer.codebook[codes.flatten(1, 2)], batch["label"])
    for depth in range(3):
        chosen = logits[:, :, depth].log_softmax(-1).gather(-1, codes[..., depth].view(5, 4, 1))
        assert terms[f"depth_{depth}_cross_entropy"].item() == pytest.approx(
            -chosen.mean().item(), rel=1e-5
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.num_residuals": 2}, r"draws 2 x 2 x 2 of 24 codes.*decodes 2 x 2 x 3 of 24"),
        ({"model.code_width": 5}, r"code_width = 5: the tokenizer has 6"),
        ({"model.num_classes": 3}, r"model\.num_classes = 3: .*--model\.num-classes 2"),
        ({"data.views": "center_flip"}, r"data\.views = 'center_flip'"),
    ],
)
def test_codes_that_do_not_fit_are_refused(
    trained: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ArtefactError, match=message):
        check_inputs(override(small_run(trained), changes))


def test_samples_with_guidance_are_refused_before_the_training() -> None:
    changes = {"every_steps": 5, "data_path": "x", "sampler.guidance_scale": 2.0}
    run = rq_transformers.rq_480m()
    with pytest.raises(ValueError, match=r"checkpoint_evaluation\.sampler\.guidance_scale = 2\.0"):
        override(run, {f"checkpoint_evaluation.{name}": value for name, value in changes.items()})
