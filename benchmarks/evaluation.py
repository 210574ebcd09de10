"""A whole evaluation of samples against torch-fidelity's `calculate_metrics` on the same images, in one run.

    python -m benchmarks.evaluation --inception-path weights-inception-2015-12-05-6726825d.pth
    python -m benchmarks.evaluation --images 64 192

Both sides read as many samples as real images of 256 x 256 pixels, decode them, and compute FID, Inception Score,
precision and recall through Inception-v3, on CPUs with one thread per worker; ours also takes sFID and FD-EffNet.
Each is run with two numbers of images, and a rate is that of the images between the two: what starts and loads counts
on no side. Without a file the weights are random numbers, which change no rate.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import measured
from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.pool import PoolConfig
from glotok_ray.data.forms import CROP
from glotok_ray.data.records import Row, encode_png, write_dataset, write_shard
from glotok_ray.storage import artefact

SIDE = 256
WORKERS = (1, 2)


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


def peer_case(samples: str, real: str, weights: str) -> tuple[Any, Any]:
    """torch-fidelity in one process with one thread."""
    import torch_fidelity

    torch.set_num_threads(1)
    facts: dict[str, float] = {}

    def run() -> dict[str, float]:
        seconds, found = measured.seconds_of(
            lambda: torch_fidelity.calculate_metrics(
                input1=f"{samples}_files",
                input2=f"{real}_files",
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
        )
        facts["fid"] = found["frechet_inception_distance"]
        return {"total": seconds}

    return run, lambda: facts


def our_case(samples: str, real: str, weights: str, workers: int, output: str) -> tuple[Any, Any]:
    """The job's own function, on a cluster of its own."""
    from glotok_ray.stages import evaluate_images

    torch.set_num_threads(1)
    config = EvaluateRun(
        data_path=real,
        samples_path=samples,
        inception_path=weights,
        output_path=output,
        pool=PoolConfig(
            num_actors=workers, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=16
        ),
    )
    facts: dict[str, float] = {}

    def run() -> dict[str, float]:
        seconds, manifest = measured.seconds_of(lambda: evaluate_images.run(config, fresh=True))
        facts["fid"] = manifest["metrics"]["samples_fid"]
        return {"total": seconds}

    return run, lambda: facts


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
            [name, f"{found['images_per_s']:.2f}", *(f"{each:.1f} s" for each in found["seconds"])]
            for name, found in figures.items()
        ],
        figures=figures,
        ratios={
            f"rate over torch-fidelity's, {name}": found["images_per_s"] / peer
            for name, found in figures.items()
            if name != "torch-fidelity"
        },
    )


def _measure(root: Path, counts: list[int], weights: str) -> dict[str, dict[str, Any]]:
    if not weights:
        weights = str(root / "random.pth")
        write_random_weights(Path(weights))
    figures: dict[str, dict[str, Any]] = {}
    for count in counts:
        samples, real = root / f"samples_{count}", root / f"real_{count}"
        write_images(samples, count, seed=1, kind="samples")
        write_images(real, count, seed=2, kind="shards")
        both = (str(samples), str(real), weights)
        cases = {"torch-fidelity": measured.in_own_process(peer_case, *both, **_ONCE)}
        for workers in WORKERS:
            output = str(root / f"output_{count}_{workers}")
            name = f"this package, {workers} worker{'s' if workers > 1 else ''}"
            cases[name] = measured.in_own_process(our_case, *both, workers, output, **_ONCE)
        for name, case in cases.items():
            found = figures.setdefault(name, {"seconds": [], "fid": []})
            found["seconds"].append(case.total)
            found["fid"].append(case.facts["fid"])
    images = 2 * (counts[-1] - counts[0])
    for found in figures.values():
        found["images_per_s"] = images / (found["seconds"][-1] - found["seconds"][0])
    return figures


_ONCE: dict[str, Any] = {"repeats": 1, "warm_up": False}


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser("A whole evaluation against torch-fidelity's.")
    parser.add_argument(
        "--images",
        type=int,
        nargs=2,
        default=[64, 256],
        help="numbers of samples, and of real images",
    )
    parser.add_argument("--inception-path", default="", help="weights; random without a file")
    return parser


if __name__ == "__main__":
    main()
