"""Which rows of the paper a finished run stands beside, by what its models are and not by their names.

Read next: glotok_ray/report/paper_tables.py
"""

from collections.abc import Callable, Mapping

from glotok_ray.report.finished_runs import FinishedRun
from glotok_ray.report.linked_models import LinkedTokenizer

_GLOTOK_1X, _GLOTOK_2X, _FQGAN, _LLAMAGEN, _VQGAN = (
    "GloTok",
    "GloTok(2x)",
    "FQGAN-Dual",
    "LlamaGen",
    "VQGAN",
)
# Rows of Tables 1 and 3 by system, counted from 1.
_TABLE_1 = {_VQGAN: 1, _LLAMAGEN: 5, _FQGAN: 13, _GLOTOK_1X: 14, _GLOTOK_2X: 15}
_TABLE_3 = {_LLAMAGEN: 1, _FQGAN: 2, _GLOTOK_2X: 3}
# Rows of Table 2 by architecture, the tokenizer's system and millions of parameters as they are, not as printed.
_TABLE_2 = {
    ("GPT", _LLAMAGEN, 111): 3,
    ("GPT", _LLAMAGEN, 1411): 4,
    ("GPT", _LLAMAGEN, 3097): 5,
    ("FAR", _FQGAN, 417): 12,
    ("FAR", _FQGAN, 901): 13,
    ("FAR", _GLOTOK_1X, 384): 14,
    ("FAR", _GLOTOK_2X, 417): 15,
    ("FAR", _GLOTOK_1X, 859): 16,
    ("xAR", _LLAMAGEN, 173): 17,
    ("xAR", _GLOTOK_1X, 173): 18,
    ("xAR", _GLOTOK_2X, 173): 19,
    ("xAR", _GLOTOK_1X, 1186): 20,
}
# The same of generators whose tokenizers are in no other table, by codes per codebook in place of the system.
_TABLE_2_OTHERS: dict[tuple[str, tuple[int, ...], int], int] = {
    ("GPT", (1024,), 172): 1,
    ("GPT", (100000,), 509): 2,
    ("IBQ", (16384,), 343): 6,
    ("IBQ", (16384,), 2063): 7,
    ("VAR", (4096,), 375): 8,
    ("VAR", (4096,), 310): 9,
    ("VAR", (4096,), 1033): 10,
    ("VAR", (4096,), 2010): 11,
}
_TABLE_4 = {0.0: 1, 0.1: 2, 0.01: 3}
_TABLE_6 = {"fqgan": 1, "imagefolder": 2, "dinov2": 3}
_WIDTH = 8
"""Width of the codes of all systems but VQGAN's."""


def system(tokenizer: LinkedTokenizer) -> str:
    """The system of Table 1 that a tokenizer is, by its codebooks and loss; empty when it is none of them."""
    if tokenizer.model is None:
        return ""
    sizes, widths = tokenizer.sizes, {codebook.width for codebook in tokenizer.model.codebooks}
    if sizes == (16384,):
        return _LLAMAGEN if widths == {_WIDTH} else _VQGAN
    if len(sizes) != 2 or widths != {_WIDTH}:
        return ""
    if sizes == (16384, 16384):
        # GloTok alone adds residual predictors.
        return _GLOTOK_2X if tokenizer.model.residual.enabled else _FQGAN
    if sorted(sizes) == [4096, 12288]:
        return _GLOTOK_1X
    return ""


def belongs(run: FinishedRun, table: int) -> bool:
    """Whether a run has a row in the table at all, beside one of the paper's or below them."""
    if table == 2:
        return run.samples is not None
    if not run.measures_tokenizer:
        return False
    tokenizer = run.tokenizer
    if table == 1:
        return True
    if table == 3:
        return any(name.endswith("_tsne_density_cv") for name in run.metrics)
    if tokenizer is None or tokenizer.model is None:
        return False
    if len(tokenizer.sizes) != 2 or tokenizer.relation_weight is None:
        return False
    without_residual = not tokenizer.model.residual.enabled
    if table == 6:
        return without_residual and tokenizer.relation_weight > 0
    return table == 5 or without_residual


def row_beside(run: FinishedRun, table: int) -> int | None:
    """The paper's row that the run stands beside, from 1; None when no row has its settings."""
    return _BESIDE[table](run)


def _table_1(run: FinishedRun) -> int | None:
    # Ablations of GloTok have its codebooks and are no row of Table 1.
    tokenizer = run.tokenizer
    if tokenizer is None:
        return None
    found = system(tokenizer)
    if found == _GLOTOK_1X and not _is_glotok(tokenizer):
        return None
    return _TABLE_1.get(found)


def _is_glotok(tokenizer: LinkedTokenizer) -> bool:
    enabled = tokenizer.model is not None and tokenizer.model.residual.enabled
    return enabled and tokenizer.relation_weight != 0


def _table_2(run: FinishedRun) -> int | None:
    if run.generator is None or run.tokenizer is None:
        return None
    architecture, millions = run.generator.architecture, round(run.generator.parameters / 1e6)
    if found := system(run.tokenizer):
        return _TABLE_2.get((architecture, found, millions))
    return _TABLE_2_OTHERS.get((architecture, run.tokenizer.sizes, millions))


def _table_3(run: FinishedRun) -> int | None:
    return _TABLE_3.get(system(run.tokenizer)) if run.tokenizer else None


def _table_4(run: FinishedRun) -> int | None:
    tokenizer = run.tokenizer
    if tokenizer is None or tokenizer.relation_weight is None:
        return None
    return _TABLE_4.get(tokenizer.relation_weight)


def _table_5(run: FinishedRun) -> int | None:
    tokenizer = run.tokenizer
    if tokenizer is None or tokenizer.model is None:
        return None
    settings = (bool(tokenizer.relation_weight), tokenizer.model.residual.enabled)
    return {(False, False): 1, (True, False): 2, (True, True): 3}.get(settings)


def _table_6(run: FinishedRun) -> int | None:
    teacher = run.tokenizer.teacher.lower() if run.tokenizer else ""
    return next((row for name, row in _TABLE_6.items() if name in teacher), None)


_BESIDE: Mapping[int, Callable[[FinishedRun], int | None]] = {
    1: _table_1,
    2: _table_2,
    3: _table_3,
    4: _table_4,
    5: _table_5,
    6: _table_6,
}
