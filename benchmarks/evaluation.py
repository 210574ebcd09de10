"""A whole evaluation of samples against torch-fidelity's `calculate_metrics` on the same images, in one run.

    python -m benchmarks.evaluation --inception-path weights-inception-2015-12-05-6726825d.pth
    python -m benchmarks.evaluation --images 32 416      # twice as long, and steadier

Both sides read as many samples as real images of 256 x 256 pixels, decode them, and compute FID, Inception Score,
precision and recall through Inception-v3, on CPUs with one thread per worker; ours also takes sFID and FD-EffNet.
Each side is a process that measures two numbers of images, one after the other, and a rate is that of the images
between the two: what starts and loads counts on no side. Without a file the weights are random numbers, which change no
rate. The two bounds are those of this package's issue on evaluations; all takes about five minutes on two idle cores.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import measured
from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.pool import PoolConfig
from glotok_ray.data.forms import CROP
from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.storage import artefact

SIDE = 256
BOUNDS = {1: 1.0, 2: 1.6}
"""The least rate over torch-fidelity's, by the number of workers."""


def write_images(folder: Path, count: int, *, seed: int, kind: str) -> None:
    """A folder of shards, or of samples, and the same images as PNG files in `files` beside it."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    images += generator.integers(0, 16, images.shape, dtype=np.uint8)
    folder.mkdir(parents=True)
    files = folder.with_name(f"{folder.name}_files")
    files.mkdir()
    encoded = [encode_png(image) for image in images]
    for number, data in enumerate(encoded):
        (files / f"{number:06d}.png").write_bytes(data)
    name = "samples.parquet" if kind == "samples" else "part-00000.parquet"
    shard = write_shard(
        folder / name, [Row(str(number), data, 0) for number, data in enumerate(encoded)]
    )
    write_dataset(folder, classes=["noise"], form=CROP, image_size=SIDE, shards=[shard], details={})
    facts: dict[str, Any] = {}
    if kind == "samples":
        np.savez(folder / "samples.npz", arr_0=images)
        facts = {"num_images": count, "tokenizer_sha256": "0" * 64}
    artefact.write_manifest(folder, kind, **facts)


def write_random_weights(path: Path) -> None:
    """A state dict of FID's Inception-v3 without meaning."""
    from glotok_ray.pretrained.inception import empty_network

    network = empty_network().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for name, values in state.items():
        if not values.is_floating_point():
            values.zero_()
        elif name.endswith("running_var"):
            values.fill_(1)
        else:
            values.normal_(0, 0.05, generator=generator)
    torch.save(state, path)


class Images(NamedTuple):
    """The folders of so many samples, and of as many real images."""

    count: int
    samples: str
    real: str


def peer_case(sets: Sequence[Images], weights: str) -> tuple[Any, Any]:
    """torch-fidelity in one process with one thread; seconds by the number of images."""
    import torch_fidelity

    torch.set_num_threads(1)
    facts: dict[str, float] = {}

    def measure(images: Images) -> None:
        found = torch_fidelity.calculate_metrics(
            input1=f"{images.samples}_files",
            input2=f"{images.real}_files",
            isc=True,
            fid=True,
            prc=True,
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=weights,
            cuda=False,
            cache=False,
            save_cpu_ram=True,
            verbose=False,
        )
        facts[f"fid_{images.count}"] = found["frechet_inception_distance"]

    return lambda: _seconds(measure, sets), lambda: facts


def _seconds(measure: Callable[[Images], None], sets: Sequence[Images]) -> dict[str, float]:
    return {
        str(images.count): measured.seconds_of(lambda: measure(images))[0]  # noqa: B023
        for images in sets
    }


def our_case(sets: Sequence[Images], weights: str, workers: int, output: str) -> tuple[Any, Any]:
    """The job's own function, on a cluster of its own; seconds by the number of images."""
    from glotok_ray.on_ray import cluster
    from glotok_ray.stages import evaluate_images

    torch.set_num_threads(1)
    cluster.connect()
    facts: dict[str, float] = {}

    def measure(images: Images) -> None:
        config = EvaluateRun(
            data_path=images.real,
            samples_path=images.samples,
            inception_path=weights,
            output_path=f"{output}_{images.count}",
            pool=PoolConfig(
                num_actors=workers,
                use_gpu=False,
                cpus_per_actor=1,
                threads_per_actor=1,
                batch_size=16,
            ),
        )
        manifest = evaluate_images.run(config)
        facts[f"fid_{images.count}"] = manifest["metrics"]["samples_fid"]

    return lambda: _seconds(measure, sets), lambda: facts


def main() -> None:
    """Run both sides at both numbers of images and print the rates."""
    arguments = _parser().parse_args()
    root = Path(tempfile.mkdtemp(prefix="evaluation_"))
    try:
        figures = _measure(root, arguments.images, arguments.inception_path)
    finally:
        shutil.rmtree(root)
    peer = figures["torch-fidelity"]["images_per_s"]
    measured.answer(
        as_json=arguments.json,
        columns=("side", "images/s", *(f"{count} + {count} images" for count in arguments.images)),
        rows=[
            [
                name,
                f"{found['images_per_s']:.2f}",
                *(f"{each:.1f} s" for each in found["seconds"].values()),
            ]
            for name, found in figures.items()
        ],
        figures=figures,
        ratios={
            f"rate over torch-fidelity's, {_side(workers)} (bound {bound})": figures[
                _side(workers)
            ]["images_per_s"]
            / peer
            for workers, bound in BOUNDS.items()
        },
    )


def _measure(root: Path, counts: list[int], weights: str) -> dict[str, dict[str, Any]]:
    if not weights:
        weights = str(root / "random.pth")
        write_random_weights(Path(weights))
    sets = []
    for count in counts:
        images = Images(count, str(root / f"samples_{count}"), str(root / f"real_{count}"))
        write_images(Path(images.samples), count, seed=1, kind="samples")
        write_images(Path(images.real), count, seed=2, kind="shards")
        sets.append(images)
    cases = {"torch-fidelity": measured.in_own_process(peer_case, sets, weights, **_ONCE)}
    for workers in BOUNDS:
        output = str(root / f"output_{workers}")
        case = measured.in_own_process(our_case, sets, weights, workers, output, **_ONCE)
        cases[_side(workers)] = case
    few, many = map(str, counts)
    between = 2 * (counts[1] - counts[0])
    return {
        name: {
            "seconds": case.seconds,
            **case.facts,
            "images_per_s": between / (case.seconds[many] - case.seconds[few]),
        }
        for name, case in cases.items()
    }


def _side(workers: int) -> str:
    return f"this package, {workers} worker{'s' if workers > 1 else ''}"


_ONCE: dict[str, Any] = {"repeats": 1, "warm_up": False}


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser("A whole evaluation against torch-fidelity's.")
    parser.add_argument(
        "--images",
        type=int,
        nargs=2,
        default=[32, 224],
        help="numbers of samples, and of real images",
    )
    parser.add_argument("--inception-path", default="", help="weights; random without a file")
    return parser


if __name__ == "__main__":
    main()
