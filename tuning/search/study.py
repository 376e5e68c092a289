"""The study of a sweep: proposes points, hears curves, is told how each trial ended.

Optuna's samplers and pruners are asked in ``optuna_study.py``. ``curve_search.py`` learns from
curves, and ``freeze_thaw.py`` decides which trial goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from search_spaces.domains import SearchSpace
from tuning.record.events import ENDED_STATES, TrialRecord, TrialState
from tuning.record.methods import SCHEDULERS
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
        self._curves: CurveSearch | None = None
        self._freezer: FreezeThaw | None = None
        freezes = SCHEDULERS[plan.scheduler].freezes
        if self._proposes or freezes:
            self._curves = CurveSearch(plan)
        if self._curves is not None and freezes:
            n_trials = self.limit if plan.n_trials is None else plan.n_trials
            self._freezer = FreezeThaw(replace(plan, n_trials=n_trials), self._curves.foresee)

    @property
    def rungs(self) -> list[int]:
        """Epochs after which a trial may be frozen, its end among them; none if none ever is."""
        return [] if self._freezer is None else self._freezer.rungs

    def ask(self, number: int) -> dict[str, Any]:
        """The point of trial ``number``: starting points in their order, then the sampler's."""
        point: Point | None = None
        if self._queue:
            point = self._queue.pop(0)
        elif self._proposes and self._curves is not None:
            point = self._curves.propose()
        found = self._ask(number, point)
        if self._freezer is not None:
            self._freezer.start(number)
        return found

    def _ask(self, number: int, point: Point | None) -> dict[str, Any]:
        found = self._optuna.ask(number, point)
        self._points[number] = found
        return found

    def can_thaw(self, *, is_last_call: bool) -> bool:
        """Whether ``thaw`` would return a trial now."""
        return self._freezer is not None and self._freezer.can_thaw(is_last_call=is_last_call)

    def thaw(self, *, is_last_call: bool) -> int | None:
        """A frozen trial that should go on, in preference to a new one; None if there is none.

        Args:
            is_last_call: there will be no new trials.
        """
        return None if self._freezer is None else self._freezer.thaw(is_last_call=is_last_call)

    def give_up(self) -> list[int]:
        """Frozen trials that will never go on, each told once; ``tell`` must end them."""
        return [] if self._freezer is None else self._freezer.give_up()

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Hear the value after ``epoch`` (counted from 1); True if the trial should stop now.

        Where there are ``rungs``, stopping means that it is frozen; otherwise it has ended.
        """
        should_stop = self._hear(number, epoch, value)
        if self._freezer is not None:
            return self._freezer.observe(number, epoch, value)
        return should_stop

    def _hear(self, number: int, epoch: int, value: float) -> bool:
        if self._curves is not None:
            self._curves.observe(number, self._points[number], epoch, value)
        return self._optuna.report(number, epoch, value)

    def tell(
        self,
        number: int,
        state: TrialState,
        value: float | None,
        others: Sequence[float] = (),
        *,
        seconds: float | None = None,
    ) -> None:
        """Hear how a trial ended: completed with its best value, pruned, failed or infeasible.

        Args:
            others: the values of the other objectives at the same epoch.
            seconds: what a training of all its epochs takes.
        """
        point = self._points.pop(number)
        if self._freezer is not None:
            self._freezer.ended(number)
        if self._curves is not None and state == "infeasible":
            self._curves.diverged(number, point)
        self._learn_cost(number, point, seconds)
        self._optuna.tell(number, state, None if value is None else [value, *others])

    def frozen(self, number: int, seconds: float | None) -> None:
        """Hear that a trial has given its slot away; ``seconds`` as in ``tell``."""
        self._learn_cost(number, self._points[number], seconds)

    def _learn_cost(self, number: int, point: Point, seconds: float | None) -> None:
        if self._curves is not None and seconds is not None:
            self._curves.costs(number, point, seconds)

    def learn(self, records: Iterable[TrialRecord], objectives: Objectives) -> None:
        """Hear of finished trials that are not this sweep's own."""
        for record in records:
            if self._optuna.learn(record, objectives):
                self._learn_curve(-1 - record.number, record, next(iter(objectives)))

    def _learn_curve(self, number: int, record: TrialRecord, metric: str) -> None:
        if self._curves is None:
            return
        for epoch, value in values_by_epoch(record, metric).items():
            self._curves.observe(number, record.point, epoch, value)
        if record.state == "infeasible":
            self._curves.diverged(number, record.point)

    def restore_all(
        self,
        records: Iterable[TrialRecord],
        objectives: Objectives,
        seconds_of: Callable[[TrialRecord], float | None] = lambda record: None,
    ) -> None:
        """Take over the trials of earlier sittings: as they ended, or else as running again.

        Args:
            seconds_of: what a training of all of a trial's epochs takes.
        """
        records = list(records)
        metric, mode = next(iter(objectives.items()))
        for record in records:
            self._learn_curve(record.number, record, metric)
        for place, record in enumerate(records):
            if record.state in ENDED_STATES:
                is_judged = len(records) - place <= _N_JUDGED
                self._optuna.add_ended(record, objectives, is_judged=is_judged)
            else:
                self._ask(record.number, record.point)
                for epoch, value in values_by_epoch(record, metric).items():
                    self._hear(record.number, epoch, value)
            self._learn_cost(record.number, record.point, seconds_of(record))
        self._queue = self._untried(records)
        if self._freezer is not None:
            for record in records:
                self._freezer.restore(record, metric, mode)

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
