"""What an evaluation's folders must be, checked before anything starts.

docs/recorded_facts.md lists the facts that folders record. Read next: glotok_ray/evaluation/plan.py
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from glotok_ray.config.evaluation import DOWNLOAD, EvaluateRun
from glotok_ray.config.rq import RQConfig
from glotok_ray.config.var import VARConfig
from glotok_ray.data.recorded import (
    check_adm_protocol,
    check_classes,
    check_codes,
    check_side,
    read_image_dataset,
)
from glotok_ray.data.records import DatasetInfo, read_dataset
from glotok_ray.evaluation.foreign_samples import is_foreign
from glotok_ray.evaluation.sample_files import IMAGES_ARRAY, stored_images
from glotok_ray.evaluation.sample_inputs import Samples, measured_samples
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.peers.base import PeerTokenizer
from glotok_ray.pretrained.generator import (
    TOKENIZER_FOLDER,
    check_fit,
    check_scale,
    check_vectors,
    find_tokenizer,
    model_config,
    read_facts,
)
from glotok_ray.pretrained.tokenizer import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_stored_tokenizer,
    code_layout,
    empty_tokenizer,
    what_is_decoded,
)
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import to_path


def check_inputs(config: EvaluateRun) -> None:
    """Raise ValueError for paths that leave nothing to evaluate or nothing to compare with."""
    if config.samples_paths:
        raise ValueError(
            f"samples_paths = {', '.join(config.samples_paths)}: several are compared by jobs.evaluate_images alone; "
            "leave it empty here"
        )
    if not (config.tokenizer_path or config.samples_path or config.generator_path):
        raise ValueError(
            "tokenizer_path, samples_path and generator_path are empty: there is nothing to evaluate; give one"
        )
    if not config.data_path:
        raise ValueError(
            "data_path is empty: give the validation shards, the reference of all distances"
        )
    if config.codes_path and not (config.tokenizer_path and config.samples_path):
        raise ValueError(
            f"codes_path = {config.codes_path!r}: baselines need tokenizer_path, which decodes "
            "them, and samples_path, which they are compared with; give both, or leave codes_path "
            "empty"
        )
    if config.training_path and not (config.samples_path or takes_training_codes(config)):
        raise ValueError(
            f"training_path = {config.training_path!r}: needs samples_path, whose nearest training crops are looked "
            "for, or tokenizer_path and probe_images above 0, for a classifier on its codes; give one, or leave "
            "training_path empty"
        )
    if config.training_path and to_path(config.training_path) == to_path(config.data_path):
        raise ValueError(
            f"training_path = {config.training_path!r}: is data_path too, so that each validation crop would be its "
            "own nearest training crop; give the shards that the generator was trained on"
        )
    check_weight_files(config)


def takes_training_codes(config: EvaluateRun) -> bool:
    """Whether the training crops that are measured must be encoded for the probe."""
    return bool(
        config.tokenizer_path
        and config.training_path
        and not config.codes_path
        and config.probe_images
    )


def check_weight_files(config: EvaluateRun) -> None:
    """Raise ValueError for a file of weights or statistics that is not there, or that nothing would read."""
    for name in ("inception_path", "reference_path", "dinov2_path", "lpips_path"):
        path = getattr(config, name)
        downloaded = name == "inception_path" and path == DOWNLOAD
        if path and not downloaded and not to_path(path).is_file():
            raise ValueError(f"{name} = {path!r}: is no file; give the file, or leave it empty")
    if config.reference_path and not (config.inception_path and config.samples_path):
        raise ValueError(
            f"reference_path = {config.reference_path!r}: needs inception_path, whose features its statistics are of, "
            "and samples_path, which are compared with them; give both, or leave it empty"
        )
    if config.lpips_path and not config.tokenizer_path:
        raise ValueError(
            f"lpips_path = {config.lpips_path!r}: needs tokenizer_path, whose reconstructions are measured; give it, "
            "or leave lpips_path empty"
        )


def stored_count(path: str) -> int:
    """Images that lie beside the statistics in a file; 0 where it has statistics alone."""
    shape = _reference_shape(path)
    return shape[0] if shape else 0


def check_reference_side(config: EvaluateRun, image_size: int) -> None:
    """Raise ArtefactError when the images of the reference, if it has any, are of another side than the samples:
    networks would see more or less detail in them.
    """
    shape = _reference_shape(config.reference_path) if config.reference_path else ()
    if shape and shape[1:3] != (image_size, image_size):
        height, width = shape[1:3]
        raise ArtefactError(
            f"reference_path = {config.reference_path!r}: its images have {width} x {height} pixels, and the samples "
            f"{image_size} x {image_size}; bring a reference of that size, or one that holds statistics alone"
        )


def _reference_shape(path: str) -> tuple[int, ...]:
    """Shape of the images in a file of statistics; empty where it has none."""
    file = at_hand(to_path(path))
    if not zipfile.is_zipfile(file):
        return ()
    with zipfile.ZipFile(file) as archive:
        has_images = f"{IMAGES_ARRAY}.npy" in archive.namelist()
    return stored_images(file).shape if has_images else ()


class Present(NamedTuple):
    """The facts of an evaluation's inputs; None for those that are not there yet."""

    images: DatasetInfo | None
    samples: Samples | None
    training: DatasetInfo | None


def check_present_inputs(config: EvaluateRun) -> Present:
    """Check those inputs of an evaluation that are there, for a dry run; raises ArtefactError."""

    def is_there(path: str) -> bool:
        return bool(path) and (to_path(path) / artefact.MANIFEST).is_file()

    if not is_there(config.data_path):
        return Present(None, None, None)
    images = measured_images(config)
    has_tokenizer = not config.tokenizer_path or is_there(config.tokenizer_path)
    has_generator = not config.generator_path or is_there(config.generator_path)
    samples = training = None
    has_samples = is_there(config.samples_path) or (
        bool(config.samples_path)
        and to_path(config.samples_path).exists()
        and is_foreign(to_path(config.samples_path))
    )
    if has_samples and has_tokenizer and has_generator:
        samples = measured_samples(config, images)
        check_reference_side(config, samples.image_size)
    if config.generator_path and has_generator and has_tokenizer:
        check_generator(config, images)
    if is_there(config.training_path):
        training = training_images(config, images, samples.image_size if samples else 0)
    if is_there(config.codes_path) and has_tokenizer:
        baseline_codes(config)
    return Present(images, samples, training)


def check_coming_samples(
    config: EvaluateRun, classes: Sequence[str], generator_path: str, image_size: int
) -> DatasetInfo:
    """The facts of the validation shards; raises ArtefactError when they, the training shards or the reference do not
    fit the samples of side `image_size` that the generator of these classes is yet to draw.
    """
    images = check_images(config, image_size)
    check_classes(classes, generator_path, images.classes, config.data_path)
    if config.training_path:
        training_images(config, images, image_size)
    check_reference_side(config, image_size)
    return images


def measured_images(config: EvaluateRun) -> DatasetInfo:
    """The facts of the validation shards; raises ArtefactError where the config asks for ADM's crops and they have
    others, and when the tokenizer that encodes them, if it is there, takes larger images.
    """
    tokenizer = encoding_tokenizer(config)
    if tokenizer is None or not (tokenizer / CONFIG_FILE).is_file():
        return check_images(config, 0)
    check_system(config)
    check_stored_tokenizer(tokenizer)
    return check_images(config, code_layout(tokenizer).image_size)


def encoding_tokenizer(config: EvaluateRun) -> Path | None:
    """The folder of the tokenizer that encodes the validation crops: the measured one, or else the one that lies with
    the generator; None where nothing is encoded.
    """
    if config.tokenizer_path:
        return to_path(config.tokenizer_path)
    return to_path(config.generator_path) / TOKENIZER_FOLDER if config.generator_path else None


def check_generator(config: EvaluateRun, dataset: DatasetInfo) -> None:
    """Raise ArtefactError when the generator is unfinished, of other classes than the validation images of `dataset`,
    or made on codes of another tokenizer than the one that encodes them.
    """
    folder = to_path(config.generator_path)
    artefact.read_manifest(folder, "generator")
    check_classes(read_facts(folder)["classes"], str(folder), dataset.classes, config.data_path)
    tokenizer = find_tokenizer(folder, config.tokenizer_path)
    model = model_config(folder)
    check_fit(model, what_is_decoded(tokenizer))
    if isinstance(model, VARConfig | RQConfig):
        check_vectors(model, empty_tokenizer(tokenizer))
    check_scale(folder)


def check_images(config: EvaluateRun, tokenizer_side: int) -> DatasetInfo:
    """The facts of the validation shards; raises ArtefactError when they are too few, too small for the tokenizer, or
    not what the config asks for; `tokenizer_side` is that of its images, 0 without one.
    """
    folder = to_path(config.data_path)
    images = read_image_dataset(folder)
    if config.adm_protocol:
        check_adm_protocol(images, folder=folder, field="adm_protocol")
    if tokenizer_side:
        check_side(images, folder, tokenizer_side)
    if config.num_images > images.num_images:
        raise ArtefactError(
            f"num_images = {config.num_images}: {folder} holds {images.num_images} images; lower it, 0 takes all"
        )
    return images


def training_images(config: EvaluateRun, dataset: DatasetInfo, image_size: int) -> DatasetInfo:
    """The facts of the training shards; raises ArtefactError when they are of other classes than the validation images
    of `dataset`, too small for crops of `image_size`, too few, or not what the config asks for.
    """
    folder = to_path(config.training_path)
    artefact.read_manifest(folder, "shards")
    training = read_image_dataset(folder)
    if config.adm_protocol:
        check_adm_protocol(training, folder=folder, field="adm_protocol")
    check_classes(training.classes, str(folder), dataset.classes, config.data_path)
    check_side(training, folder, image_size)
    if config.training_images > training.num_images:
        raise ArtefactError(
            f"training_images = {config.training_images}: {folder} holds {training.num_images} images; lower it, 0 "
            "takes all"
        )
    return training


def measured_tokenizer(config: EvaluateRun) -> GloTokTokenizer | PeerTokenizer | None:
    """The measured tokenizer without numbers, for its config, names and rate; None when only samples are measured."""
    return empty_tokenizer(to_path(config.tokenizer_path)) if config.tokenizer_path else None


def check_system(config: EvaluateRun) -> None:
    """Refuse classifiers that would be fitted on codes of training crops alone where the measured tokenizer, if it is
    there, is another system's: only our own have the code vectors for it. Raises ArtefactError.
    """
    folder = to_path(config.tokenizer_path)
    if not takes_training_codes(config) or not (folder / CONFIG_FILE).is_file():
        return
    if system := code_layout(folder).system:
        raise ArtefactError(
            f"training_path = {config.training_path!r}: asks for classifiers on its codes, which GloTok's, LlamaGen's, "
            f"FQGAN's and taming's tokenizers have alone, and {folder} holds one of the system {system}; leave "
            "training_path empty, or pass --probe-images 0"
        )


def baseline_codes(config: EvaluateRun) -> DatasetInfo:
    """The facts of the codes that baselines are drawn from; raises ArtefactError when another tokenizer made them."""
    folder, tokenizer = to_path(config.codes_path), to_path(config.tokenizer_path)
    artefact.read_manifest(folder, "codes")
    codes = read_dataset(folder)
    digest = artefact.sha256_of(tokenizer / WEIGHTS_FILE)
    check_codes(codes, folder, code_layout(tokenizer), tokenizer, digest)
    images = read_image_dataset(to_path(config.data_path))
    check_classes(codes.classes, str(folder), images.classes, config.data_path)
    return codes
