"""Those of a training's inputs that are there already, held against the run: what a dry run looks at.

What needs torch is imported where there is something to look at, so that a dry run on an empty disk answers at once.
Read next: glotok_ray/training/inputs.py
"""

import logging

from glotok_ray.config.runs import AnyGeneratorRun, TokenizerRun
from glotok_ray.data.recorded import check_adm_protocol, check_side, read_image_dataset
from glotok_ray.data.records import DATASET
from glotok_ray.pretrained.perceptual_files import check_perceptual
from glotok_ray.storage.artefact import MANIFEST
from glotok_ray.storage.places import to_path
from glotok_ray.training.trackers import check_trackers

logger = logging.getLogger(__name__)


def check_present_inputs(run: TokenizerRun | AnyGeneratorRun) -> None:
    """As `check_inputs` (training/inputs.py), for those of the run's input folders that are there."""
    check_trackers(run.tracking, to_path(run.output_path))
    if isinstance(run, TokenizerRun):
        _check_present_of_tokenizer(run)
    elif _is_finished(run.data.train_path) and _is_finished(run.tokenizer_path):
        from glotok_ray.training.inputs import fitting_codes

        fitting_codes(run)


def _check_present_of_tokenizer(run: TokenizerRun) -> None:
    check_image_files(run)
    has_teacher, has_initial = _is_finished(run.teacher_path), _is_finished(run.initial_path)
    has_networks = any(item.contrast.network for item in run.model.codebooks)
    if not (has_networks or has_teacher or has_initial):
        check_perceptual(run.loss)
        return
    from glotok_ray.training import inputs

    inputs.check_networks(run)
    if has_teacher:
        inputs.check_teacher(run)
    if has_initial:
        inputs.check_initial(run)


def _is_finished(path: str) -> bool:
    return bool(path) and (to_path(path) / MANIFEST).is_file()


def check_image_files(run: TokenizerRun) -> None:
    """Side and classes of the images to train on and to validate with, those that are there."""
    paths = filter(None, (run.data.train_path, run.data.validation_path))
    found = {
        to_path(path): read_image_dataset(to_path(path))
        for path in paths
        if (to_path(path) / DATASET).is_file()
    }
    for folder, dataset in found.items():
        if run.data.adm_protocol:
            check_adm_protocol(dataset, folder=folder, field="data.adm_protocol")
        check_side(dataset, folder, run.model.autoencoder.image_size)
    if len({dataset.classes for dataset in found.values()}) > 1:
        # No label is learned from; but more often than not one of the paths is wrong.
        folders = " and ".join(str(folder) for folder in found)
        logger.warning(
            "%s: have different classes; is one of the paths another data set's?", folders
        )
