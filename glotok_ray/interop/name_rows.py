"""Names of a peer's modules as rows (old, new), for whole groups of tensors at once.

Read next: glotok_ray/interop/var_generator.py
"""

import re
from collections.abc import Iterable


def renamed(name: str, rows: Iterable[tuple[str, str]]) -> str | None:
    """The new name of a tensor by the first row (old, new) whose old name it has or begins with, up to a dot; None
    where no row fits. "#" stands for one number, the same in both.
    """
    for old, new in rows:
        pattern = re.escape(old).replace(r"\#", r"(\d+)")
        match = re.match(rf"{pattern}(?=\.|$)", name)
        if match:
            renamed = new.replace("#", match[1]) if match.groups() else new
            return renamed + name[match.end() :]
    return None
