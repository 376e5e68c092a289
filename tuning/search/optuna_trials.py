"""How a trial is told to Optuna, in one place: to the sampler's study, to its mirror in a storage.

Optuna's samplers learn from completed trials, TPE also from pruned ones, and all of them pass over
failed ones. An infeasible trial is therefore told as completed, with a violated constraint and the
worst value there is: TPE, GP and NSGA then learn the region, and a sampler that knows no
constraints keeps away from it as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from search_spaces.domains import SearchSpace
from trainables.metrics import Direction
from tuning.record.events import TrialRecord, TrialState
from tuning.search.convert import distribution

Objectives = Mapping[str, Direction]  # metric -> direction, the primary one first

INFEASIBLE = "infeasible"  # name of the constraint that a diverged or too large trial breaks
# The GP fits the constraint too. With 0 for what is feasible it would be half sure of each point
# as long as all are; with -1 it is sure.
KEPT, BROKEN = -1.0, 1.0

OPTUNA_DIRECTIONS: dict[Direction, str] = {"max": "maximize", "min": "minimize"}
_UNENDED: dict[TrialState, OptunaState] = {
    "running": OptunaState.RUNNING,
    "frozen": OptunaState.RUNNING,
    "interrupted": OptunaState.WAITING,  # to be continued
}


@dataclass(frozen=True)
class Ending:
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
    if state == "completed" and values is not None:
        return Ending(OptunaState.COMPLETE, list(values), KEPT)
    return Ending(OptunaState.PRUNED if state == "pruned" else OptunaState.FAIL)


def curve_of(record: TrialRecord, objectives: Objectives) -> dict[int, float]:
    """The primary metric by epoch; empty with several objectives, where Optuna takes no curves."""
    primary = next(iter(objectives))
    if len(objectives) > 1:
        return {}
    epochs = sorted(list(record.curve))  # noqa: C414  another thread may add one meanwhile
    return {e: record.curve[e][primary] for e in epochs if primary in record.curve[e]}


def ending_of(record: TrialRecord, objectives: Objectives) -> Ending:
    """How Optuna hears of a trial of a record that has ended."""
    end = ending(record.state, record.values(objectives), list(objectives.values()))
    curve = curve_of(record, objectives)
    if end.state == OptunaState.PRUNED and curve:
        return Ending(end.state, [curve[max(curve)]])  # as Optuna's own `tell` does
    return end


def frozen_trial(
    space: SearchSpace, record: TrialRecord, objectives: Objectives
) -> FrozenTrial | None:
    """A trial as one of Optuna's; None if its point lies outside of ``space``."""
    domains = space.domains
    if any(n not in domains or not domains[n].contains(v) for n, v in record.point.items()):
        return None
    unended = _UNENDED.get(record.state)
    end = ending_of(record, objectives) if unended is None else Ending(unended)
    trial = optuna.trial.create_trial(
        state=end.state,
        values=end.values,
        params=dict(record.point),
        distributions={name: distribution(domains[name]) for name in record.point},
        intermediate_values=curve_of(record, objectives),
        constraints=None if end.constraint is None else {INFEASIBLE: end.constraint},
    )
    if trial.datetime_start is not None and record.started:
        trial.datetime_start = datetime.fromtimestamp(record.started)
    if trial.datetime_complete is not None and record.ended:
        trial.datetime_complete = datetime.fromtimestamp(record.ended)
    return trial
