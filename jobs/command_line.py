"""The command line that all jobs share: a recipe name, dotted overrides, --storage-root, --dry-run and --fresh.

Logs go to stderr and the result to stdout, so `--dry-run` can be piped into another program. Every path is made
absolute here, before anything is read or sent to a worker. Exit codes: 0 done; 2 bad input (one message that names the
field or file, the rule and the remedy); 1 a run that failed (one line with the cause and the file that has the
traceback); 130 Ctrl-C; 143 SIGTERM.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glotok_ray.config.overrides import from_dict, to_dict
from glotok_ray.console import CONSOLE, ConsoleHandler
from glotok_ray.storage import artefact
from glotok_ray.storage.places import to_path
from jobs import storage_root
from jobs.failures import DONE, guarded

logger = logging.getLogger(__name__)


def run_job(
    argv: Sequence[str] | None,
    *,
    name: str,
    recipes: Mapping[str, Callable[[], Any]],
    dry_run: Callable[[Any], dict[str, Any]],
    run: Callable[..., dict[str, Any]],
    show: Callable[[dict[str, Any]], str] | None = None,
    complete: Callable[[Any, Any], Any] | None = None,
) -> int:
    """Parse `argv`, then describe (`--dry-run`) or run the job; returns the exit code.

    The result is printed as JSON, or as `show` formats it. `complete(config, recipe)` fills in paths that follow from
    others, before all are made absolute; `recipe` is the config without the command line's overrides.
    """
    start_logging()
    flags, rest = _parser(name, recipes).parse_known_args(argv)
    output: list[Path] = []

    def job() -> int:
        root = storage_root.chosen(flags.storage_root)
        recipe = _recipe(flags.recipe, recipes, root)
        config = _configure(name, recipe, rest, flags.recipe)
        config = storage_root.located(complete(config, recipe) if complete else config, root)
        if flags.dry_run:
            facts = {"job": name, "recipe": flags.recipe, **dry_run(config)}
            _print({**facts, "config": to_dict(config)})
            return DONE
        output.append(_output_folder(config))
        started = time.monotonic()
        answer = run(config, fresh=flags.fresh)
        logger.info("%s %s finished in %.0f s", name, flags.recipe, time.monotonic() - started)
        _print(answer, show)
        return DONE

    return guarded(name, job, output)


def start_logging() -> None:
    """Log to stderr, a line per event."""
    logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler(CONSOLE)])


def _print(answer: dict[str, Any], show: Callable[[dict[str, Any]], str] | None = None) -> None:
    sys.stdout.write(show(answer) if show else json.dumps(answer, indent=2, default=str) + "\n")


def _output_folder(config: Any) -> Path:
    """Where the job writes; training runs have folders of their own below output_path."""
    folder = to_path(config.output_path)
    return folder / config.name if hasattr(config, "name") else folder


def _parser(name: str, recipes: Mapping[str, Callable[[], Any]]) -> argparse.ArgumentParser:
    lines = [
        f"  {key}: {(function.__doc__ or '').strip().splitlines()[0]}"
        for key, function in recipes.items()
    ]
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="recipes:\n" + "\n".join(lines) + "\n\nAll fields of a recipe: RECIPE --fields",
        allow_abbrev=False,
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a named configuration, or a JSON file that holds a resolved one",
    )
    storage_root.add_flag(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would run as JSON and start nothing"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="redo what is finished (the old folder is kept as NAME.previous)",
    )
    return parser


def _recipe(name: str, recipes: Mapping[str, Callable[[], Any]], root: Path) -> Any:
    """The named recipe, or the config in a JSON file, which is sought in the directory of the call and in the
    storage root; raises ValueError for a name that is neither.
    """
    if name in recipes:
        return recipes[name]()
    if name.endswith(".json"):
        path = storage_root.given(name, root, "RECIPE")
        return _from_json(path, {type(make()): None for make in recipes.values()})
    raise ValueError(f"recipe {name!r}: there is {', '.join(recipes)}, or a path to a .json file")


def _from_json(path: Path, kinds: Iterable[type]) -> Any:
    """The config in a file, as the job's kind of run that has exactly its fields, or else as the first that has them
    among others.
    """
    values, fits, problems = artefact.read_json(path), [], []
    for kind in kinds:
        try:
            fits.append(from_dict(kind, values))
        except (ValueError, TypeError, AttributeError) as error:
            problems.append(f"as {kind.__name__}: {error}")
    if not fits:
        raise ValueError(f"{path}: holds no config of this job ({'; '.join(problems)}); correct it")
    # A kind may have all fields of another and more, which a file of the other leaves at their defaults.
    exact = [config for config in fits if _fields(to_dict(config)) == _fields(values)]
    return (exact or fits)[0]


def _fields(values: Any) -> Any:
    """The names of the fields, at every depth, without their values."""
    if isinstance(values, dict):
        return {name: _fields(inner) for name, inner in values.items()}
    return [_fields(inner) for inner in values] if isinstance(values, list) else None


def _configure(name: str, recipe: Any, arguments: Sequence[str], recipe_name: str) -> Any:
    """Apply `--section.field VALUE` pairs; tyro names near matches of a misspelt flag and exits with 2."""
    # Imported here: `--help` of a job does without it.
    import tyro

    arguments = ["--help" if argument == "--fields" else argument for argument in arguments]
    return tyro.cli(
        type(recipe), default=recipe, args=arguments, prog=f"python -m jobs.{name} {recipe_name}"
    )


def value_after(flag: str, arguments: Sequence[str]) -> str:
    """What follows a flag on a command line that is not parsed yet, empty without it."""
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    return ""
