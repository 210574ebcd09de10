"""What a long drill has finished, so that one that was killed goes on behind it.

Read next: benchmarks/source_forms.py
"""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


class WrongAnswerError(SystemExit):
    """What the drill is there to find."""


class Progress:
    """Figures by name, in a file; of a drill with these settings alone."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        self.figures: dict[str, Any] = {}
        if path.is_file():
            found = json.loads(path.read_text())
            if found["settings"] != settings:
                raise WrongAnswerError(
                    f"{path}: is of a drill of {found['settings']}; give another folder"
                )
            self.figures = found["figures"]

    def note(self, name: str, figures: Any) -> None:
        """One part is done."""
        self.figures[name] = figures
        torn = self._path.with_suffix(".tmp")
        torn.write_text(json.dumps({"settings": self._settings, "figures": self.figures}))
        torn.replace(self._path)


def once(path: Path, make: Callable[[Path], Any]) -> Any:
    """What `make` makes in a folder, made anew where it was not finished."""
    answer = path / "finished.pickle"
    if not answer.is_file():
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        torn = path / "finished.tmp"
        torn.write_bytes(pickle.dumps(make(path / "files")))
        torn.replace(answer)
    return pickle.loads(answer.read_bytes())
