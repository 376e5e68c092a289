"""A search space with what a user sets in it: ``--set key=value``, whole paths, the metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.domains import SearchSpace
from trainables.config import parse_setting
from trainables.errors import InputError, unknown
from trainables.tasks.row import TaskRow


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
