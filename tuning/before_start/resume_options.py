"""A saved sweep with more trials or time, in another space, or on another cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from trainables.errors import InputError
from trainables.tasks.table import task_row
from tuning.before_start.options import (
    check_rules,
    override_space,
    with_absolute_paths,
    with_monitor,
)
from tuning.before_start.space_checks import check_space
from tuning.before_start.spaces import LoadedSpace, load_space
from tuning.record.sweep import Sweep, local_resources
from tuning.storage.addresses import resolve_address


def extend(
    sweep: Sweep,
    *,
    trials: int | None,
    time_budget_seconds: float | None,
    address: str | None,
    gpu_hours: float | None = None,
    target: float | None = None,
    patience: int | None = None,
    confirm: int | None = None,
    confirm_seeds: int | None = None,
) -> Sweep:
    """A saved sweep with other budgets or goals, or on another cluster; None leaves it as it was.

    Raises:
        InputError: a number is out of range, or no cluster answers at the address.
    """
    check_goals(
        trials=trials,
        time_budget=time_budget_seconds,
        gpu_hours=gpu_hours,
        target=target,
        patience=patience,
        confirm=confirm,
        confirm_seeds=confirm_seeds,
    )
    return replace(
        sweep,
        trials=trials or sweep.trials,
        time_budget_seconds=time_budget_seconds or sweep.time_budget_seconds,
        address=sweep.address if address is None else resolve_address(address),
        gpu_hours=gpu_hours or sweep.gpu_hours,
        target=sweep.target if target is None else target,
        patience=patience or sweep.patience,
        confirm=sweep.confirm if confirm is None else confirm,
        confirm_seeds=confirm_seeds or sweep.confirm_seeds,
    )


def check_goals(
    *,
    trials: int | None,
    time_budget: float | None,
    gpu_hours: float | None,
    target: float | None,
    patience: int | None,
    confirm: int | None,
    confirm_seeds: int | None,
) -> None:
    """Raise InputError where a number is out of range."""
    check_rules(
        (
            ("--trials", trials, 1, True),
            ("--time-budget", time_budget, 0, False),
            ("--gpu-hours", gpu_hours, 0, False),
            ("--target", target, -math.inf, False),
            ("--patience", patience, 1, True),
            ("--confirm", confirm, 0, True),
            ("--confirm-seeds", confirm_seeds, 1, True),
        )
    )


def change_space(sweep: Sweep, name_or_path: str | None, settings: Sequence[str]) -> Sweep:
    """A saved sweep that goes on in another space: the one given, else its own, with ``settings``.

    Domains may be widened, narrowed, fixed or added. What is fixed before and after may not change:
    the trials so far could not be compared with those to come.

    Raises:
        InputError: the space is not valid, or not for this sweep.
    """
    if name_or_path is None and not settings:
        return sweep
    if sweep.searcher == "grid":
        raise InputError(
            f"--space, --set: sweep {sweep.name} searches a grid, which is another one in another "
            "space; `thaw sweep` begins a new one"
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
