"""Values of files keep to the types of their fields: a wrong word or type is refused by name."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from glotok_ray import config


@dataclass(frozen=True, kw_only=True)
class Part:
    size: int = 1
    width: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Whole:
    part: Part = field(default_factory=Part)
    parts: tuple[Part, ...] = ()
    flag: bool = False
    text: str = ""
    stage: Literal[0, 1, 2] = 0
    words: tuple[Literal["a", "b"], ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    limit: int | None = None
    alpha: float | Literal["auto"] = "auto"
    notes: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            config.TokenizerRun,
            {"scaling": {"precision": "fp16"}},
            r"scaling\.precision = 'fp16': must be one of 'fp32', 'bf16_autocast', 'bf16'",
        ),
        (
            config.TokenizerRun,
            {"scaling": {"use_gpu": "false"}},
            r"scaling\.use_gpu = 'false': must be true or false, without quotes",
        ),
        (
            config.TokenizerRun,
            {"scaling": {"num_workers": "8"}},
            r"scaling\.num_workers = '8': must be a whole number, without quotes",
        ),
        (Whole, {"part": {"size": 8.5}}, r"part\.size = 8\.5: must be a whole number"),
        (Whole, {"part": {"size": float("inf")}}, r"part\.size = inf: must be a whole number"),
        (Whole, {"part": {"size": True}}, r"part\.size = True: must be a whole number"),
        (Whole, {"part": {"size": None}}, r"part\.size = None: must be a whole number"),
        (Whole, {"part": {"width": "1"}}, r"part\.width = '1': must be a number"),
        (Whole, {"part": {"width": True}}, r"part\.width = True: must be a number"),
        (Whole, {"part": {"wdith": 1}}, r"part\.wdith: Part has no field 'wdith'; it has size, w"),
        (Whole, {"part": 3}, r"part = 3: must be a mapping of fields"),
        (Whole, {"parts": [{}, {"size": "1"}]}, r"parts\.1\.size = '1': must be a whole number"),
        (Whole, {"parts": {"size": 1}}, r"parts = \{'size': 1\}: must be a list"),
        (Whole, {"flag": 1}, r"flag = 1: must be true or false"),
        (Whole, {"text": 2.6}, r"text = 2\.6: must be text, in quotes"),
        (Whole, {"stage": 3}, r"stage = 3: must be one of 0, 1, 2"),
        (Whole, {"stage": True}, r"stage = True: must be one of 0, 1, 2"),
        (Whole, {"stage": ["a"]}, r"stage = \['a'\]: must be one of"),
        (Whole, {"words": "ab"}, r"words = 'ab': must be a list"),
        (Whole, {"words": ["a", "c"]}, r"words\.1 = 'c': must be one of 'a', 'b'"),
        (Whole, {"pair": [1, 2, 3]}, r"pair = \[1, 2, 3\]: must be a list of 2"),
        (Whole, {"pair": [1, "2"]}, r"pair\.1 = '2': must be a number"),
        (Whole, {"limit": "1"}, r"limit = '1': must be a whole number.*; or must be null"),
        (Whole, {"alpha": "atuo"}, r"alpha = 'atuo': must be a number.*; or must be 'auto'"),
        (Whole, {"alpha": False}, r"alpha = False: must be a number.*; or must be 'auto'"),
        (Whole, ["text"], r"Whole = \['text'\]: must be a mapping of fields"),
    ],
)
def test_a_wrong_word_or_type_is_refused_by_name(kind: type, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        config.from_dict(kind, values)
    assert "\n" not in str(refusal.value)


def test_values_of_their_types_are_taken() -> None:
    values = {
        "part": {"size": 8.0, "width": 2},
        "parts": [{"size": 2}, {}],
        "flag": True,
        "text": "t",
        "stage": 2,
        "words": ["b"],
        "pair": [1, 2],
        "limit": None,
        "alpha": 3,
        "notes": {"any": ["thing"]},
    }
    found = config.from_dict(Whole, values)
    assert found == Whole(
        part=Part(size=8, width=2.0),
        parts=(Part(size=2), Part()),
        flag=True,
        text="t",
        stage=2,
        words=("b",),
        pair=(1, 2.0),
        limit=None,
        alpha=3.0,
        notes={"any": ["thing"]},
    )
    numbers = (found.part.size, found.part.width, found.pair[1], found.alpha)
    assert [type(number) for number in numbers] == [int, float, float, float]
    assert config.from_dict(Whole, {"limit": 4, "alpha": "auto"}) == Whole(limit=4)
