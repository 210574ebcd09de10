"""What happens to the codebooks while they train: use, duplicates, and the restart of unused codes.

Counts are exact over their window (all tokens of all workers since the last evaluation or restart).
Read next: glotok_ray/training/tokenizer_step.py
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glotok_ray.config.losses import TokenizerLossConfig
from glotok_ray.config.tokenizer import TokenizerConfig
from glotok_ray.metrics.codebook import codebook_use, duplicate_fraction
from glotok_ray.nn.quantizer import Lookup
from glotok_ray.nn.tokenizer import BranchOutput
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.training.snapshot import Snapshot
from glotok_ray.training.worker import Worker

logger = logging.getLogger(__name__)

# Random codes of eight dimensions have next to none; a collapsing codebook passes this on its way.
_MANY_DUPLICATES = 0.2
_FILE = "code-counts.pt"


class CodebookWatch:
    """Counts how often each code is chosen."""

    def __init__(
        self, config: TokenizerConfig, weights: TokenizerLossConfig, worker: Worker
    ) -> None:
        self._weights, self._worker = weights, worker
        self._lookups: dict[str, Lookup] = {
            codebook.name: codebook.lookup for codebook in config.codebooks
        }
        sizes = {codebook.name: codebook.size for codebook in config.codebooks}
        self.counts = {
            name: torch.zeros(size, dtype=torch.int64, device=worker.device)
            for name, size in sizes.items()
        }
        self._since_restart = {name: counts.clone() for name, counts in self.counts.items()}
        self._latents: dict[str, Tensor] = {}

    @torch.no_grad()
    def count(self, branches: Mapping[str, BranchOutput]) -> None:
        """Take the tokens of one micro batch."""
        for name, branch in branches.items():
            indices = branch.indices.flatten()
            ones = torch.ones_like(indices)
            self.counts[name].index_add_(0, indices, ones)
            if self._weights.restart_every_steps:
                self._since_restart[name].index_add_(0, indices, ones)
                self._latents[name] = branch.latent.detach().permute(0, 2, 3, 1).flatten(0, 2)

    def metrics(self, codebooks: Mapping[str, Float[Tensor, "n d"]]) -> dict[str, float]:
        """Usage and perplexity since the last call, and the share of duplicate codes, per codebook; `codebooks` are as
        the look-up compares them.
        """
        metrics: dict[str, float] = {}
        for name, codebook in codebooks.items():
            counts = self._worker.all_sum(self.counts[name])
            self.counts[name] = torch.zeros_like(counts)
            duplicates = duplicate_fraction(
                codebook, self._weights.relation.duplicate_cosine, self._lookups[name]
            )
            self._warn(name, duplicates)
            metrics[f"{name}_duplicates"] = duplicates
            if counts.sum() > 0:
                use = codebook_use(counts.cpu().numpy())
                metrics |= {f"{name}_usage": use.usage, f"{name}_perplexity": use.perplexity}
        return metrics

    def _warn(self, name: str, duplicates: float) -> None:
        if duplicates > _MANY_DUPLICATES and self._worker.rank == 0:
            logger.warning(
                "%s codebook: %.0f %% of the codes have a neighbour as near as unit vectors of cosine %g. If the "
                "teacher is out of this codebook's reach, lower loss.relation_weight, or pass "
                "--loss.relation.project-teacher",
                name,
                100 * duplicates,
                self._weights.relation.duplicate_cosine,
            )

    @torch.no_grad()
    def restart_unused(
        self, replace_rows: Callable[[str, Tensor, Tensor], None], step: int
    ) -> dict[str, Tensor]:
        """Every `restart_every_steps` steps, move codes that no token chose since the last time onto tokens of this
        batch, by `replace_rows(parameter, rows, values)`; returns how many, per codebook.

        At most as many codes move as the last micro batches of all workers hold tokens, so no two get the same.
        """
        every = self._weights.restart_every_steps
        if not every or (step + 1) % every:
            return {}
        moved = {}
        for name, counts in self._since_restart.items():
            unused = torch.nonzero(self._worker.all_sum(counts) == 0).flatten()
            counts.zero_()
            tokens = self._shared_tokens(self._latents[name], len(unused))
            rows = unused[: len(tokens)]
            if len(rows):
                replace_rows(f"branches.{name}.quantizer.codebook", rows, tokens)
            moved[f"{name}_restarted"] = tokens.new_tensor(float(len(rows)))
        return moved

    def snapshot(self, into: Snapshot) -> None:
        """Add the counts of all workers together, so that a resumed run restarts the codes that the uninterrupted one
        would, by however many workers; every worker calls it.
        """
        state = {
            kind: {name: self._worker.all_sum(counts) for name, counts in kept.items()}
            for kind, kept in (("evaluation", self.counts), ("restart", self._since_restart))
        }
        if self._worker.rank == 0:
            into.add_state(_FILE, state)

    def load(self, folder: Path) -> None:
        """Restore what `snapshot` added: rank 0 takes all counts, as only their sum is read."""
        stored = torch.load(
            at_hand(folder / _FILE), weights_only=True, map_location=self._worker.device
        )
        self.counts, self._since_restart = stored["evaluation"], stored["restart"]
        if self._worker.rank:
            for counts in (*self.counts.values(), *self._since_restart.values()):
                counts.zero_()

    def _shared_tokens(self, latents: Float[Tensor, "t d"], wanted: int) -> Float[Tensor, "m d"]:
        """Up to `wanted` tokens drawn from those of all workers, equal on every worker."""
        world, rank = self._worker.world_size, self._worker.rank
        each = min(-(-wanted // world), len(latents))
        order: Int[Tensor, " t"] = torch.randperm(len(latents))[:each]
        # Summed with zeros, every worker's draw arrives everywhere.
        tokens = latents.new_zeros(world, each, latents.shape[1])
        tokens[rank] = latents[order.to(latents.device)]
        return self._worker.all_sum(tokens).flatten(0, 1)[:wanted]
