"""What a command line means on another machine: its arguments, and the files that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.domains import Choice, SearchSpace
from trainables.data.paths import data_path
from trainables.errors import InputError
from trainables.tasks.row import TaskRow
from trainables.tasks.table import task_row
from tuning.clusters.package import Package
from tuning.record.option_checks import flag_of


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """The command line that says what ``values`` says; they are by the names of options."""
    arguments: list[str] = []
    for name, value in values.items():
        if value is True:
            arguments.append(flag_of(name))
        else:
            several = value if isinstance(value, list | tuple) else [value]
            arguments += [f"{flag_of(name)}={each}" for each in several]
    return arguments


def pack(values: Mapping[str, Any], space: SearchSpace, package: Package) -> dict[str, Any]:
    """Take along what a sweep's options name here; returns the options as they are there.

    Args:
        values: the options of ``thaw sweep`` by their names.
        space: the one that they mean, its paths as they were given.

    Raises:
        InputError: a file can not be read, or can not be named there.
    """
    there = dict(values)
    if str(values.get("space") or "").endswith(".py"):
        there["space"] = package.add_code(Path(values["space"]))
    file, colon, name = str(values.get("searcher") or "").rpartition(":")
    if colon:
        there["searcher"] = f"{package.add_code(Path(file).expanduser())}:{name}"
    row = None if space.task is None else task_row(space.task)
    moved = _pack_files(space, row, package)
    kept = [each for each in values.get("settings") or () if each.partition("=")[0] not in moved]
    if settings := [*kept, *(f"{name}={place}" for name, place in moved.items())]:
        there["settings"] = settings
    return there


def _pack_files(space: SearchSpace, row: TaskRow | None, package: Package) -> dict[str, str]:
    """Take along the files that settings name; returns the fixed ones whose path changes.

    Among the values to search they are known only for tasks that say which settings are paths.
    """
    named = [(name, value, True) for name, value in space.fixed.items()]
    if row is not None:
        choices = {n: each for n, each in space.domains.items() if isinstance(each, Choice)}
        named += [(n, value, False) for n, each in choices.items() for value in each.options]
    moved = {}
    for name, value, is_fixed in named:
        if (path := _path_here(name, value, row)) is None:
            continue
        place = package.add_data(path, f"{name} = {str(value)!r}")
        if _means(value, place):
            continue
        if not is_fixed:
            raise InputError(
                f"{name} = {value!r}: is one of the values to search, and would lie elsewhere "
                "on the cluster; name it by a relative path below this folder"
            )
        moved[name] = f"./{place}"  # so that it is no name and no number
    return moved


def _path_here(name: str, value: Any, row: TaskRow | None) -> Path | None:
    """The file or folder of this machine that a setting names, if it does.

    For a user's own training nothing says which settings are paths, so any is that exists.
    """
    if not isinstance(value, str) or not value or "://" in value:
        return None
    if row is not None and (name not in row.path_fields or value in row.path_fields[name]):
        return None
    try:
        if not Path(value).expanduser().exists():
            return None
    except (OSError, RuntimeError, ValueError):  # too long for a name; ~ of nobody
        return None
    return data_path(value, name)


def _means(value: object, place: str) -> bool:
    """Whether a setting's own words mean its place, in the folder that it is run from there."""
    return isinstance(value, str) and not Path(value).is_absolute() and Path(value) == Path(place)
