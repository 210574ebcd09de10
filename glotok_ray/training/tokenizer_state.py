"""What changes while a tokenizer is trained, and what of it is written: checkpoints, and the folder that is exported.

Read next: glotok_ray/training/tokenizer_step.py
"""

import contextlib
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from glotok_ray.config.overrides import to_dict
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.pretrained.tokenizer import CONFIG_FILE, DISCRIMINATOR_FILE, WEIGHTS_FILE
from glotok_ray.storage import artefact
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.training.codebook_watch import CodebookWatch
from glotok_ray.training.ema import make_average, whole_tensors
from glotok_ray.training.engine import Engine
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import Worker

_LECAM_FILE = "lecam.pt"


class TokenizerState:
    """Both engines, the averaged weights, the use of the codes and LeCam's anchors."""

    def __init__(
        self, config: TokenizerRun, tokenizer: Engine, discriminator: Engine, worker: Worker
    ) -> None:
        self.config, self.tokenizer, self.discriminator = config, tokenizer, discriminator
        self._worker = worker
        self.watch = CodebookWatch(config.model, config.loss, worker)
        self.average = make_average(tokenizer, config.ema_decay, warmup=config.ema_warmup)
        self.lecam_anchors: Float[Tensor, " 2"] | None = None
        """Moving averages of the discriminator's mean logits, real and fake; None where LeCam is off."""
        if config.loss.lecam_weight:
            self.lecam_anchors = torch.zeros(2, device=worker.device)

    @property
    def model(self) -> GloTokTokenizer:
        """The tokenizer inside its engine."""
        return self.tokenizer.module  # type: ignore[return-value]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Both engines share the schedule."""
        self.tokenizer.set_learning_rate(learning_rate)
        self.discriminator.set_learning_rate(learning_rate)

    def replace_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Overwrite rows of a parameter of the tokenizer, of its moments (with zeros) and of its average."""
        self.tokenizer.replace_rows(name, rows, values)
        if self.average is not None:
            self.average.replace_rows(name, rows, values)

    def export(self, folder: Path) -> None:
        """Write what `GloTokTokenizer.from_pretrained` reads, with averaged weights where an average is kept, and the
        discriminator's weights, from which a run may start; every worker calls it, and rank 0 writes.
        """
        exported = Snapshot()
        self._add_export(exported)
        exported.write(folder)

    def _add_export(self, into: Snapshot) -> None:
        keep = self._worker.rank == 0
        with self.average.in_place() if self.average else contextlib.nullcontext():
            into.add_weights(WEIGHTS_FILE, whole_tensors(self.tokenizer), keep=keep)
        into.add_weights(DISCRIMINATOR_FILE, whole_tensors(self.discriminator), keep=keep)
        if keep:
            into.add_bytes(CONFIG_FILE, artefact.json_bytes(to_dict(self.config)))

    def snapshot(self, into: Snapshot) -> None:
        """Add this worker's part of all that a run goes on with, and an export; every worker calls it."""
        self._add_export(into)
        self.tokenizer.snapshot(into.within("tokenizer"))
        self.discriminator.snapshot(into.within("discriminator"))
        self.watch.snapshot(into)
        if self.average is not None:
            self.average.snapshot(into, self._worker.rank)
        if self._worker.rank == 0 and self.lecam_anchors is not None:
            into.add_state(_LECAM_FILE, self.lecam_anchors)

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added."""
        self.tokenizer.load(folder / "tokenizer")
        self.discriminator.load(folder / "discriminator")
        self.watch.load(folder)
        if self.average is not None:
            self.average.load(folder)
        if self.lecam_anchors is not None:
            self.lecam_anchors = torch.load(
                at_hand(folder / _LECAM_FILE), weights_only=True, map_location=self._worker.device
            )
