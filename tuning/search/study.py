"""The study of a sweep: proposes points, hears curves, is told how each trial ended.

Optuna's samplers and pruners are asked in ``optuna_study.py``. ``curve_search.py`` learns from
curves, and ``freeze_thaw.py`` decides which trial goes on.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from search_spaces.domains import SearchSpace
from tuning.record.events import ENDED_STATES, TrialRecord, TrialState
from tuning.search.curve_search import CurveSearch
from tuning.search.freeze_thaw import FreezeThaw
from tuning.search.optuna_study import OptunaStudy
from tuning.search.optuna_trials import Objectives, values_by_epoch
from tuning.search.plan import SearchPlan

Point = Mapping[str, Any]

# After a resume the newest trials are shown to the pruner again. Optuna's pruners compare each with
# all others: with 10,000 trials this would take a minute.
_N_JUDGED = 1000


class Study:
    """Engine-free: every engine's controller asks it for points and tells it results.

    It lives in memory; ``restore_all`` fills it from a sweep's record. Of several objectives Optuna
    hears all values at a trial's end; everything else goes by the first.
    """

    def __init__(self, plan: SearchPlan) -> None:
        """Begin without trials."""
        self._optuna = OptunaStudy(plan)
        self._queue: list[Point] = list(plan.space.starting_points)  # tried before anything else
        self.limit: int | None = None  # how many trials there are at all, where that is fixed
        if plan.searcher == "grid":
            self._queue = _grid(plan.space, plan.seed)
            self.limit = len(self._queue)
        self._points: dict[int, Point] = {}  # of trials that have not ended
        self._proposes = plan.searcher == "curves"
        self.curves = CurveSearch(plan)
        self.freezer = FreezeThaw(plan, self.curves.foresee)

    def ask(self, number: int) -> dict[str, Any]:
        """The point of trial ``number``: starting points in their order, then the searcher's."""
        point: Point | None = None
        if self._queue:
            point = self._queue.pop(0)
        elif self._proposes:
            point = self.curves.propose()
        self.freezer.start(number)
        return self._ask(number, point)

    def _ask(self, number: int, point: Point | None) -> dict[str, Any]:
        found = self._optuna.ask(number, point)
        self._points[number] = found
        return found

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Hear the value after ``epoch`` (counted from 1); True if the trial should stop now.

        Where the ``freezer`` freezes, stopping means that the trial is frozen; otherwise it has
        ended.
        """
        should_stop = self._hear(number, epoch, value)
        return self.freezer.observe(number, epoch, value) or should_stop

    def _hear(self, number: int, epoch: int, value: float) -> bool:
        self.curves.observe(number, self._points[number], epoch, value)
        return self._optuna.report(number, epoch, value)

    def tell(self, number: int, state: TrialState, *values: float) -> None:
        """Hear how a trial ended: completed with its values, pruned, failed or infeasible.

        Args:
            values: the best of the first objective, and those of the others at the same epoch.
        """
        point = self._points.pop(number)
        self.freezer.ended(number)
        if state == "infeasible":
            self.curves.diverged(number, point)
        self._optuna.tell(number, state, values)

    def costs(self, number: int, seconds: float | None) -> None:
        """Hear what a training of all epochs of a trial that has not ended takes, if known."""
        self.curves.costs(number, self._points[number], seconds)

    def learn(self, records: Iterable[TrialRecord], objectives: Objectives) -> None:
        """Hear of finished trials that are not this sweep's own."""
        for record in records:
            if self._optuna.learn(record, objectives, is_own=False):
                self._learn_curve(-1 - record.number, record, next(iter(objectives)))

    def _learn_curve(self, number: int, record: TrialRecord, metric: str) -> None:
        for epoch, value in values_by_epoch(record, metric).items():
            self.curves.observe(number, record.point, epoch, value)
        if record.state == "infeasible":
            self.curves.diverged(number, record.point)

    def restore_all(self, records: Sequence[TrialRecord], objectives: Objectives) -> None:
        """Take over the trials of earlier sittings: as they ended, or else as running again."""
        metric, mode = next(iter(objectives.items()))
        for record in records:
            self._learn_curve(record.number, record, metric)
            self.freezer.restore(record, metric, mode)
        for place, record in enumerate(records):
            if record.state in ENDED_STATES:
                is_judged = len(records) - place <= _N_JUDGED
                self._optuna.learn(record, objectives, is_own=True, is_judged=is_judged)
            else:
                self._ask(record.number, record.point)
                for epoch, value in values_by_epoch(record, metric).items():
                    self._hear(record.number, epoch, value)
        self._queue = self._untried(records)

    def _untried(self, records: Sequence[TrialRecord]) -> list[Point]:
        """What of the queue no trial had; a space that was changed may have new points there."""
        if self.limit is not None:  # a grid, which can not be changed
            return self._queue[len(records) :]
        return [
            point
            for point in self._queue
            # A trial lacks what is not active, and has what the point leaves open.
            if not any(
                all(record.point.get(name, value) == value for name, value in point.items())
                for record in records
            )
        ]


def _grid(space: SearchSpace, seed: int) -> list[Point]:
    """The space's grid, after the first starting point where that is whole.

    The order is random, so that a sweep that its budget cuts short has seen all corners.
    """
    points: list[Point] = list(space.grid())
    random.Random(seed).shuffle(points)
    for first in space.starting_points[:1]:
        if space.complete(first, random.Random(0)) == first:
            points = [first, *(point for point in points if point != first)]
    return points
