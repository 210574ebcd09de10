"""All systems that this package loads beside its own tokenizers, by name: other authors', and scales over ours.

Read next: glotok_ray/peers/released.py
"""

from glotok_ray.peers import (
    glotok_scales,
    ibq,
    imagefolder,
    maskbit,
    open_magvit2,
    rq_vae,
    titok,
    tokenflow,
    var,
    vqgan_lc,
    vqgan_plus,
)
from glotok_ray.peers.released import Released, System

SYSTEMS: dict[str, System] = {
    "glotok_scales": glotok_scales.SYSTEM,
    "ibq": ibq.SYSTEM,
    "imagefolder": imagefolder.SYSTEM,
    "maskbit": maskbit.SYSTEM,
    "open_magvit2": open_magvit2.SYSTEM,
    "rq_vae": rq_vae.SYSTEM,
    "titok": titok.SYSTEM,
    "tokenflow": tokenflow.SYSTEM,
    "var": var.SYSTEM,
    "vqgan_lc": vqgan_lc.SYSTEM,
    "vqgan_plus": vqgan_plus.SYSTEM,
}


def released(name: str) -> tuple[str, Released]:
    """The system's name and the file of that name; raises ValueError with the known ones."""
    for system, entry in SYSTEMS.items():
        if name in entry.released:
            return system, entry.released[name]
    known = ", ".join(each for entry in SYSTEMS.values() for each in entry.released)
    raise ValueError(f"peer = {name!r}: no such released tokenizer; there is {known}")
