"""One entry of metrics.json: a value with the sentence that says how it was obtained.

A metric without its protocol cannot be compared with another, so the two are written together.
"""

import math
from collections.abc import Mapping
from typing import Any

Metrics = dict[str, dict[str, Any]]


def metric_entry(
    label: str,
    value: float | None,
    protocol: str,
    deviation: float | None = None,
    *,
    chance: float | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One entry of metrics.json; a value that is not finite becomes null, which JSON can hold, and the protocol then
    begins with what it was. A caller that passes None gives the reason in the protocol. A deviation that is not finite
    is left out.

    `chance` is what a model that learned nothing would score; the protocol says how it is known. `facts` are those
    parts of the protocol that two values must share to be compared, as data.
    """
    finite = value is not None and math.isfinite(value)
    if value is not None and not finite:
        protocol = f"Undefined here (the value is {value}). {protocol}"
    entry: dict[str, Any] = {
        "label": label,
        "value": value if finite else None,
        "protocol": protocol,
    }
    if finite and deviation is not None and math.isfinite(deviation):
        entry["std"] = deviation
    if chance is not None:
        entry["chance"] = chance
    if facts is not None:
        entry["facts"] = dict(facts)
    return entry


def with_crops(metrics: Metrics, crops: str) -> Metrics:
    """The metrics, each with a sentence in its protocol on what its validation crops are (`recorded.crops_text`)."""
    return {
        name: {**entry, "protocol": f"{entry['protocol']} The validation crops are {crops}."}
        for name, entry in metrics.items()
    }


def with_samples(metrics: Metrics, sentence: str, sha256: str) -> Metrics:
    """The metrics, those of samples with a sentence in their protocols on what the samples of others are, and with
    their digest among the facts.
    """
    return {
        name: {
            **entry,
            "protocol": f"{entry['protocol']} {sentence}",
            "facts": {**entry.get("facts", {}), "samples_sha256": sha256},
        }
        if name.startswith("samples_")
        else entry
        for name, entry in metrics.items()
    }


def truncation_texts(facts: Mapping[str, Any]) -> list[str]:
    """Top-k and top-p of samples in a few words each, from a metric's facts; empty where neither cuts anything off."""
    return [
        f"{name} {facts[fact]:g}"
        for fact, name, off in (("top_k", "top-k", 0), ("top_p", "top-p", 1))
        if facts.get(fact, off) != off
    ]
