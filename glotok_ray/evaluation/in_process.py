"""An evaluation of reconstructions in this very process, by the code and the protocols of the job `evaluate_images`.

For models so small that the start of an actor costs more than the work. Read next: glotok_ray/evaluation/measure.py
"""

from pathlib import Path

import torch

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.data.recorded import crops_text, read_image_dataset
from glotok_ray.evaluation.entries import Metrics, with_crops
from glotok_ray.evaluation.extractors import build_extractors, networks_of
from glotok_ray.evaluation.measure import BlockMeasurement
from glotok_ray.evaluation.metrics import metrics_of
from glotok_ray.evaluation.parts import planned_part, write_part
from glotok_ray.evaluation.plan import plan, units_of
from glotok_ray.evaluation.streams import open_measured
from glotok_ray.evaluation.uniformity_metrics import tsne_draw
from glotok_ray.storage.places import remove_tree, to_path


def measure_reconstructions(config: EvaluateRun, parts: Path, device: torch.device) -> Metrics:
    """The metrics that `evaluate_images` would write of `config.tokenizer_path`, whose samples_path is empty; what is
    measured lies in the folder `parts` meanwhile.
    """
    remove_tree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    extractors = build_extractors(config, device)
    images = read_image_dataset(to_path(config.data_path))
    blocks, image_size = plan(config)
    measure = BlockMeasurement(
        config, extractors, image_size=image_size, kept_images=0, measures_retention=False
    )
    planned = [(unit, planned_part(unit, parts.name)) for unit in units_of(blocks)]
    for unit, part in planned:
        write_part(parts, part, measure(unit))
    metrics = metrics_of(
        open_measured(parts, [part for _, part in planned]),
        config,
        image_size,
        lambda draws: [tsne_draw(draw) for draw in draws],
        num_classes=len(images.classes),
        networks=networks_of(extractors),
    )
    remove_tree(parts)
    return with_crops(metrics, crops_text(images))
