"""On what, and by which protocol, the checkpoints of a run are evaluated.

Read next: glotok_ray/training/checkpoint_measurement.py
"""

from typing import Any

from glotok_ray.config.checkpoint_evaluation import SECTION
from glotok_ray.config.evaluation import DOWNLOAD, EvaluateRun
from glotok_ray.config.overrides import to_dict
from glotok_ray.config.pool import PoolConfig
from glotok_ray.config.runs import AnyGeneratorRun, TokenizerRun
from glotok_ray.data.recorded import check_classes, check_side, read_image_dataset
from glotok_ray.data.records import read_dataset
from glotok_ray.evaluation.inputs import check_weight_files
from glotok_ray.pretrained.tokenizer import code_layout
from glotok_ray.storage import artefact
from glotok_ray.storage.places import to_path
from glotok_ray.training.evaluated_checkpoints import Protocol

Run = TokenizerRun | AnyGeneratorRun


def evaluation_of(config: Run) -> EvaluateRun:
    """What `evaluate_images` would be told of the run's crops and feature networks, without a model."""
    section, path = config.checkpoint_evaluation, _data_path(config)
    wanted = section.num_images
    if not isinstance(config, TokenizerRun):
        wanted = config.checkpoint_evaluation.num_reference_images
    found = read_image_dataset(to_path(path)).num_images
    return EvaluateRun(
        data_path=path,
        num_images=min(wanted, found),
        feature_size=section.feature_size,
        inception_path=section.inception_path,
        pool=PoolConfig(
            num_actors=1,
            use_gpu=section.use_gpu,
            cpus_per_actor=section.num_cpus,
            batch_size=section.batch_size,
            storage_retry_minutes=config.scaling.storage_retry_minutes,
        ),
    )


def protocol_of(config: Run) -> Protocol:
    """What decides the numbers of a checkpoint's evaluation; reads the weights of Inception, where a file is named."""
    section, evaluation = config.checkpoint_evaluation, evaluation_of(config)
    settings: dict[str, Any] = {
        "reference_images": evaluation.num_images,
        "feature_size": section.feature_size,
        "inception": section.inception_path,
    }
    if section.inception_path not in ("", DOWNLOAD):
        settings["inception"] = artefact.sha256_of(to_path(section.inception_path))
    if not isinstance(config, TokenizerRun):
        sampled = config.checkpoint_evaluation
        settings |= {
            "samples": sampled.num_images,
            "seed": sampled.seed,
            "sampler": to_dict(sampled.sampler),
        }
    fingerprint = artefact.fingerprint(SECTION, settings, [to_path(evaluation.data_path)])
    return Protocol(settings=settings, fingerprint=fingerprint)


def check_checkpoint_evaluation(config: Run) -> None:
    """Raise ValueError, before a training starts, for what would keep its checkpoints from being evaluated."""
    if not config.checkpoint_evaluation.every_steps:
        return
    path = _data_path(config)
    if not path:
        raise ValueError(
            f"{SECTION}.data_path is empty: give the validation shards that checkpoints are evaluated on, or set "
            f"{SECTION}.every_steps to 0"
        )
    folder = to_path(path)
    artefact.read_manifest(folder, "shards")
    images = read_image_dataset(folder)
    if isinstance(config, TokenizerRun):
        side = config.model.autoencoder.image_size
    else:
        side = code_layout(to_path(config.tokenizer_path)).image_size
        codes = config.data.train_path
        check_classes(read_dataset(to_path(codes)).classes, codes, images.classes, path)
    check_side(images, folder, side)
    check_weight_files(evaluation_of(config))


def _data_path(config: Run) -> str:
    path = config.checkpoint_evaluation.data_path
    return path or (config.data.validation_path if isinstance(config, TokenizerRun) else "")
