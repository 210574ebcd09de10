"""One optimizer step of the tokenizer and of the generator, on the smallest real models."""

import copy
import dataclasses
import logging
import math

import pytest
import torch
from small_tokenizer import MODEL, SEMANTIC, training_of, write_snapshot

from glotok_ray.config import (
    CodebookConfig,
    ContrastConfig,
    DiscriminatorConfig,
    OptimizerConfig,
    RelationConfig,
    TokenizerLossConfig,
    TokenizerRun,
)
from glotok_ray.data.pixel_range import pixels_to_model_range
from glotok_ray.losses import adversarial, objective
from glotok_ray.losses.reconstruction import reconstruction_loss
from glotok_ray.losses.relation import codebook_histogram, relation_loss
from glotok_ray.nn.discriminator import PatchDiscriminator
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.perceptual import build_perceptual
from glotok_ray.teacher.image_vectors import build_image_network
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.tokenizer_step import FrozenNetworks
from glotok_ray.training.worker import LocalWorker
from tests.small_models import ImageTerms

WEIGHTS = TokenizerLossConfig(
    perceptual_network="efficientnet_lite0",
    adversarial_start_step=1,
    entropy_weight=0.03,
    disentanglement_weight=0.1,
    relation=RelationConfig(num_bins=20),
)
PLAIN = OptimizerConfig(learning_rate=1e-3, gradient_clip=0.0)


class RecordingEngine(TorchEngine):
    """Keeps the gradients that a step would have used."""

    def step(self):
        self.gradients = {
            name: p.grad.clone() for name, p in self.module.named_parameters() if p.grad is not None
        }
        super().step()


def make(weights, engine=RecordingEngine, **options):
    torch.manual_seed(0)
    model, critic = (
        GloTokTokenizer(MODEL),
        PatchDiscriminator(DiscriminatorConfig(base_channels=8, num_layers=2)),
    )
    teacher = codebook_histogram(torch.randn(40, 8), weights.relation)
    validation = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    training = training_of(
        TokenizerRun(model=MODEL, loss=weights, **options),
        (engine(model, PLAIN, 1), engine(critic, PLAIN, 1)),
        FrozenNetworks(build_perceptual(weights), teacher, {}),
        LocalWorker(),
        validation,
    )
    return training, model, critic, teacher


@pytest.fixture
def images():
    # Four blobs per image: smooth enough to be learned in a few steps.
    corners = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 255
    return torch.nn.functional.interpolate(corners, size=32, mode="bilinear").to(torch.uint8)


def test_the_cut_graph_has_the_gradient_of_equation_13(images):
    training, model, critic, teacher = make(WEIGHTS)
    reference, frozen = copy.deepcopy(model), copy.deepcopy(critic)
    terms = training.step.learn([{"image": images}], step=1)

    pixels = pixels_to_model_range(images)
    output = reference(pixels)
    student = codebook_histogram(reference.quantizer("semantic").codebook, WEIGHTS.relation)
    relation = relation_loss(student, teacher, reduction="sum")
    one = torch.ones(())
    image_side = ImageTerms(
        reconstruction_loss(pixels, output.reconstruction),
        build_perceptual(WEIGHTS)(pixels, output.reconstruction),
        adversarial.generator_hinge_loss(frozen(output.reconstruction)),
        one,
    )
    total = objective.glotok_loss(
        image_side,
        objective.latent_terms(output.branches, WEIGHTS, relation=relation, image_vectors={}),
        WEIGHTS,
    ).total
    total.backward()
    torch.testing.assert_close(terms["total"], total.detach(), rtol=1e-5, atol=1e-6)
    gradients = training.state.tokenizer.gradients
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(
            gradients[name],
            parameter.grad,
            rtol=2e-3,
            atol=2e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def norm_of(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()


def test_the_gradients_norms_are_told(images):
    training, *_ = make(WEIGHTS)
    terms = training.step.learn([{"image": images}], step=0)
    torch.testing.assert_close(terms["gradient_norm"], norm_of(training.state.tokenizer.gradients))
    assert "discriminator_gradient_norm" not in terms
    terms = training.step.learn([{"image": images}], step=1)
    torch.testing.assert_close(terms["gradient_norm"], norm_of(training.state.tokenizer.gradients))
    torch.testing.assert_close(
        terms["discriminator_gradient_norm"], norm_of(training.state.discriminator.gradients)
    )


def test_without_weights_of_the_image_side_nothing_reaches_the_decoder(images):
    nothing = {"reconstruction_weight": 0.0, "perceptual_weight": 0.0, "adversarial_weight": 0.0}
    training, *_ = make(dataclasses.replace(WEIGHTS, **nothing))
    training.step.learn([{"image": images}], step=0)
    gradients = training.state.tokenizer.gradients
    assert gradients["decoder.conv_out.weight"].abs().max() == 0
    assert gradients["encoder.conv_in.weight"].abs().max() > 0


def test_the_discriminator_learns_only_from_its_start_step(images):
    training, _, critic, _ = make(WEIGHTS)
    before = copy.deepcopy(critic.state_dict())
    terms = training.step.learn([{"image": images}], step=0)
    assert "discriminator" not in terms
    assert terms["adversarial"] == 0
    assert all(torch.equal(before[name], value) for name, value in critic.state_dict().items())
    terms = training.step.learn([{"image": images}], step=1)
    assert terms["discriminator"] > 0
    assert any(not torch.equal(before[name], value) for name, value in critic.state_dict().items())


@pytest.mark.parametrize("kind", ["non_saturating", "vanilla"])
def test_other_games_are_played_by_both_sides(images, kind):
    training, _, critic, _ = make(dataclasses.replace(WEIGHTS, adversarial_kind=kind))
    before = copy.deepcopy(critic.state_dict())
    terms = training.step.learn([{"image": images}], step=1)
    assert 0 < terms["discriminator"] < 3
    assert (terms["adversarial"] > 0) == (kind == "non_saturating")
    assert any(not torch.equal(before[name], value) for name, value in critic.state_dict().items())


def test_lecam_changes_the_critic_and_its_anchors_survive_a_checkpoint(images, tmp_path):
    critics = []
    for weight in (0.0, 10.0):
        training, _, critic, _ = make(
            dataclasses.replace(WEIGHTS, lecam_weight=weight), TorchEngine
        )
        for number in (1, 2):
            training.step.learn([{"image": images}], step=number)
        critics.append(critic.state_dict())
    assert any(not torch.equal(critics[0][name], value) for name, value in critics[1].items())
    assert (training.state.lecam_anchors != 0).all()
    write_snapshot(training.state, tmp_path)
    other, _, _, _ = make(dataclasses.replace(WEIGHTS, lecam_weight=10.0), TorchEngine)
    other.state.load(tmp_path)
    assert torch.equal(other.state.lecam_anchors, training.state.lecam_anchors)


def test_the_tokenizers_turn_leaves_no_gradient_in_the_discriminator(images):
    training, _, critic, _ = make(WEIGHTS)
    training.step._tokenizer_turn(
        pixels_to_model_range(images), adversarial_on=True, relation_share=1
    )
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_the_discriminators_turn_leaves_no_gradient_in_the_tokenizer(images):
    training, model, critic, _ = make(WEIGHTS)
    pixels = pixels_to_model_range(images)
    terms = training.step._discriminator_turn(pixels, model(pixels).reconstruction.detach())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in critic.parameters())
    assert terms["logits_real"] != terms["logits_fake"]


def test_a_few_steps_lower_the_loss_and_evaluation_counts_every_image(images):
    training, _, _, _ = make(WEIGHTS, TorchEngine)
    first = training.step.learn([{"image": images}], step=0)["reconstruction"]
    for _ in range(25):
        last = training.step.learn([{"image": images}], step=0)["reconstruction"]
    assert last < 0.7 * first
    metrics = training.validation.evaluate()
    assert 0 < metrics["psnr"] < 60
    assert metrics["relation_kl"] >= 0
    for name, size in (("semantic", 32), ("visual", 48)):
        assert 1 / size <= metrics[f"{name}_usage"] <= 1
        assert 1 <= metrics[f"{name}_perplexity"] <= size
        assert metrics[f"{name}_duplicates"] == 0


def test_codes_are_counted_since_the_last_evaluation(images):
    training, _, _, _ = make(WEIGHTS)
    training.step.learn([{"image": images}, {"image": images}], step=0)
    counts = training.state.watch.counts["semantic"].clone()
    assert int(counts.sum()) == 2 * 4 * 64  # micro batches, images, tokens
    assert training.validation.evaluate()["semantic_usage"] == float((counts > 0).sum()) / 32
    assert int(training.state.watch.counts["semantic"].sum()) == 0
    assert "semantic_usage" not in training.validation.evaluate()


def test_a_collapsed_codebook_is_warned_about(images, caplog):
    training, model, _, _ = make(WEIGHTS)
    with torch.no_grad():
        model.quantizer("semantic").codebook[:] = (
            model.quantizer("semantic").codebook[:4].repeat(8, 1)
        )
    with caplog.at_level(logging.WARNING):
        assert training.validation.evaluate()["semantic_duplicates"] == 1
    assert "semantic codebook: 100 % of the codes have a neighbour" in caplog.text
    assert "visual" not in caplog.text


def test_the_first_micro_batch_carries_the_relation_loss_of_all(images):
    only_relation = dataclasses.replace(
        WEIGHTS, relation_weight=1.0, quantization_weight=0.0, entropy_weight=0.0
    )
    gradients, terms = [], []
    for parts in (1, 2):
        training, _, _, _ = make(only_relation)
        # A plain engine divides by its accumulation steps, as DeepSpeed does.
        training.state.tokenizer._accumulation_steps = parts
        terms.append(training.step.learn([{"image": images}] * parts, step=0))
        gradients.append(training.state.tokenizer.gradients["branches.semantic.quantizer.codebook"])
    torch.testing.assert_close(terms[0]["relation"], terms[1]["relation"])
    assert terms[0]["relation"] > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


def test_without_weight_the_relation_is_still_told(images):
    training, _, _, _ = make(dataclasses.replace(WEIGHTS, relation_weight=0.0))
    assert training.step.learn([{"image": images}], step=0)["relation"] > 0


def test_the_contrast_head_learns_its_networks_vectors(images):
    contrast = ContrastConfig(network="efficientnet_lite0", width=320, depth=1, num_heads=2)
    books = (
        CodebookConfig(name="visual", size=48),
        dataclasses.replace(SEMANTIC, contrast=contrast),
    )
    # Little beside it: codes that jump for other terms' sake make the curve differ from machine to machine.
    others = ("perceptual", "adversarial", "residual", "relation", "entropy", "disentanglement")
    weights = dataclasses.replace(
        WEIGHTS, contrastive_weight=1.0, **{f"{name}_weight": 0.0 for name in others}
    )
    torch.manual_seed(0)
    model = GloTokTokenizer(dataclasses.replace(MODEL, codebooks=books))
    critic = PatchDiscriminator(DiscriminatorConfig(base_channels=8, num_layers=2))
    training = training_of(
        TokenizerRun(model=model.config, loss=weights),
        (TorchEngine(model, PLAIN, 1), TorchEngine(critic, PLAIN, 1)),
        FrozenNetworks(
            build_perceptual(weights), None, {"semantic": build_image_network(contrast)}
        ),
        LocalWorker(),
        torch.zeros(0, 3, 32, 32, dtype=torch.uint8),
    )
    losses = [
        float(training.step.learn([{"image": images}], step=0)["contrastive"]) for _ in range(20)
    ]
    assert losses[0] == pytest.approx(math.log(4), abs=0.4)
    assert sum(losses[5:]) / 15 < losses[0] - 0.05
    assert "relation_kl" not in training.validation.evaluate()


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(images):
    training, model, _, _ = make(WEIGHTS)
    before = copy.deepcopy(model.state_dict())
    training.step._frozen = training.step._frozen._replace(
        perceptual=lambda x, y: y.sum() * float("nan")
    )
    with pytest.raises(FloatingPointError, match=r"step 7: perceptual, total not finite"):
        training.step.learn([{"image": images}], step=7)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_unused_codes_restart_on_tokens_of_the_batch(images):
    weights = dataclasses.replace(WEIGHTS, restart_every_steps=2)
    training, model, _, _ = make(weights, TorchEngine)
    codebook = model.quantizer("semantic").codebook
    with torch.no_grad():  # all but one code out of reach of any token
        codebook[1:] = codebook[1]
    terms = training.step.learn([{"image": images}], step=0)
    assert "semantic_restarted" not in terms
    terms = training.step.learn([{"image": images}], step=1)
    assert 28 <= terms["semantic_restarted"] <= 31
    moments = training.state.tokenizer._optimizer.state[codebook]
    assert ((moments["exp_avg"] == 0).all(dim=1).sum()) == terms["semantic_restarted"]
    assert training.validation.evaluate()["semantic_duplicates"] < 1
    training.step.learn([{"image": images}], step=2)
    assert training.validation.evaluate()["semantic_usage"] > 0.3


def test_an_average_is_scored_exported_and_restored(images, tmp_path):
    training, model, _, _ = make(WEIGHTS, TorchEngine, ema_decay=0.5)
    for number in range(4):
        training.step.learn([{"image": images}], step=number)
    metrics = training.validation.evaluate()
    assert metrics["average_psnr"] != metrics["psnr"]
    write_snapshot(training.state, tmp_path)
    exported = GloTokTokenizer.from_pretrained(tmp_path)
    name = "decoder.conv_out.weight"
    assert not torch.equal(exported.state_dict()[name], model.state_dict()[name])
    other, _, _, _ = make(WEIGHTS, TorchEngine, ema_decay=0.5)
    other.state.load(tmp_path)
    assert other.validation.evaluate()["average_psnr"] == pytest.approx(metrics["average_psnr"])


def test_autocast_follows_full_precision(images):
    # Two steps alone: where two codes are almost equally near, a rounding picks the other one.
    weights = dataclasses.replace(WEIGHTS, adversarial_weight=0.0)
    losses = {}
    for precision in ("fp32", "bf16_autocast"):
        training, model, _, _ = make(
            weights, lambda module, *rest, kind=precision: TorchEngine(module, *rest, kind)
        )
        losses[precision] = [
            float(training.step.learn([{"image": images}], step=number)["reconstruction"])
            for number in range(2)
        ]
        assert model.decoder_last_layer.weight.dtype == torch.float32
    assert losses["fp32"] != losses["bf16_autocast"]
    assert losses["bf16_autocast"] == pytest.approx(losses["fp32"], rel=0.03)


def test_the_heartbeat_hears_every_phase_of_both_turns(images):
    training, *_ = make(WEIGHTS)
    heard = []
    training.step._worker.heartbeat.enter = lambda phase, number=None: heard.append(phase)
    training.step.learn([{"image": images}] * 2, step=0)
    assert heard == ["forward", "backward", "reduce"] * 2
    heard.clear()
    training.step.learn([{"image": images}], step=1)
    assert heard == ["forward", "backward", "forward", "backward", "reduce"]


def test_tokenizers_without_predictors_log_no_residual_and_add_none_to_the_sum(images):
    model = GloTokTokenizer(
        dataclasses.replace(MODEL, residual=dataclasses.replace(MODEL.residual, enabled=False))
    )
    totals = []
    for weight in (0.0, 0.5):
        critic = PatchDiscriminator(DiscriminatorConfig(base_channels=8, num_layers=2))
        weights = dataclasses.replace(WEIGHTS, residual_weight=weight)
        training = training_of(
            TokenizerRun(model=model.config, loss=weights),
            (RecordingEngine(copy.deepcopy(model), PLAIN, 1), RecordingEngine(critic, PLAIN, 1)),
            FrozenNetworks(build_perceptual(weights), None, {}),
            LocalWorker(),
            torch.zeros(0, 3, 32, 32, dtype=torch.uint8),
        )
        terms = training.step.learn([{"image": images}], step=0)
        assert "residual" not in terms
        totals.append(terms["total"])
    assert torch.equal(*totals)
    whole, _, _, _ = make(WEIGHTS)
    assert whole.step.learn([{"image": images}], step=0)["residual"] > 0


def test_the_scale_of_the_discriminators_loss_reaches_its_gradients_alone(images):
    found = []
    for scale in (1.0, 0.5):
        training, _, _, _ = make(
            dataclasses.replace(WEIGHTS, discriminator_loss_scale=scale, lecam_weight=0.1)
        )
        terms = training.step.learn([{"image": images}], step=1)
        found.append(
            (terms, training.state.discriminator.gradients, training.state.tokenizer.gradients)
        )
    (one, critic, tokenizer), (half, critic_half, tokenizer_half) = found
    assert torch.equal(one["discriminator"], half["discriminator"])
    assert torch.equal(one["total"], half["total"])
    for name, gradient in critic.items():
        torch.testing.assert_close(critic_half[name], gradient / 2)
    for name, gradient in tokenizer.items():
        assert torch.equal(tokenizer_half[name], gradient)


def test_duplicates_are_counted_among_what_the_look_up_compares(images):
    """Rows of one direction and other lengths are one code by cosine, and others by distance."""
    for lookup, expected in (("cosine", 1.0), ("euclidean", 0.0)):
        books = tuple(dataclasses.replace(book, lookup=lookup) for book in MODEL.codebooks)
        model = GloTokTokenizer(dataclasses.replace(MODEL, codebooks=books))
        with torch.no_grad():
            half = torch.nn.functional.normalize(torch.randn(16, 8), dim=1)
            model.quantizer("semantic").codebook[:] = torch.cat([half, 3 * half])
        critic = PatchDiscriminator(DiscriminatorConfig(base_channels=8, num_layers=2))
        training = training_of(
            TokenizerRun(model=model.config, loss=WEIGHTS),
            (TorchEngine(model, PLAIN, 1), TorchEngine(critic, PLAIN, 1)),
            FrozenNetworks(build_perceptual(WEIGHTS), None, {}),
            LocalWorker(),
            torch.zeros(0, 3, 32, 32, dtype=torch.uint8),
        )
        assert training.validation.evaluate()["semantic_duplicates"] == expected
