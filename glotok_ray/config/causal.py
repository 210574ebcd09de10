"""How the causal transformers of other systems differ from LlamaGen's: one section of FARConfig.

Read next: glotok_ray/nn/far.py
"""

from dataclasses import dataclass
from typing import Literal

from glotok_ray.config.rules import require

SECTION = "model.variant"


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalVariantConfig:
    """The block and the place of the class; the defaults are LlamaGen's GPT and FAR."""

    block: Literal["llama", "ibq", "gpt"] = "llama"
    """"llama": RMSNorm, rotary positions and a gated MLP without biases. "ibq": the same, and the class modulates every
    norm and gates what is added (AdaLN). "gpt": LayerNorm, learned positions and an MLP of four times the width with
    exact GELU, all with biases (taming-transformers, VQGAN-LC).
    """
    class_input: Literal["own_table", "among_codes", "after_codes"] = "own_table"
    """Where the embedding of a class lies: in a table of its own with a null label for guidance; in the row of the code
    with the same number (taming-transformers); or in rows behind those of the codes, which the output has too
    (VQGAN-LC). The last two are for block = "gpt" and know no null label, so no guidance.
    """
    unread_positions: int = 0
    """Rows of the learned positions that no input reaches; VQGAN-LC's model has one. 0 without learned positions."""
    gate_scale: float = 1e-3
    """Factor on the initial weights of the gates of "ibq". Other blocks do not read it."""

    def __post_init__(self) -> None:
        is_gpt = self.block == "gpt"
        require(
            is_gpt or self.class_input == "own_table",
            f"{SECTION}.class_input",
            self.class_input,
            f'must be "own_table" with block = {self.block!r}',
        )
        require(
            self.unread_positions >= 0 and (is_gpt or self.unread_positions == 0),
            f"{SECTION}.unread_positions",
            self.unread_positions,
            'must be at least 0, and 0 unless block = "gpt", which alone learns its positions',
        )
        require(
            0 < self.gate_scale <= 1,
            f"{SECTION}.gate_scale",
            self.gate_scale,
            "must be in (0, 1]",
        )

    @property
    def has_null_label(self) -> bool:
        """A label stands for no class, as dropped labels and guidance need it."""
        return self.class_input == "own_table"
