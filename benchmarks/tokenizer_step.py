"""A tokenizer's training step (paper appendix B.2) under three supervisions, in one run: time, memory and parameters.

    python -m benchmarks.tokenizer_step            # a table; about 14 minutes and 8 GiB on 2 cores
    python -m benchmarks.tokenizer_step --json

The paper says that GloTok's step needs over 15 % less time and nearly 10 % less memory than local contrastive
learning with a frozen network, because it runs no such network and trains no head that predicts its vectors.

- glotok: the recipe glotok_16k, with relation and residual learning; its teacher's histogram is random.
- local contrast: the same trunk, adapters and codebooks with FQGAN's head and CLIP L/14, as in the recipe fqgan_dual,
  but without entropy and disentanglement, so that only the supervision differs.
- plain trunk: the recipe vanilla_dual, with neither: the bound.

A step is `TokenizerStep.learn` with the adversarial game on: the tokenizer's turn with all its terms, then the
discriminator's; fp32, Adam, one pass. Frozen networks have the real architectures with random weights: neither time nor
memory depends on the values. Each case runs in processes of its own, in turn with the others; the fastest counts.
Memory is the largest resident memory during the steps; that of the step is without what the process held after its
imports. The frozen network and the head weigh the same at every batch, so their share of the memory falls as --batch
grows; the paper's GPUs held 30 images each.

Operations are those of convolutions and matrix products in one step, as torch counts them; no other work on the
machine disturbs them. Neither the perceptual network, which is the same for all, is among them nor the relation loss,
0.04 s for 4,096 codes on two cores.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16

from benchmarks import measured
from glotok_ray.config import ContrastConfig, TokenizerLossConfig, TokenizerRun, override
from glotok_ray.nn.contrast import ContrastHead
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.frozen import FrozenNetwork
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.perceptual import build_perceptual, learned_distance
from glotok_ray.recipes.tokenizer_rows import local_contrast, without_both
from glotok_ray.recipes.train_tokenizer import glotok_16k
from glotok_ray.teacher.image_vectors import ClassTokens, network_config
from glotok_ray.teacher.networks import transformer_without_weights
from glotok_ray.training.engine import make_engine
from glotok_ray.training.runs import place, set_threads
from glotok_ray.training.tokenizer_state import TokenizerState
from glotok_ray.training.tokenizer_step import FrozenNetworks, TokenizerStep
from glotok_ray.training.worker import LocalWorker

GLOTOK, CONTRAST, PLAIN = "glotok", "local contrast", "plain trunk"
PAPER_TIME, PAPER_MEMORY = 15, 10
_PERCEPTUAL = ("efficientnet_lite0", "lpips_vgg")


def glotok() -> TokenizerRun:
    """Relation and residual learning."""
    return glotok_16k()


def contrast() -> TokenizerRun:
    """FQGAN's contrast on the same trunk, adapters and codebooks, and nothing else of FQGAN."""
    changes = {"loss.entropy_weight": 0.0, "loss.disentanglement_weight": 0.0}
    return override(local_contrast(glotok_16k()), changes)


def plain() -> TokenizerRun:
    """Neither; without a teacher's path no relation is measured, which a training would do for its log."""
    return override(without_both(glotok_16k()), {"teacher_path": ""})


SUPERVISIONS = {GLOTOK: glotok, CONTRAST: contrast, PLAIN: plain}


def common_changes(options: Any) -> dict[str, Any]:
    """One plain process in fp32, the adversarial game from the first step, and the command line's sizes."""
    return {
        "model.autoencoder.image_size": options.image_size,
        "model.autoencoder.base_channels": options.base_channels,
        "schedule.global_batch_size": options.batch,
        "schedule.micro_batch_size": options.batch,
        "loss.adversarial_start_step": 0,
        "loss.perceptual_network": options.perceptual,
        "scaling.num_workers": 1,
        "scaling.use_gpu": False,
        "scaling.engine": "torch",
        "scaling.precision": "fp32",
        "scaling.threads_per_worker": options.threads,
    }


def step_case(run: TokenizerRun) -> tuple[Callable, Callable]:
    """One optimizer step of the run on random images; facts count its parameters."""
    set_threads(run.scaling.threads_per_worker)
    torch.manual_seed(run.seed)
    worker = LocalWorker()
    model = GloTokTokenizer(run.model).train()
    tokenizer, discriminator = (
        make_engine(
            place(module, worker, run.scaling),
            run.optimizer,
            run.scaling,
            run.schedule.micro_batch_size,
            accumulation_steps=1,
        )
        for module in (model, PatchDiscriminator(run.discriminator))
    )
    frozen = random_frozen_networks(run)
    images = random_images(run)
    step = TokenizerStep(TokenizerState(run, tokenizer, discriminator, worker), frozen, worker)

    def learn() -> dict[str, float]:
        seconds, _ = measured.seconds_of(lambda: step.learn([{"image": images}], step=0))
        return {"step": seconds}

    def facts() -> dict[str, float]:
        heads = [module for module in model.modules() if isinstance(module, ContrastHead)]
        return {
            "operations": operations(run),
            "trained_parameters": parameters(model),
            "head_parameters": sum(map(parameters, heads)),
            "frozen_network_parameters": sum(map(parameters, frozen.image_networks.values())),
        }

    return learn, facts


def operations(run: TokenizerRun) -> int:
    """Of one step, on the meta device: the tokenizer forward and backward, the discriminator on three batches likewise,
    and the contrast's network forward; without the perceptual network, which all supervisions share.
    """
    with torch.device("meta"):
        model, discriminator = (
            GloTokTokenizer(run.model).train(),
            PatchDiscriminator(run.discriminator),
        )
        images = torch.empty(random_images(run).shape)
    networks = [
        transformer_without_weights(network_config(codebook.contrast))
        for codebook in run.model.codebooks
        if codebook.contrast.network
    ]
    with FlopCounterMode(display=False) as counter:
        output = model(images)
        predictions = [branch.prediction for branch in output.branches.values()]
        heads = [prediction.sum() for prediction in predictions if prediction is not None]
        torch.stack([output.reconstruction.sum(), *heads]).sum().backward()
        for _ in range(3):
            discriminator(images).sum().backward()
        for network in networks:
            network.requires_grad_(False).forward_features(
                torch.empty(len(images), 3, 224, 224, device="meta")
            )
    return counter.get_total_flops()


def random_images(run: TokenizerRun) -> Tensor:
    """A batch of uint8 noise."""
    side = run.model.autoencoder.image_size
    shape = (run.schedule.micro_batch_size, 3, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def random_frozen_networks(run: TokenizerRun) -> FrozenNetworks:
    """What `build_frozen_networks` makes, with random numbers in place of files that have to be downloaded."""
    teacher = None
    if run.teacher_path:
        teacher = torch.rand(run.loss.relation.num_bins)
        teacher /= teacher.sum()
    networks: dict[str, nn.Module] = {
        codebook.name: random_image_network(codebook.contrast)
        for codebook in run.model.codebooks
        if codebook.contrast.network
    }
    return FrozenNetworks(random_perceptual(run.loss), teacher, networks)


@torch.no_grad()
def random_image_network(contrast: ContrastConfig) -> FrozenNetwork:
    """The contrast's transformer with small random weights."""
    config = network_config(contrast)
    transformer = transformer_without_weights(config).to_empty(device="cpu")
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.02)
    return ClassTokens(transformer, config)


def random_perceptual(loss: TokenizerLossConfig) -> nn.Module:
    """L_P; EfficientNet-Lite0's weights ship with a package, VGG16's are random."""
    if loss.perceptual_network != "lpips_vgg":
        return build_perceptual(loss)
    with torch.device("meta"):
        shapes = vgg16(weights=None).features.state_dict()
    weights = {
        f"features.{name}": torch.randn(value.shape) * 0.02 for name, value in shapes.items()
    }
    return learned_distance(weights, "random numbers")


def parameters(module: nn.Module) -> int:
    """How many numbers the module holds as parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the three supervisions and print them."""
    options = _parser().parse_args(argv)
    set_threads(options.threads)
    common = common_changes(options)
    rounds: dict[str, list[measured.Measured]] = {name: [] for name in SUPERVISIONS}
    # Round about, so that a machine that slows down for a while does so for all of them.
    for _ in range(options.rounds):
        for name, run in SUPERVISIONS.items():
            case = override(run(), common)
            rounds[name].append(measured.in_own_process(step_case, case, repeats=options.steps))
    cases = {name: fastest(found) for name, found in rounds.items()}
    measured.answer(
        as_json=options.json,
        columns=(
            "supervision",
            "s per step",
            "TFLOP",
            "peak MiB",
            "step MiB",
            "trained M",
            "head M",
            "frozen M",
        ),
        rows=[_row(name, case) for name, case in cases.items()],
        figures={
            "setting": {key: value for key, value in vars(options).items() if key != "json"},
            **{name: {**vars(case), "step_mib": step_mib(case)} for name, case in cases.items()},
        },
        ratios=_ratios(cases),
    )
    if not options.json:
        sys.stdout.write(_verdict(cases))


def _parser() -> Any:
    parser = measured.parser(str(__doc__).split("\n", maxsplit=1)[0])
    for name, default, text in (
        ("--image-size", 256, "side of the images, pixels"),
        ("--batch", 2, "images per step"),
        ("--rounds", 3, "processes per supervision, in turn; the fastest counts"),
        ("--steps", 1, "timed steps of a process, after one that warms up; their median counts"),
        ("--base-channels", 128, "the trunk's channels, a multiple of 32; fewer for a quick trial"),
        ("--threads", 0, "torch threads; 0 takes all cores"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} ({default})")
    parser.add_argument(
        "--perceptual", choices=_PERCEPTUAL, default=_PERCEPTUAL[0], help="network of L_P"
    )
    return parser


def fastest(rounds: Sequence[measured.Measured]) -> measured.Measured:
    """The round that other work on the machine disturbed least."""
    return min(rounds, key=lambda case: case.total)


def step_mib(case: measured.Measured) -> float:
    """Memory of models, optimizers, frozen and activations: all but the imports."""
    return case.resident_mib - case.idle_mib


def _row(name: str, case: measured.Measured) -> list[str]:
    counts = ("trained_parameters", "head_parameters", "frozen_network_parameters")
    return [
        name,
        f"{case.total:.3f}",
        f"{case.facts['operations'] / 1e12:.2f}",
        f"{case.resident_mib:.0f}",
        f"{step_mib(case):.0f}",
        *(f"{case.facts[key] / 1e6:.1f}" for key in counts),
    ]


def _ratios(cases: dict[str, measured.Measured]) -> dict[str, float]:
    ratios = {}
    for above, below in ((GLOTOK, CONTRAST), (GLOTOK, PLAIN), (CONTRAST, PLAIN)):
        first, second = cases[above], cases[below]
        ratios[f"{above} / {below}, time"] = first.total / second.total
        ratios[f"{above} / {below}, operations"] = (
            first.facts["operations"] / second.facts["operations"]
        )
        ratios[f"{above} / {below}, peak memory"] = first.resident_mib / second.resident_mib
        ratios[f"{above} / {below}, memory of the step"] = step_mib(first) / step_mib(second)
    return ratios


def _verdict(cases: dict[str, measured.Measured]) -> str:
    ratios = _ratios(cases)
    time, memory = (
        100 * (1 - ratios[f"{GLOTOK} / {CONTRAST}, {what}"])
        for what in ("time", "memory of the step")
    )
    return (
        f"\nGloTok's step takes {time:.0f} % less time and {memory:.0f} % less memory than the local contrastive one; "
        f"the paper says {PAPER_TIME} and {PAPER_MEMORY}\n"
    )


if __name__ == "__main__":
    main()
