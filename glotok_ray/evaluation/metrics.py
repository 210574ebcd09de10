"""The metrics of an evaluation, computed once from what lies in its parts: features are read block by block.

Reconstructions are measured by PSNR, SSIM, LPIPS, codebook usage and Frechet distances; samples by Frechet distances
and Inception's scores, beside images decoded from codes that no generator chose (paper section 4).
Read next: glotok_ray/evaluation/codebook_metrics.py
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from numpy import ndarray

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.evaluation.array_names import (
    EFFNET_POOLED,
    LABELS,
    LPIPS,
    retention_psnr,
)
from glotok_ray.evaluation.codebook_metrics import code_metrics, grid_metrics
from glotok_ray.evaluation.distances import distance_metrics
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.error_metrics import OUR_WAY, error_part_metrics
from glotok_ray.evaluation.extractors import INCEPTION, Network
from glotok_ray.evaluation.generator_loss import LOSS, SHUFFLED, UNLEARNED
from glotok_ray.evaluation.generator_metrics import generator_loss_metrics
from glotok_ray.evaluation.inception_metrics import inception_metrics
from glotok_ray.evaluation.plan import DECODED, SAMPLES, TRAINING, VALIDATION
from glotok_ray.evaluation.probe_metrics import probe_metrics
from glotok_ray.evaluation.reference import Reference
from glotok_ray.evaluation.retention import retention_names
from glotok_ray.evaluation.sample_metrics import (
    Labelled,
    nearest_training_metrics,
    own_class_metrics,
)
from glotok_ray.evaluation.streams import MeasuredImages
from glotok_ray.evaluation.uniformity_metrics import DrawUniformity
from glotok_ray.metrics.reconstruction import ScoreSum
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.pretrained.tokenizer import empty_tokenizer
from glotok_ray.storage.places import to_path

RETAINED = {
    False: "the features of all other codebooks, codes and predicted residuals,",
    True: "what all other codes add to the decoder's input, such as those of other scales or branches,",
}
"""What is set to 0 while a part of the codes is decoded alone, by whether the tokenizer is another system's."""


def is_other_system(model: GloTokTokenizer | PeerTokenizer) -> bool:
    """Whether the tokenizer is none of our own class."""
    return not isinstance(model, GloTokTokenizer)


def way_of(model: GloTokTokenizer | PeerTokenizer) -> str:
    """How codes become images, as the end of a phrase."""
    return " by its own decoder" if is_other_system(model) else OUR_WAY


def metrics_of(
    measured: Mapping[str, MeasuredImages],
    config: EvaluateRun,
    image_size: int,
    draw_uniformity: DrawUniformity,
    *,
    num_classes: int,
    networks: Sequence[Network],
    reference: Reference | None = None,
) -> Metrics:
    """Every metric that the measured images allow; the labels among them count from 0 to `num_classes`. `networks` are
    those that measured them, and `reference` published statistics that samples are compared with as well.
    """
    validation = measured[VALIDATION]
    metrics: Metrics = {}
    if config.tokenizer_path:
        model = empty_tokenizer(to_path(config.tokenizer_path))
        metrics |= reconstruction_metrics(
            {name: validation.column(name) for name in ("psnr", "ssim")}, image_size, way_of(model)
        )
        names = retention_names(model)
        alone = {name: retention_psnr(name) for name in names if retention_psnr(name) in validation}
        scores = {entry: validation.column(entry) for entry in alone.values()}
        metrics |= retention_metrics(scores, list(alone), RETAINED[is_other_system(model)])
        metrics |= error_part_metrics(validation, list(alone), way_of(model))
    if LPIPS in validation:
        metrics |= lpips_metrics(validation.column(LPIPS), config.lpips_backbone)
    metrics |= distance_metrics(measured, config, networks, reference)
    for network in networks:
        if network.key == INCEPTION:
            metrics |= inception_metrics(
                measured, network, reconstructs=bool(config.tokenizer_path)
            )
    # Without samples training crops have codes alone, for the probe.
    training = measured.get(TRAINING) if SAMPLES in measured else None
    if SAMPLES in measured:
        metrics |= own_class_metrics(
            _labelled(measured[SAMPLES]) if LABELS in measured[SAMPLES] else None,
            _labelled(validation),
            None if training is None else _labelled(training),
            num_classes,
            config.feature_size,
        )
    if training is not None:
        metrics |= nearest_training_metrics(
            {
                kind: measured[kind].blocks(EFFNET_POOLED)
                for kind in (SAMPLES, VALIDATION, DECODED)
                if kind in measured
            },
            training.blocks(EFFNET_POOLED),
            training.count,
            config,
        )
    if config.generator_path:
        losses = {name: validation.column(name) for name in (LOSS, SHUFFLED, UNLEARNED)}
        metrics |= generator_loss_metrics(losses, config)
    if config.tokenizer_path:
        model = empty_tokenizer(to_path(config.tokenizer_path))
        codes = {name: validation.blocks(name) for name in model.grid_names}
        if isinstance(model, GloTokTokenizer):
            metrics |= code_metrics(codes, config, draw_uniformity)
            metrics |= probe_metrics(measured, config, num_classes)
        else:
            metrics |= grid_metrics(codes, model.rate)
    return metrics


def _labelled(images: MeasuredImages) -> Labelled:
    return Labelled(images.blocks(EFFNET_POOLED), images.column(LABELS))


def reconstruction_metrics(
    scores: dict[str, Float[ndarray, " n"]], image_size: int, way: str = OUR_WAY
) -> Metrics:
    """Means of "psnr" and "ssim" over the images of the validation set; `way` is how codes are decoded, in words."""
    psnr, ssim = ScoreSum.of(scores["psnr"]), ScoreSum.of(scores["ssim"])
    pairs = f"{len(scores['psnr'])} validation crops of {image_size} x {image_size} pixels"
    psnr_protocol = (
        f"Mean over {pairs} of 10 log10(255^2 / MSE) on 8-bit RGB, per image; {psnr.num_infinite} "
        f"identical pairs left out; decoded from codes{way}; "
        "± is the deviation over images."
    )
    ssim_protocol = (
        f"Mean over {pairs} of Wang's SSIM on 8-bit RGB (Gaussian window 11 x 11, sigma 1.5, "
        "population covariance, range 255); ± is the deviation over images."
    )
    facts = {"num_images": len(scores["psnr"]), "side": image_size, "values": "8-bit RGB"}
    facts["reference"] = "the same validation crops"
    window = {"window": "Gaussian 11 x 11, sigma 1.5", "range": 255}
    return {
        "reconstruction_psnr": metric_entry(
            "PSNR (dB)", psnr.mean, psnr_protocol, psnr.standard_deviation, facts=facts
        ),
        "reconstruction_ssim": metric_entry(
            "SSIM", ssim.mean, ssim_protocol, ssim.standard_deviation, facts={**facts, **window}
        ),
    }


def lpips_metrics(distances: Float[ndarray, " n"], backbone: str) -> Metrics:
    """Mean LPIPS over the validation crops."""
    protocol = (
        f"Mean over {len(distances)} validation crops of LPIPS 0.1 with {backbone}, 8-bit RGB in [-1, 1], crops "
        "as they are; ± is the deviation over images. Lower is closer."
    )
    deviation = float(distances.std(ddof=1)) if len(distances) > 1 else None
    facts = {"network": backbone, "num_images": len(distances)}
    entry = metric_entry(
        f"LPIPS ({backbone})", float(distances.mean()), protocol, deviation, facts=facts
    )
    return {"reconstruction_lpips": entry}


def retention_metrics(
    scores: Mapping[str, Float[ndarray, " n"]], names: Sequence[str], zeroed: str = RETAINED[False]
) -> Metrics:
    """Mean PSNR of the validation crops decoded from each codebook alone; `scores` are "retention_NAME_psnr" of all
    `names`, and `zeroed` says what is set to 0.
    """
    metrics: Metrics = {}
    for name in names:
        entry = retention_psnr(name)
        score = ScoreSum.of(scores[entry])
        protocol = (
            f"As the reconstructions' PSNR, over {len(scores[entry])} validation crops that are decoded from the "
            f"{name} codes alone (paper Fig. 4): {zeroed} are set to 0. "
            f"{score.num_infinite} identical pairs left out; ± is the deviation over images."
        )
        metrics[entry] = metric_entry(
            f"PSNR of {name} codes alone (dB)",
            score.mean,
            protocol,
            score.standard_deviation,
            facts={"num_images": len(scores[entry]), "reference": "the same validation crops"},
        )
    return metrics
