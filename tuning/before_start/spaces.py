"""A search space by name or by file, with what a user sets in it: settings, paths, metrics."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from search_spaces.domains import SearchSpace
from trainables.config import parse_setting
from trainables.errors import InputError, unknown
from trainables.metrics import METRIC_ALIASES, Direction
from trainables.tasks.row import TaskRow
from trainables.tasks.table import known_metrics
from tuning.user_code.loading import import_file


@dataclass(frozen=True)
class LoadedSpace:
    """A search space, and the user's file that it and its ``train`` come from, if any."""

    space: SearchSpace
    train_file: Path | None = None  # set where the file defines ``train``


def space_names() -> list[str]:
    """The built-in spaces: the modules of ``search_spaces``."""
    return sorted(path.stem for path in Path(str(files("search_spaces"))).glob("[a-z]*.py"))


def load_space(name_or_path: str) -> LoadedSpace:
    """The built-in space of that name, or the one in that Python file.

    Raises:
        InputError: there is no such space or file, or it does not define a valid SPACE.
    """
    if name_or_path in space_names():
        module = importlib.import_module(f"search_spaces.{name_or_path}")
        return LoadedSpace(module.SPACE)
    path = Path(name_or_path)
    if path.suffix != ".py":
        raise InputError(
            unknown("search space", name_or_path, space_names())
            + "; or a path to a file that ends in .py"
        )
    if not path.is_file():
        raise InputError(f"search space file {name_or_path!r}: there is no such file")
    module = import_file(path)
    space = getattr(module, "SPACE", None)
    if not isinstance(space, SearchSpace):
        found = "it is missing" if space is None else f"it is a {type(space).__name__}"
        raise InputError(
            f"search space file {name_or_path!r}: must define SPACE, "
            f"a search_spaces.domains.SearchSpace; {found}"
        )
    defines_train = callable(getattr(module, "train", None))
    if (space.task is None) != defines_train:
        raise InputError(
            f"search space file {name_or_path!r}: must either name a task in SPACE or define "
            "train(config, run), a generator of epoch reports; SPACE names the task "
            f"{space.task!r}, and train is {'defined' if defines_train else 'not defined'}"
        )
    return LoadedSpace(space, path.resolve() if defines_train else None)


def override_space(
    space: SearchSpace, settings: Sequence[str] | Mapping[str, Any], row: TaskRow | None
) -> SearchSpace:
    """The space with settings fixed: ``key=value`` as on a command line, or key -> value.

    Raises:
        InputError: a setting is unknown, not a value of its type, or nothing is left to search.
    """
    if isinstance(settings, Mapping):
        settings = [f"{name}={value}" for name, value in settings.items()]
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise InputError(f"--set {setting!r}: must be key=value, such as --set epochs=5")
        if name in values:
            raise InputError(f"--set {name}: given twice")
        if row is not None:
            values[name] = parse_setting(name, text, row.config_type)
        else:
            known = [*space.domains, *space.fixed]
            if name not in known:
                raise InputError(unknown("setting", name, known))
            values[name] = _literal(text)
    if not values:
        return space
    if set(space.domains) <= set(values):
        raise InputError(
            "--set fixes every domain of the search space, so there is nothing to search"
        )
    return space.override(values)


def _literal(text: str) -> Any:
    """The number, truth value or None that a text spells; else the text itself."""
    names = {"true": True, "false": False, "none": None}
    if text.lower() in names:
        return names[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def with_monitor(space: SearchSpace, metric: str) -> SearchSpace:
    """The space with trainings that watch the metric by which the sweep compares them."""
    return replace(space, fixed={**space.fixed, "monitor": metric})


def with_absolute_paths(space: SearchSpace, row: TaskRow) -> SearchSpace:
    """The space with absolute paths, because workers and later commands run in other folders."""

    def absolute(name: str, value: Any) -> Any:
        known = row.path_fields.get(name)
        if known is None or not isinstance(value, str) or value in known:
            return value
        path = Path(value).expanduser()
        return str(path.resolve()) if path.exists() else value

    return replace(space, fixed={name: absolute(name, v) for name, v in space.fixed.items()})


def read_objectives(
    given: Sequence[str | None], space: SearchSpace, row: TaskRow | None
) -> dict[str, Direction]:
    """Metric -> which way it is better, the first of them deciding; None is the space's own.

    Raises:
        InputError: a metric is unknown, given twice, or has no direction.
    """
    found: dict[str, Direction] = {}
    for each in given:
        name, mode = _metric(each, space, row)
        if name in found:
            raise InputError(f"--metric {each!r}: given twice")
        found[name] = mode
    return found


def _metric(given: str | None, space: SearchSpace, row: TaskRow | None) -> tuple[str, Direction]:
    directions = known_metrics() if row is None else row.metrics
    first = str(space.fixed.get("monitor", next(iter(directions))))
    name, colon, direction = (given or first).partition(":")
    if row is not None:  # a user's own training reports what it likes
        name = METRIC_ALIASES.get(name, name)
    if colon and direction not in ("max", "min"):
        raise InputError(f"--metric {given!r}: after the colon must be max or min")
    if row is not None and name not in directions:
        raise InputError(unknown("metric", name, directions))
    if not colon and name not in directions:
        raise InputError(f"--metric {name!r}: say which way is better: {name}:max or {name}:min")
    natural = directions.get(name)
    if row is not None and colon and direction != natural:
        raise InputError(f"--metric {given!r}: {name} is better at its {natural}imum")
    return name, "min" if (direction or natural) == "min" else "max"
