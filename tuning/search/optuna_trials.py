"""Domains, points and trials as Optuna has them: in a sampler's study, and its mirror in a storage.

Optuna's samplers learn from completed trials, TPE also from pruned ones, and all of them pass over
failed ones. An infeasible trial is therefore told as completed, with a violated constraint and the
worst value there is: TPE, GP and NSGA then learn the region, and a sampler that knows no
constraints keeps away from it as well.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import optuna
import optuna.distributions as optunas
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from search_spaces.domains import Choice, Domain, Float, Int, SearchSpace
from trainables.metrics import Direction
from tuning.record.events import TrialRecord, TrialState

Objectives = Mapping[str, Direction]  # metric -> direction, the primary one first

INFEASIBLE = "infeasible"  # name of the constraint that a diverged or too large trial breaks
# The GP fits the constraint too. Were a feasible trial told as 0, it would be only half sure of
# any point while all trials are feasible; with -1 it is sure.
KEPT, BROKEN = -1.0, 1.0

# Beginnings of warnings for people who call Optuna themselves
_SILENCED = (
    "Constraints have been set, but CmaEsSampler",  # it sees the worst value instead
    "Clip non-finite values",  # the GP does so with infeasible trials
)
OPTUNA_DIRECTIONS: dict[Direction, str] = {"max": "maximize", "min": "minimize"}
_UNENDED: dict[TrialState, OptunaState] = {
    "running": OptunaState.RUNNING,
    "frozen": OptunaState.RUNNING,
    "interrupted": OptunaState.WAITING,  # to be continued
}


def quiet_optuna() -> None:
    """Keep Optuna from logging a line per trial, and from warning of what is intended."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # TPE's `group` is experimental since 2021: nothing else samples conditional spaces jointly.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    for message in _SILENCED:
        warnings.filterwarnings("ignore", message=message)


def distribution(domain: Domain) -> optunas.BaseDistribution:
    """A domain as Optuna has it; its bounds are inclusive too."""
    if isinstance(domain, Float):
        return optunas.FloatDistribution(domain.low, domain.high, domain.log, domain.step)
    if isinstance(domain, Int):
        return optunas.IntDistribution(domain.low, domain.high, domain.log, domain.step or 1)
    return optunas.CategoricalDistribution(domain.options)


def suggest_point(trial: Any, space: SearchSpace) -> dict[str, Any]:
    """Let an Optuna trial choose a value of each active domain."""
    point: dict[str, Any] = {}
    for name, domain in space.domains.items():
        if not space.is_active(name, point):
            continue
        if isinstance(domain, Choice):
            point[name] = trial.suggest_categorical(name, domain.options)
            continue
        step = domain.step or (1 if isinstance(domain, Int) else None)
        suggest = trial.suggest_int if isinstance(domain, Int) else trial.suggest_float
        point[name] = suggest(name, domain.low, domain.high, log=domain.log, step=step)
    return point


class Ending(NamedTuple):
    """The end of a trial in Optuna's terms."""

    state: OptunaState
    values: list[float] | None = None
    constraint: float | None = None


def ending(
    state: TrialState, values: Sequence[float] | None, directions: Sequence[Direction]
) -> Ending:
    """How Optuna hears of a trial that ended in ``state`` with one value per objective."""
    if state == "infeasible":
        worst = [-math.inf if direction == "max" else math.inf for direction in directions]
        return Ending(OptunaState.COMPLETE, worst, BROKEN)
    if state == "completed" and values:
        return Ending(OptunaState.COMPLETE, list(values), KEPT)
    return Ending(OptunaState.PRUNED if state == "pruned" else OptunaState.FAIL)


def values_by_epoch(record: TrialRecord, metric: str) -> dict[int, float]:
    """A metric after each epoch that reported it, in the order of epochs."""
    epochs = sorted(list(record.curve))  # noqa: C414  another thread may add one meanwhile
    return {e: record.curve[e][metric] for e in epochs if metric in record.curve[e]}


def frozen_trial(
    space: SearchSpace, record: TrialRecord, objectives: Objectives
) -> FrozenTrial | None:
    """A trial as one of Optuna's; None if its point lies outside of ``space``."""
    domains = space.domains
    # With several objectives Optuna takes no curves.
    curve = values_by_epoch(record, next(iter(objectives))) if len(objectives) == 1 else {}
    if any(n not in domains or not domains[n].contains(v) for n, v in record.point.items()):
        return None
    end = ending(record.state, record.values(objectives), list(objectives.values()))
    if record.state in _UNENDED:
        end = Ending(_UNENDED[record.state])
    elif end.state == OptunaState.PRUNED and curve:
        end = Ending(end.state, [curve[max(curve)]])  # as Optuna's own `tell` does
    trial = optuna.trial.create_trial(
        state=end.state,
        values=end.values,
        params=dict(record.point),
        distributions={name: distribution(domains[name]) for name in record.point},
        intermediate_values=curve,
        constraints=None if end.constraint is None else {INFEASIBLE: end.constraint},
    )
    if trial.datetime_start is not None and record.started:
        trial.datetime_start = datetime.fromtimestamp(record.started)
    if trial.datetime_complete is not None and record.ended:
        trial.datetime_complete = datetime.fromtimestamp(record.ended)
    return trial
