"""A saved sweep with more trials or time, in another space, or on another cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trainables.errors import InputError
from trainables.tasks.table import task_row
from tuning.before_start.space_checks import check_space
from tuning.before_start.spaces import (
    LoadedSpace,
    load_space,
    override_space,
    with_absolute_paths,
    with_monitor,
)
from tuning.record.option_checks import check_values, flag_of
from tuning.record.options import RESUMABLE
from tuning.record.sweep import Sweep, local_resources
from tuning.storage.addresses import resolve_address


def change_options(sweep: Sweep, changes: Mapping[str, Any]) -> Sweep:
    """A saved sweep with other values of the options that a resume may change; None keeps one.

    Raises:
        InputError: an option can not be changed, a value breaks its rule, the space is not for this
            sweep, or no cluster answers at the address.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    check_changes(given)
    changed = change_space(sweep, given.pop("space", None), given.pop("settings", ()))
    if "address" in given:
        given["address"] = resolve_address(given["address"])
    return replace(changed, **given)


def check_changes(changes: Mapping[str, Any]) -> None:
    """Raise InputError where an option can not be changed, or a value breaks its rule."""
    for name in changes:
        if name not in RESUMABLE:
            valid = ", ".join(map(flag_of, RESUMABLE))
            raise InputError(f"{flag_of(name)}: a resume can not change it; valid: {valid}")
    check_values(changes)


def change_space(
    sweep: Sweep, name_or_path: str | None, settings: Sequence[str] | Mapping[str, Any]
) -> Sweep:
    """A saved sweep in another space: the given one, or its own with some settings fixed.

    Domains may be widened, narrowed, fixed or added. A setting that is fixed before and after must
    keep its value, so that earlier trials can be compared with later ones.

    Raises:
        InputError: the space is not valid, or not for this sweep.
    """
    if name_or_path is None and not settings:
        return sweep
    if sweep.searcher == "grid":
        raise InputError(
            f"--space, --set: sweep {sweep.name} searches a grid, and another space has "
            "another grid; `thaw sweep` begins a new sweep"
        )
    loaded = LoadedSpace(sweep.space, sweep.train_file)
    if name_or_path is not None:
        loaded = load_space(name_or_path)
        if loaded.space.task != sweep.space.task:
            raise InputError(
                f"--space {name_or_path!r}: its task is {loaded.space.task}, and that of sweep "
                f"{sweep.name} is {sweep.space.task}"
            )
    row = None if sweep.space.task is None else task_row(sweep.space.task)
    space = override_space(loaded.space, settings, row)
    if row is not None:
        space = with_absolute_paths(with_monitor(space, sweep.metric), row)
    source = sweep.train_source if name_or_path is None else loaded.train_file
    changed = replace(sweep, space=space, train_file=loaded.train_file, train_source=source)
    _check_comparable(sweep, changed)
    check_space(changed, row, None if sweep.address else local_resources(sweep))
    return changed


def _check_comparable(old: Sweep, new: Sweep) -> None:
    searched = {*old.space.domains, *new.space.domains}
    for name in new.space.fixed:
        known = old.space.task is not None or name in old.space.fixed
        before, now = old.configuration_default(name), new.configuration_default(name)
        if known and name not in searched and before != now:
            raise InputError(
                f"{name} = {now!r}: was {before!r} in sweep {old.name}, and trials of the two can "
                f"not be compared; --set {name}={before} keeps it, `thaw sweep` begins a new sweep"
            )
