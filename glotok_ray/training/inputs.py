"""What a training reads, held against what the run needs: images or codes, teacher, frozen networks, first weights.

All of it is looked at by the launcher, before a worker starts.
Read next: glotok_ray/training/present_inputs.py, glotok_ray/data/recorded.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glotok_ray.config.overrides import to_dict
from glotok_ray.config.runs import AnyGeneratorRun, FARRun, RQRun, TokenizerRun, VARRun, XARRun
from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.data.codes import COUNTS_FILE
from glotok_ray.data.recorded import check_codes
from glotok_ray.data.records import DATASET, DatasetInfo, read_dataset
from glotok_ray.nn.next_scale import ScaleTokenizer
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.generator import check_fit, check_vectors
from glotok_ray.pretrained.perceptual_files import check_perceptual
from glotok_ray.pretrained.tokenizer import (
    CONFIG_FILE,
    DISCRIMINATOR_FILE,
    WEIGHTS_FILE,
    code_layout,
    empty_tokenizer,
    tokenizer_config,
    what_is_decoded,
)
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.optional_files import optional_file
from glotok_ray.storage.places import to_path
from glotok_ray.storage.weights import check_stored, misfits, stored_shapes
from glotok_ray.teacher.histogram import TeacherHistogram, load_teacher
from glotok_ray.training.present_inputs import check_image_files
from glotok_ray.training.trackers import check_trackers

# Settings of a tokenizer's model that change neither what its weights mean nor their shapes.
_FREE_MODEL_FIELDS = ("dropout", "contrast", "image_size")


def check_inputs(run: TokenizerRun | AnyGeneratorRun) -> None:
    """Look at everything that the run learns from, before a worker starts.

    Warns when the codebook cannot reach the teacher; raises ValueError that names the folder, file or field.
    """
    check_trackers(run.tracking, to_path(run.output_path))
    if isinstance(run, TokenizerRun):
        check_image_files(run)
        check_networks(run)
        check_teacher(run)
        if run.initial_path:
            check_initial(run)
    else:
        fitting_codes(run)
        check_stored(to_path(run.tokenizer_path) / WEIGHTS_FILE)


# ---------------------------------------------------------------------------------------- a tokenizer's


def check_networks(run: TokenizerRun) -> None:
    """The files of networks that the run compares images and codes with."""
    check_perceptual(run.loss)
    contrasts = [item.contrast for item in run.model.codebooks if item.contrast.network]
    if not contrasts:
        return
    # Imported where a run has one: timm and torchvision take seconds, which a dry run need not pay.
    from glotok_ray.teacher.image_vectors import check_image_network

    for contrast in contrasts:
        check_image_network(contrast)


def check_teacher(run: TokenizerRun) -> None:
    """That there is one where the relation loss needs it, and that it fits the codebook."""
    if not run.teacher_path:
        if run.loss.relation_weight > 0:
            raise ValueError(
                f"teacher_path is empty, while loss.relation_weight = {run.loss.relation_weight}: name a teacher "
                "(jobs.build_teacher makes one), or set the weight to 0"
            )
        return
    teacher = teacher_of(run)
    teacher.distribution(run.loss.relation)
    if run.loss.relation_weight > 0:
        codebook = run.model.codebook(run.loss.relation.codebook)
        teacher.reachable(width=codebook.width, size=codebook.size)


def teacher_of(run: TokenizerRun) -> TeacherHistogram:
    """The run's teacher, projected to the codebook's width where `relation.project_teacher` says so."""
    teacher = load_teacher(to_path(run.teacher_path))
    relation = run.loss.relation
    if relation.project_teacher:
        return teacher.projected(run.model.codebook(relation.codebook).width)
    return teacher


def check_initial(run: TokenizerRun) -> None:
    """That the first weights are this model's: under another config, such as another look-up, equal shapes would be
    another model's.
    """
    path = to_path(run.initial_path) / WEIGHTS_FILE
    if not path.is_file():
        raise ArtefactError(
            f"initial_path = {run.initial_path!r}: holds no {WEIGHTS_FILE}; correct it, or leave it empty"
        )
    with torch.device("meta"):
        expected = GloTokTokenizer(run.model).state_dict()
    problems = misfits(stored_shapes(path), expected)
    if problems:
        raise ArtefactError(
            f"{path}: does not fit the run's model: {problems}; take the recipe that made it, or correct initial_path"
        )
    check_stored(path)
    discriminator = optional_file(path.parent, DISCRIMINATOR_FILE)
    if discriminator:
        check_stored(discriminator)
    recorded = path.with_name(CONFIG_FILE)
    if recorded.is_file():
        made = to_dict(tokenizer_config(path.parent))
        for name, there, here in _differences(made, to_dict(run.model)):
            raise ArtefactError(
                f"{recorded}: model.{name} = {there!r}, and the run has {here!r}: its weights would mean another "
                "model; set it alike, or correct initial_path"
            )


def _differences(first: Any, second: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Fields that differ, by dotted name."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [key for key in second if key not in _FREE_MODEL_FIELDS]
        children = [(key, first.get(key), second[key]) for key in keys]
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [(name, first, second)]
        children = [
            (str(place), *pair) for place, pair in enumerate(zip(first, second, strict=True))
        ]
    else:
        return [] if first == second else [(name, first, second)]
    prefix = f"{name}." if name else ""
    return [
        found for key, one, other in children for found in _differences(one, other, prefix + key)
    ]


# ---------------------------------------------------------------------------------------- a generator's


def fitting_codes(run: AnyGeneratorRun) -> DatasetInfo:
    """The codes' facts; raises ArtefactError when they do not fit the tokenizer or the model.

    That no file has changed is the launcher's to verify, once: ten crops of ImageNet are 13 GB of codes, too many to
    be read by every worker before it begins.
    """
    if isinstance(run, VARRun | RQRun):
        return _fitting_grids(run)
    folder, tokenizer = to_path(run.data.train_path), to_path(run.tokenizer_path)
    codes, layout = read_dataset(folder), code_layout(tokenizer)
    check_codes(codes, folder, layout, tokenizer, artefact.sha256_of(tokenizer / WEIGHTS_FILE))
    check_family(run, layout, tokenizer)
    for name, (have, need) in _expected(run, codes, tokenizer).items():
        if have != need:
            raise ArtefactError(
                f"{name} = {have}: the codes in {folder} need {need}; pass --{name.replace('_', '-')} {need}"
            )
    _check_views(run, codes)
    if isinstance(run, FARRun):
        _check_vocabularies(run, layout)
    else:
        read_counts(folder, codes)
    return codes


def _check_views(run: AnyGeneratorRun, codes: DatasetInfo) -> None:
    if run.data.views and codes.views != run.data.views:
        raise ArtefactError(
            f"data.views = {run.data.views!r}: the codes in {run.data.train_path} hold the views {codes.views!r} of "
            f'each image; encode them with --views {run.data.views}, or pass --data.views "", which takes any'
        )


def _fitting_grids(run: VARRun | RQRun) -> DatasetInfo:
    """The facts of codes of several scales or depths; raises ArtefactError as `fitting_codes`."""
    folder, tokenizer = to_path(run.data.train_path), to_path(run.tokenizer_path)
    codes, layout = read_dataset(folder), code_layout(tokenizer)
    check_codes(codes, folder, layout, tokenizer, artefact.sha256_of(tokenizer / WEIGHTS_FILE))
    if len(codes.classes) != run.model.num_classes:
        raise ArtefactError(
            f"model.num_classes = {run.model.num_classes}: the codes in {folder} need {len(codes.classes)}; pass "
            f"--model.num-classes {len(codes.classes)}"
        )
    model = empty_tokenizer(tokenizer)
    check_fit(run.model, what_is_decoded(tokenizer))
    if isinstance(run, RQRun):
        check_vectors(run.model, model)
    elif not isinstance(model, ScaleTokenizer) or model.code_width != run.model.code_width:
        width = getattr(model, "code_width", "none")
        raise ArtefactError(
            f"model.code_width = {run.model.code_width}: the tokenizer {tokenizer} adds its scales up to a map of "
            f"{width} channels; take the tokenizer of the recipe, or pass --model.code-width"
        )
    _check_views(run, codes)
    return codes


def read_counts(folder: Path, codes: DatasetInfo) -> dict[str, np.ndarray]:
    """The uses of every codebook's codes, as many as there are codes in the files; raises ArtefactError otherwise."""
    path = folder / COUNTS_FILE
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file; encode the images again with --fresh")
    with np.load(at_hand(path), allow_pickle=False) as stored:
        return {name: _checked_counts(stored, name, path, codes) for name in codes.code_counts}


def _checked_counts(
    counts: Mapping[str, np.ndarray], name: str, path: Path, codes: DatasetInfo
) -> np.ndarray:
    size, uses = codes.code_counts[name], codes.num_images * codes.num_views * codes.grid_size**2
    found = counts[name] if name in counts else np.zeros(0, np.int64)
    if found.shape != (size,) or found.sum() != uses or found.min() < 0:
        raise ArtefactError(
            f"{path}: {name!r} counts {found.sum()} uses of {found.size} codes, and {DATASET} says {uses} of {size}; "
            "encode the images again with --fresh"
        )
    return found


def _expected(
    run: XARRun | FARRun, codes: DatasetInfo, tokenizer: Path
) -> dict[str, tuple[int, int]]:
    """What the model's config says and what the codes need, by field."""
    fields = {
        "model.grid_size": (run.model.grid_size, codes.grid_size),
        "model.num_classes": (run.model.num_classes, len(codes.classes)),
    }
    if isinstance(run, XARRun):
        fields["model.channels"] = (run.model.channels, tokenizer_config(tokenizer).latent_width)
    return fields


def check_family(run: XARRun | FARRun, layout: CodeLayout, tokenizer: Path) -> None:
    """Refuse codes of another system that the run's family of generators does not learn: xAR draws the latents of our
    own tokenizers alone, and FAR and the GPTs one square per codebook.
    """
    if not layout.system:
        return
    if isinstance(run, XARRun):
        raise ArtefactError(
            f"{tokenizer}: holds a tokenizer of the system {layout.system}, and xAR draws the latents of GloTok's, "
            "LlamaGen's, FQGAN's and taming's alone; take one of those, or a generator that draws codes, such as gpt_b"
        )
    if not layout.grid_size:
        grids = ", ".join(
            f"{name} of {' x '.join(map(str, shape))}" for name, shape in layout.grids.items()
        )
        raise ArtefactError(
            f"{tokenizer}: holds a tokenizer of the system {layout.system}, whose codes are {grids}, and FAR and the "
            "GPTs draw one square per codebook, all of one side; no recipe of jobs.train_generator fits unless it "
            "names this system"
        )


def _check_vocabularies(run: FARRun, layout: CodeLayout) -> None:
    have, need = run.model.code_counts, layout.code_counts
    if have != need:
        raise ArtefactError(
            f"model.codebooks = {have}: the tokenizer {run.tokenizer_path} has {need}; take the recipe that fits, or "
            "pass --model.codebooks.0.size and its like"
        )
