"""Trials from another space, or from before the space was changed: which of them are of use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search_spaces.domains import SearchSpace, SpaceError
from trainables.errors import InputError
from tuning.record.events import SweepHistory, TrialRecord
from tuning.record.sweep import Sweep


class DoesNotFit(Exception):
    """Says why a trial is of no use in a space."""


def point_of(space: SearchSpace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``settings`` is searched in ``space``, its active domains alone.

    Raises:
        DoesNotFit: a setting is missing, or outside of its domain.
    """
    point: dict[str, Any] = {}
    for name, domain in space.domains.items():
        if space.is_active(name, point):
            if name not in settings:
                raise DoesNotFit(f"no {name}")
            if not domain.contains(settings[name]):
                raise DoesNotFit(f"{name} outside of its domain")
            point[name] = settings[name]
    return point


def split_by_fit(
    sweep: Sweep, history: SweepHistory
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """The trials that fit into the sweep's space, each with its point there, and the others."""
    if not history.space_changed:
        return list(history.trials.values()), []
    fitting, others = [], []
    for trial in history.trials.values():
        point = point_in_space(sweep, trial.config)
        if point is None:
            others.append(trial)
        else:
            fitting.append(replace(trial, point=point))
    return fitting, others


def point_in_space(sweep: Sweep, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The point of the sweep's space with just this full configuration; None if there is none."""
    try:
        point = point_of(sweep.space, config)
        there = json.loads(json.dumps(sweep.configuration(point)))
    except (DoesNotFit, InputError, SpaceError):
        return None
    if sweep.space.task is None and not config.keys() <= there.keys():
        return None  # a training of the user's would now use a value of its own
    equal = all(there[name] == value for name, value in config.items() if name in there)
    return point if equal else None


def describe_dropped(dropped: list[TrialRecord], n_trials: int) -> str:
    """What to say of trials that do not fit."""
    numbers = ", ".join(str(trial.number) for trial in dropped[:12])
    more = f" and {len(dropped) - 12} more" if len(dropped) > 12 else ""
    return (
        f"{len(dropped)} of {n_trials} earlier trials are outside of the changed search space: "
        f"they stay in the record, and the sampler does not hear of them (trials {numbers}{more})"
    )
