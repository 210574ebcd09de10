"""report.html: one self-contained page of a run, images inside the file, no outside resource.

All text from configs, logs and data is escaped. Read next: glotok_ray/report/inputs.py
"""

from pathlib import Path
from typing import NamedTuple

from glotok_ray.report.headlines import GENERATORS, Source, own_class, percent
from glotok_ray.report.inputs import ReportInputs
from glotok_ray.report.markup import ImageFormat, text
from glotok_ray.report.picture import write_picture
from glotok_ray.report.relation_section import relation_gain, times
from glotok_ray.report.sections import SECTIONS
from glotok_ray.report.style import STYLE
from glotok_ray.storage import artefact

MOST_BYTES = 4_500_000
"""Of the page; many images are kept as JPEG, coarser and coarser, until it fits."""
_QUALITIES = (None, 92, 80, 60, 40)
PICTURE_FILE = "report.png"


class _Card(NamedTuple):
    """A number of the header."""

    number: str
    meaning: str


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Write report.png and then, beside it, the page; every section appears, and says so where the run has nothing for
    it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path.with_name(PICTURE_FILE), inputs)
    # Last and whole: that the page is there says that the run is finished.
    with artefact.replacing(path) as temporary:
        temporary.write_text(render(inputs), encoding="utf-8")


def render(inputs: ReportInputs) -> str:
    """The page as HTML text, of at most MOST_BYTES unless its text alone is longer."""
    page = ""
    for quality in _QUALITIES:
        page = _render(inputs, ImageFormat(quality))
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _render(inputs: ReportInputs, images: ImageFormat) -> str:
    shown, folded = [], []
    for name, section in SECTIONS.items():
        content = section.build(inputs, images)
        if section.is_folded:
            folded.append(
                f'<section id="{name}"><details><summary>{text(section.heading)}</summary>{content}</details></section>'
            )
        else:
            shown.append(
                f'<section id="{name}"><h2>{text(section.heading)}</h2>{content}</section>'
            )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(inputs.title)}</title><style>{STYLE}</style></head><body><main>"
        f"{_header(inputs)}{_links()}{''.join(shown)}"
        f'<div class="folded"><h2>Everything else</h2>{_missing(inputs)}{"".join(folded)}</div></main></body></html>\n'
    )


def _header(inputs: ReportInputs) -> str:
    cards = "".join(
        f'<div class="card"><b>{text(card.number)}</b><span>{text(card.meaning)}</span></div>'
        for card in _cards(inputs)
    )
    cards = f'<div class="cards">{cards}</div>' if cards else ""
    return (
        f'<header><p class="run">{text(inputs.title)}</p>'
        "<h1>Images become short grids of codes, and new grids become images</h1>"
        f'<p class="lead">{text(_lead(inputs))}</p>{cards}</header>'
    )


def _lead(inputs: ReportInputs) -> str:
    """What was trained on what, from whatever the run says."""
    crops = "images" if inputs.num_train_images is None else f"{inputs.num_train_images:,} images"
    if inputs.reconstructions is not None:
        height, width = inputs.reconstructions.inputs.shape[1:3]
        crops += f" of {width} \u00d7 {height} pixels"
    if len(inputs.class_names) > 1:
        crops += f" in {len(inputs.class_names)} classes"
    models = [
        model
        for model, found in zip(GENERATORS, (inputs.samples, inputs.far_samples), strict=True)
        if found is not None
    ]
    learned = f", and {' and '.join(models)} to write such codes for a class" if models else ""
    return (
        f"On {crops}, a GloTok tokenizer learned to write an image as codes and to draw it from them{learned}. "
        "All numbers and images here are of this run."
    )


def _cards(inputs: ReportInputs) -> list[_Card]:
    source, cards = Source(inputs.metrics), []
    if (psnr := source.value("reconstruction_psnr")) is not None:
        cards.append(
            _Card(f"{psnr:.1f} dB", "PSNR of crops that were never trained on, after decoding")
        )
    own, chance = own_class(source)
    if own:
        beside = "" if chance is None else f" (chance: {percent(chance)})"
        shares = " \u00b7 ".join(percent(value) for value in own.values())
        meaning = f"of the samples of {' and '.join(own)} look most like their own class{beside}"
        cards.append(_Card(shares, meaning))
    if (gain := relation_gain(inputs)) is not None and gain > 1:
        meaning = "closer to the teacher's histogram of cosines with the relation loss than without"
        cards.append(_Card(f"{times(gain)}\u00d7", meaning))
    elif inputs.relation is not None:
        meaning = "KL divergence of the codebook's cosines from the teacher's; lower is closer"
        cards.append(_Card(f"{inputs.relation['kl_final']:.3g}", meaning))
    if inputs.stages:
        meaning = f"for the {len(inputs.stages)} stages from images to these numbers"
        cards.append(_Card(f"{inputs.minutes_text} min", meaning))
    return cards


def _links() -> str:
    links = "".join(
        f'<a href="#{name}" class="{"desk" if section.is_folded else ""}">{text(section.link)}</a>'
        for name, section in SECTIONS.items()
    )
    return f'<nav aria-label="Sections">{links}</nav>'


def _missing(inputs: ReportInputs) -> str:
    if not inputs.missing:
        return ""
    lines = "".join(f"<li>{text(line)}</li>" for line in inputs.missing)
    return f'<div class="missing">Missing from this run:<ul>{lines}</ul></div>'
