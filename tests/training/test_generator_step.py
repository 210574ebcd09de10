"""One optimizer step of the generator, on the smallest real models."""

import copy

import torch
from small_tokenizer import MODEL

from glotok_ray.config import (
    FlowConfig,
    OptimizerConfig,
    XARConfig,
)
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.nn.xar import XAR
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.generator_step import GeneratorStep
from glotok_ray.training.schedule import seed_step
from glotok_ray.training.worker import LocalWorker

PLAIN = OptimizerConfig(learning_rate=1e-3, gradient_clip=0.0)


def test_the_generator_learns_and_averages():
    torch.manual_seed(0)
    tokenizer = GloTokTokenizer(MODEL).requires_grad_(False).eval()
    model = XAR(XARConfig(grid_size=8, cell_size=4, width=32, depth=2, num_heads=2, num_classes=3))
    step = GeneratorStep(TorchEngine(model, PLAIN, 1), tokenizer, FlowConfig(), 0.99, LocalWorker())
    generator = torch.Generator().manual_seed(2)
    batch = {
        "semantic": torch.randint(0, 32, (8, 64), generator=generator, dtype=torch.int32),
        "visual": torch.randint(0, 48, (8, 64), generator=generator, dtype=torch.int32),
        "label": torch.randint(0, 3, (8,), generator=generator),
    }
    losses = []
    for number in range(40):
        seed_step(0, number, 0)
        losses.append(float(step.learn([batch], number)["flow_matching"]))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    weight = "output_projection.weight"
    assert not torch.equal(step.average.whole(keep=True)[weight], model.state_dict()[weight])
    seed_step(0, 0, 0)
    again = GeneratorStep(
        TorchEngine(copy.deepcopy(model), PLAIN, 1), tokenizer, FlowConfig(), 0.99, LocalWorker()
    )
    first = float(again.learn([batch], 0)["flow_matching"])
    seed_step(0, 0, 0)
    repeated = GeneratorStep(
        TorchEngine(copy.deepcopy(model), PLAIN, 1), tokenizer, FlowConfig(), 0.99, LocalWorker()
    )
    assert first == float(repeated.learn([batch], 0)["flow_matching"])
