"""The study of a sweep: proposes points, hears curves, is told how each trial ended.

What Optuna's samplers and pruners have of it is in ``optuna_study.py``; what learns from curves, in
``curve_search.py``; what decides which trial goes on, in ``freeze_thaw.py``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from search_spaces.domains import SearchSpace
from trainables.metrics import Direction
from tuning.record.events import ENDED_STATES, TrialRecord, TrialState
from tuning.search.curve_search import CurveSearch
from tuning.search.freeze_thaw import FreezeThaw
from tuning.search.optuna_study import OptunaStudy, seed_of_sitting
from tuning.search.optuna_trials import Objectives
from tuning.search.samplers import SEARCHERS

__all__ = ["SEARCHERS", "Study"]


class Study:
    """Engine-free: the Ray engine and the in-process one ask it for points and tell it results.

    It lives in memory; ``restore_all`` fills it from a sweep's record. With several objectives
    Optuna hears their values at the end, and schedulers judge by the first.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        searcher: str,
        scheduler: str,
        direction: Direction,
        epochs: int,
        seed: int,
        n_known: int = 0,
        n_trials: int | None = None,
        other_directions: Sequence[Direction] = (),
        cost_aware: bool = False,
    ) -> None:
        """Begin a study.

        Args:
            n_trials: that there will be; None if only time limits them.
            n_known: trials of earlier sittings. A sampler that began anew from the same seed would
                propose what it proposed then; those that are led through what they were asked
                then need the same seed.
            other_directions: of the objectives beside the first.
            cost_aware: weigh what a trial costs; with the searchers of ``COST_AWARE`` and one
                objective only.
        """
        self._optuna = OptunaStudy(
            space,
            searcher=searcher,
            scheduler=scheduler,
            directions=(direction, *other_directions),
            epochs=epochs,
            seed=seed,
            n_known=n_known,
            cost_aware=cost_aware,
        )
        points: list[Mapping[str, Any]] = list(space.starting_points)
        if searcher == "grid":
            points = _grid(space, seed)
        self._queue = points  # what is to be tried before anything else
        self._limit = len(points) if searcher == "grid" else None
        self._proposes = searcher == "curves"
        self._points: dict[int, Mapping[str, Any]] = {}
        self._curves: CurveSearch | None = None
        self._freezer: FreezeThaw | None = None
        freezes = scheduler == "freeze-thaw"
        if self._proposes or freezes:
            self._curves = CurveSearch(
                space,
                direction=direction,
                epochs=epochs,
                seed=seed_of_sitting(seed, n_known),
                cost_aware=cost_aware and self._proposes,
            )
        if self._curves is not None and freezes:
            self._freezer = FreezeThaw(
                direction=direction,
                epochs=epochs,
                n_trials=self._limit if n_trials is None else n_trials,
                seed=seed,
                foresee=self._curves.foresee,
            )

    @property
    def limit(self) -> int | None:
        """How many trials there are at all, if the searcher has only so many."""
        return self._limit

    @property
    def rungs(self) -> list[int]:
        """Epochs after which a trial may be frozen, its end among them; none if none ever is."""
        return [] if self._freezer is None else self._freezer.rungs

    def ask(self, number: int) -> dict[str, Any]:
        """The point of trial ``number``: starting points in their order, then the sampler's."""
        point = self._propose(number)
        if self._freezer is not None:
            self._freezer.start(number)
        return point

    def _propose(self, number: int) -> dict[str, Any]:
        point: Mapping[str, Any] | None = None
        if self._queue:
            point = self._queue.pop(0)
        elif self._proposes and self._curves is not None:
            point = self._curves.propose()
        return self._ask(number, point)

    def _ask(self, number: int, point: Mapping[str, Any] | None) -> dict[str, Any]:
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

        It is frozen then, and not at its end, where there are ``rungs``.
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
            others: at the same epoch, the values of the other objectives.
            seconds: what a training of all its epochs takes.
        """
        point = self._points.pop(number)
        if self._freezer is not None:
            self._freezer.ended(number, state)
        if self._curves is not None and state == "infeasible":
            self._curves.diverged(number, point)
        if seconds is not None:
            self._learn_cost(number, point, seconds)
        self._optuna.tell(number, state, None if value is None else [value, *others], seconds)

    def frozen(self, number: int, seconds: float | None) -> None:
        """Hear that a trial has given its slot away; ``seconds`` as in ``tell``."""
        if seconds is not None:
            self._learn_cost(number, self._points[number], seconds)

    def _learn_cost(self, number: int, point: Mapping[str, Any], seconds: float) -> None:
        if self._curves is not None:
            self._curves.costs(number, point, seconds)

    def learn(self, records: Iterable[TrialRecord], objectives: Objectives) -> None:
        """Hear of finished trials that are not this sweep's own."""
        metric = next(iter(objectives))
        for record in records:
            if self._optuna.learn(record, objectives):
                self._learn_curve(-1 - record.number, record, metric)

    def _learn_curve(self, number: int, record: TrialRecord, metric: str) -> None:
        if self._curves is None:
            return
        for epoch, metrics in sorted(record.curve.items()):
            if metric in metrics:
                self._curves.observe(number, record.point, epoch, metrics[metric])
        if record.state == "infeasible":
            self._curves.diverged(number, record.point)

    def restore_all(
        self,
        records: Iterable[TrialRecord],
        objectives: Objectives,
        seconds_of: Callable[[TrialRecord], float | None] = lambda record: None,
    ) -> None:
        """Take over the trials of earlier sittings, in the order in which they began and ended.

        Args:
            seconds_of: what a training of all of a trial's epochs takes.
        """
        records, queue = list(records), list(self._queue)
        metric, mode = next(iter(objectives.items()))
        for record in records:
            self._learn_curve(record.number, record, metric)
            seconds = seconds_of(record)
            if seconds is not None:
                self._learn_cost(record.number, record.point, seconds)
        if self._optuna.asks_again:
            self._go_through_again(records, objectives, seconds_of)
        else:
            for record in records:
                self._take_in(record, objectives, seconds_of(record))
        self._queue = self._untried(queue, records)
        if self._freezer is not None:  # last: going through it again is no news for it
            for record in records:
                self._freezer.restore(record, metric, mode)

    def restore(
        self, record: TrialRecord, metric: str, mode: Direction, seconds: float | None = None
    ) -> None:
        """Take over a trial of an earlier sitting: as it ended, or else as running again."""
        self.restore_all([record], {metric: mode}, lambda record: seconds)

    def _untried(
        self, queue: Sequence[Mapping[str, Any]], records: Sequence[TrialRecord]
    ) -> list[Mapping[str, Any]]:
        """What of ``queue`` no trial had; a space that was changed may have new points there."""
        if self._limit is not None:
            return list(queue[len(records) :])  # of a grid, which is never changed
        return [
            point
            for point in queue
            # A trial lacks what is not active, and has what the point leaves open.
            if not any(
                all(record.point.get(name, value) == value for name, value in point.items())
                for record in records
            )
        ]

    def _go_through_again(
        self,
        records: Sequence[TrialRecord],
        objectives: Objectives,
        seconds_of: Callable[[TrialRecord], float | None],
    ) -> None:
        """Ask and tell as then, for samplers that go by what they asked before."""
        began = [(record.started, record.number, False, record) for record in records]
        ended = [
            (record.ended or record.started, record.number, True, record)
            for record in records
            if record.state in ENDED_STATES
        ]
        for _, _, is_end, record in sorted([*began, *ended], key=lambda step: step[:3]):
            if is_end:
                self._end_again(record, objectives, seconds_of(record))
            else:
                self._ask_again(record)
        for record in records:
            if record.state not in ENDED_STATES:
                self._report_again(record, objectives)

    def _take_in(self, record: TrialRecord, objectives: Objectives, seconds: float | None) -> None:
        if record.state in ENDED_STATES:
            self._optuna.add_ended(record, objectives, seconds)
        else:
            self._ask(record.number, record.point)
            self._report_again(record, objectives)

    def _ask_again(self, record: TrialRecord) -> None:
        """Ask for a trial as it was asked for then, so that the sampler is where it was."""
        if self._propose(record.number) == record.point:
            return
        # Another version, or a changed space: the sampler hears at least of the point.
        self.tell(record.number, "failed", None)
        if record.state not in ENDED_STATES:
            self._ask(record.number, record.point)

    def _end_again(
        self, record: TrialRecord, objectives: Objectives, seconds: float | None
    ) -> None:
        if not self._optuna.has_unended(record.number):
            self._take_in(record, objectives, seconds)
            return
        self._report_again(record, objectives)
        values = record.values(objectives)
        value, others = (None, ()) if values is None else (values[0], values[1:])
        self.tell(record.number, record.state, value, others, seconds=seconds)

    def _report_again(self, record: TrialRecord, objectives: Objectives) -> None:
        metric = next(iter(objectives))
        for epoch, metrics in sorted(record.curve.items()):
            if metric in metrics:
                self._hear(record.number, epoch, metrics[metric])


def _grid(space: SearchSpace, seed: int) -> list[Mapping[str, Any]]:
    """The space's grid, after the first starting point where that is whole.

    In random order: a sweep that its budget cuts short has seen all corners.
    """
    points: list[Mapping[str, Any]] = list(space.grid())
    random.Random(seed).shuffle(points)
    for first in space.starting_points[:1]:
        if space.complete(first, random.Random(0)) == first:
            points = [first, *(point for point in points if point != first)]
    return points
