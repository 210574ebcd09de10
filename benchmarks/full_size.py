"""A generator at full size on CPUs: real optimizer steps, a kill, a resumption, and the memory of it all.

    python -m benchmarks.full_size xar_b --zero-stage 2
    python -m benchmarks.full_size xar_h --sample

The first trains on random codes with `jobs.train_generator`, kills the run after its first checkpoint, lets the same
command go on, and compares the memory that the run reports with what `--dry-run` expects. The second draws a image
with random weights. Neither is part of `make test`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks import measured
from glotok_ray.config import (
    FARRun,
    FlowSamplerConfig,
    TokenizerConfig,
    TokenSamplerConfig,
    XARRun,
    override,
)
from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.data.codes import write_code_dataset, write_code_shard
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.generator import build_generator
from glotok_ray.pretrained.tokenizer import WEIGHTS_FILE
from glotok_ray.recipes import train_generator as generators
from glotok_ray.recipes import train_tokenizer as tokenizers
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.storage import artefact
from glotok_ray.training.checkpoint import checkpoint_step
from glotok_ray.training.metrics_file import EVENT
from glotok_ray.training.peak_memory import PeakMemory, count_parameters

ROOT = Path(__file__).parents[1]
MEMORY = "memory/peak_gib"
# Two steps make an epoch, after which the run saves; it is killed after the third and ends with the fourth.
_STEPS_PER_EPOCH, _LAST_STEP = 2, 4
# Encoder and decoder have no part in the training on codes, so they may be as small as they get.
SMALL_TRUNK = {
    "autoencoder.base_channels": 32,
    "autoencoder.channel_multipliers": (1, 1, 1, 1, 1),
    "autoencoder.num_res_blocks": 1,
    "adapter.depth": 0,
}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a killed and resumed training showed."""

    parameters: int
    seconds_per_step: float
    reported_gib: float
    """The larger of what the run reported before it was killed and after it was resumed."""
    before_gib: float
    resumed_gib: float
    expected_gib: float
    saved_step: int
    """The step of the checkpoint from which the second run went on."""
    last_step: int

    @property
    def ratio(self) -> float:
        """Expected over reported memory."""
        return self.expected_gib / self.reported_gib


def main() -> None:
    """Train or sample, as the arguments say."""
    # So that the job does not outlive a benchmark that is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments, arguments.overrides = _parser().parse_known_args()
    recipe = generators.RECIPES[arguments.recipe]()
    if arguments.sample:
        _answer_sampled(arguments, recipe)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        trained = train(arguments, recipe, Path(folder))
    row = [
        arguments.recipe,
        f"{trained.parameters / 1e6:.0f} M",
        str(arguments.zero_stage),
        arguments.precision,
        str(arguments.workers),
        f"{trained.seconds_per_step:.1f}",
        f"{trained.before_gib:.2f}",
        f"{trained.resumed_gib:.2f}",
        f"{trained.expected_gib:.2f}",
    ]
    columns = ("recipe", "parameters", "stage", "precision", "workers", "s / step")
    measured.answer(
        as_json=arguments.json,
        columns=(*columns, "GiB reported", "GiB resumed", "GiB expected"),
        rows=[row],
        figures=vars(trained),
        ratios={"expected / reported memory": trained.ratio},
    )
    if not arguments.json:
        sys.stdout.write(
            f"killed after step {trained.saved_step + 1}, resumed at step {trained.saved_step}, "
            f"ended at step {trained.last_step}\n"
        )


def train(arguments: argparse.Namespace, recipe: XARRun | FARRun, folder: Path) -> Trained:
    """Run the job, kill it, run it again; raises SystemExit with the end of its log when it fails."""
    tokenizer = override(tokenizer_config(recipe), SMALL_TRUNK)
    write_tokenizer(folder / "tokenizer", tokenizer)
    write_codes(
        folder / "codes", folder / "tokenizer", tokenizer, _STEPS_PER_EPOCH * arguments.batch
    )
    job = Job(command(arguments, folder), folder, default_malloc=arguments.default_malloc)
    dry_run = job.dry_run()
    run = folder / "run"
    try:
        job.start()
        # The checkpoint is written beside the step after it.
        job.wait_until(
            lambda: last_step(run) > _STEPS_PER_EPOCH and any((run / "checkpoints").glob("step-*"))
        )
        job.kill()
        before = metric_lines(run)
        saved = checkpoint_step(max((run / "checkpoints").glob("step-*")))
        job.start()
        job.wait()
    finally:
        job.kill()
    lines = metric_lines(run)
    kept = [line for line in lines if line["step"] <= saved]
    if kept != [line for line in before if line["step"] <= saved]:
        raise SystemExit(f"full_size: the resumed run did not go on from step {saved}")
    resumed = lines[len(kept) :]
    rates = [line["time/images_per_s"] for line in (*before[1:], *resumed[1:]) if MEMORY in line]
    peaks = [max(line[MEMORY] for line in part if MEMORY in line) for part in (before, resumed)]
    return Trained(
        parameters=dry_run["parameters"],
        seconds_per_step=arguments.batch / float(np.median(rates)),
        reported_gib=max(peaks),
        before_gib=peaks[0],
        resumed_gib=peaks[1],
        expected_gib=dry_run["memory_per_worker_gib"],
        saved_step=saved,
        last_step=int(lines[-1]["step"]),
    )


def command(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The job's command line."""
    settings: dict[str, Any] = {
        "name": "run",
        "output-path": folder,
        "tokenizer-path": folder / "tokenizer",
        "data.train-path": folder / "codes",
        "data.num-train-images": 0,
        "schedule.global-batch-size": arguments.batch,
        "schedule.micro-batch-size": max(1, arguments.batch // arguments.workers),
        "schedule.log-every-steps": 1,
        "schedule.checkpoint-every-epochs": 1,
        "schedule.checkpoints-to-keep": 1,
        "schedule.stop-after-steps": _LAST_STEP,
        "scaling.num-workers": arguments.workers,
        "scaling.cpus-per-worker": 1,
        "scaling.threads-per-worker": arguments.threads,
        "scaling.zero-stage": arguments.zero_stage,
        "scaling.precision": arguments.precision,
        "scaling.bucket-elements": arguments.bucket_elements,
        "scaling.max-failures": 0,
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    options += ["--scaling.no-use-gpu"]
    if arguments.recompute:
        options += ["--scaling.activation-checkpointing"]
    start = [sys.executable, "-m", "jobs.train_generator", arguments.recipe]
    return [*start, *options, *arguments.overrides]


class Job:
    """The training job in a session of its own, with all that it starts."""

    def __init__(self, command: list[str], folder: Path, *, default_malloc: bool) -> None:
        self._command, self._log = command, folder / "log.txt"
        self._environment = dict(os.environ)
        if not default_malloc:
            # Else glibc keeps freed tensors of up to 32 MiB for later, and resident memory counts them.
            self._environment["MALLOC_MMAP_THRESHOLD_"] = str(2**18)
        self._process: subprocess.Popen[bytes] | None = None

    def dry_run(self) -> dict[str, Any]:
        """What --dry-run answers."""
        answer = subprocess.run(
            [*self._command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if answer.returncode:
            raise SystemExit(answer.stderr)
        return json.loads(answer.stdout)

    def start(self) -> None:
        """Start the job."""
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until(self, is_reached: Any) -> None:
        """Wait for a condition; raises SystemExit when the job ends first."""
        while not is_reached():
            if self._running().poll() is not None:
                self._fail("ended too early")
            time.sleep(0.2)

    def wait(self) -> None:
        """Wait for the end; raises SystemExit when the job failed."""
        if self._running().wait():
            self._fail(f"failed with code {self._running().returncode}")

    def kill(self) -> None:
        """Kill the job and all processes under it, as a machine that fails does; one that has ended stays ended."""
        if self._process is None or self._process.poll() is not None:
            return
        running, started = self._process, self.processes()
        for process in started:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        running.wait()
        psutil.wait_procs(started[1:], timeout=60)

    def processes(self) -> list[psutil.Process]:
        """The driver and all that it has started; raises SystemExit when it has ended."""
        driver = self._running()
        if driver.poll() is not None:
            self._fail(f"ended with code {driver.returncode}")
        found = psutil.Process(driver.pid)
        return [found, *found.children(recursive=True)]

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _fail(self, what: str) -> None:
        raise SystemExit(f"full_size: the job {what}\n{self._log.read_text()[-3000:]}")


def metric_lines(run: Path) -> list[dict[str, Any]]:
    """The whole lines of figures in a run's metrics.jsonl; none when there is no file yet."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]
    return [line for line in lines if EVENT not in line]


def last_step(run: Path) -> int:
    """Optimizer steps that a run has logged."""
    return max((int(line["step"]) for line in metric_lines(run)), default=0)


def tokenizer_config(recipe: XARRun | FARRun) -> TokenizerConfig:
    """The tokenizer whose codes a recipe is for."""
    name = Path(recipe.tokenizer_path).name.removesuffix("_imported")
    if name not in tokenizers.RECIPES:
        raise SystemExit(f"full_size: the recipe's tokenizer {name!r} is of no published size")
    return tokenizers.RECIPES[name]().model


def write_tokenizer(folder: Path, config: TokenizerConfig) -> None:
    """A finished tokenizer with random weights."""
    torch.manual_seed(0)
    GloTokTokenizer(config).save_pretrained(folder)
    artefact.write_manifest(folder, "tokenizer")


def write_codes(folder: Path, tokenizer: Path, config: TokenizerConfig, num_images: int) -> None:
    """Random codes of `num_images` images of a thousand classes, as `jobs.encode_images` leaves them."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    shape = (num_images, config.num_tokens)
    codes = {
        name: draw.integers(size, size=shape).astype(np.uint16)
        for name, size in config.code_counts.items()
    }
    keys = [str(image) for image in range(num_images)]
    labels = draw.integers(1000, size=num_images)
    shard = write_code_shard(
        folder / "shard-00000.parquet", keys, labels, codes, CodeLayout.glotok(config)
    )
    write_code_dataset(
        folder,
        [shard],
        CodeLayout.glotok(config),
        num_views=1,
        classes=[str(index) for index in range(1000)],
        tokenizer_sha256=artefact.sha256_of(tokenizer / WEIGHTS_FILE),
        details={"views": "center"},
    )
    artefact.write_manifest(folder, "codes", num_images=num_images)


def _answer_sampled(arguments: argparse.Namespace, recipe: XARRun | FARRun) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    memory = PeakMemory(torch.device("cpu"))
    torch.manual_seed(0)
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    tokenizer = GloTokTokenizer(tokenizer_config(recipe))
    made, generator = measured.seconds_of(lambda: build_generator(recipe.model).to(dtype))
    images = ImageGenerator(
        generator.requires_grad_(False).eval(), tokenizer.requires_grad_(False).eval()
    )
    sampler = (
        FlowSamplerConfig(num_steps=arguments.steps)
        if isinstance(recipe, XARRun)
        else TokenSamplerConfig()
    )
    seconds, image = measured.seconds_of(lambda: images.generate([207], seed=0, sampler=sampler))
    figures = {
        "parameters": count_parameters(generator),
        "seconds": seconds,
        "seconds_to_make": made,
        "peak_gib": memory.gib(),
        "shape": list(image.shape),
        "standard_deviation": float(image.std()),
    }
    row = [
        arguments.recipe,
        f"{figures['parameters'] / 1e6:.0f} M",
        arguments.precision,
        str(arguments.steps) if isinstance(recipe, XARRun) else "-",
        "x".join(str(side) for side in image.shape[1:]),
        f"{made:.1f}",
        f"{seconds:.1f}",
        f"{figures['peak_gib']:.2f}",
    ]
    columns = ("recipe", "parameters", "precision", "steps", "image", "s to make", "s to sample")
    measured.answer(
        as_json=arguments.json, columns=(*columns, "GiB"), rows=[row], figures=figures, ratios={}
    )


def _parser() -> argparse.ArgumentParser:
    parser = measured.parser(str(__doc__).splitlines()[0])
    published = [name for name in generators.RECIPES if not name.startswith("quickstart")]
    parser.add_argument("recipe", choices=published, metavar="RECIPE", help=", ".join(published))
    for name, default, text in (
        ("--workers", 2, "processes that train"),
        ("--batch", 2, "images per optimizer step, a multiple of the workers"),
        ("--threads", 1, "torch threads per process"),
        ("--bucket-elements", 50_000_000, "scaling.bucket_elements"),
        ("--steps", 4, "with --sample: solver steps per entity of xAR"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16_autocast", "bf16"), default="fp32")
    parser.add_argument("--recompute", action="store_true", help="scaling.activation_checkpointing")
    parser.add_argument(
        "--default-malloc",
        action="store_true",
        help="leave glibc's malloc as it is, which keeps more than torch needs",
    )
    parser.add_argument("--folder", help="where the temporary folder is made; the system's own")
    parser.add_argument("--sample", action="store_true", help="draw a image in place of training")
    return parser


if __name__ == "__main__":
    main()
