"""report.html: one self-contained page of a run, images inside the file, no outside resource.

All text from configs, logs and data is escaped. Read next: glotok_ray/report/inputs.py
"""

from pathlib import Path

from glotok_ray.report.inputs import ReportInputs
from glotok_ray.report.markup import number, text
from glotok_ray.report.sections import KEY_METRICS, SECTIONS
from glotok_ray.report.style import STYLE


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Write the page; every section appears, and says so where the run has nothing for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(inputs), encoding="utf-8")


def render(inputs: ReportInputs) -> str:
    """The page as HTML text."""
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, (heading, _) in SECTIONS.items())
    sections = "".join(
        f'<section id="{name}"><h2>{heading}</h2>{build(inputs)}</section>'
        for name, (heading, build) in SECTIONS.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(inputs.title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{text(inputs.title)}</h1><p>{text(_summary(inputs))}</p>{_key_metrics(inputs)}"
        f"{_missing(inputs)}<nav>{links}</nav>{sections}</main></body></html>\n"
    )


def _value(inputs: ReportInputs, name: str) -> float | None:
    return inputs.metrics[name]["value"] if name in inputs.metrics else None


def _summary(inputs: ReportInputs) -> str:
    """One paragraph in plain sentences, from whatever the run has."""
    seconds = sum(float(stage["seconds"]) for stage in inputs.stages)
    parts = ["A GloTok image tokenizer and generators on its codes, trained and measured"]
    if inputs.stages:
        parts[0] += f" in {seconds / 60:.1f} minutes over {len(inputs.stages)} stages"
    parts[0] += "."
    psnr, ssim = _value(inputs, "reconstruction_psnr"), _value(inputs, "reconstruction_ssim")
    if psnr is not None and ssim is not None:
        parts.append(
            "Validation crops, held out from training, come back at "
            f"{psnr:.2f} dB PSNR and {ssim:.3f} SSIM."
        )
    if inputs.relation:
        initial, final = (number(inputs.relation[name]) for name in ("kl_initial", "kl_final"))
        parts.append(
            "The divergence of the semantic codebook's cosine histogram from the teacher's went "
            f"from {initial} to {final}."
        )
    parts += _verdicts(inputs)
    return " ".join(parts)


def _verdicts(inputs: ReportInputs) -> list[str]:
    """What the distances say of each generator's samples."""
    uniform, marginal = (
        _value(inputs, f"baseline_{name}_fd_effnet") for name in ("uniform", "marginal")
    )
    if uniform is None or marginal is None:
        return []
    sentences = []
    for model, prefix in (("xAR", ""), ("FAR", "far_")):
        sample = _value(inputs, f"{prefix}samples_fd_effnet")
        if sample is not None:
            verdict = "closer" if sample < min(uniform, marginal) else "not closer"
            sentences.append(
                f"Samples of {model} lie at FD-EffNet {sample:.1f} from the validation crops, {verdict} than both "
                f"baselines through the same decoder (uniform codes {uniform:.1f}, marginal codes {marginal:.1f}); "
                "lower is better."
            )
    return sentences


def _key_metrics(inputs: ReportInputs) -> str:
    cards = []
    for name in KEY_METRICS:
        if _value(inputs, name) is not None:
            label = text(inputs.metrics[name]["label"])
            cards.append(
                f'<div class="card"><b>{number(_value(inputs, name))}</b><span>{label}</span></div>'
            )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _missing(inputs: ReportInputs) -> str:
    if not inputs.missing:
        return ""
    lines = "".join(f"<li>{text(line)}</li>" for line in inputs.missing)
    return f'<div class="missing">Missing from this run:<ul>{lines}</ul></div>'
