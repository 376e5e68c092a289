"""Thaw's own search in the simulator: the study that sweeps ask, with nothing left out."""

from __future__ import annotations

import math
from typing import Literal

from search_simulator import Leg

from search_spaces.domains import SearchSpace
from tuning.search.plan import SearchPlan
from tuning.search.study import Study


class ThawSearcher:
    """A study with the searcher and the scheduler that a sweep has by default."""

    def __init__(
        self, space: SearchSpace, direction: Literal["max", "min"], epochs: int, seed: int
    ):
        self._study = Study(SearchPlan(space, directions=(direction,), epochs=epochs, seed=seed))
        self._points: dict[int, dict] = {}
        self._best: dict[int, float] = {}
        self._epochs = epochs
        self._better = max if direction == "max" else min

    def next(self) -> Leg:
        """A frozen trial that should go on, else a new one."""
        number = self._study.freezer.thaw(is_last_call=False)
        if number is None:
            number = len(self._points)
            self._points[number] = self._study.ask(number)
        return Leg(number, self._points[number])

    def observe(self, trial: int, epoch: int, value: float, seconds: float) -> bool:
        """Pass on an epoch, and the end."""
        if math.isnan(value):
            self._study.tell(trial, "infeasible")
            return True
        self._best[trial] = self._better(value, self._best.get(trial, value))
        frozen = self._study.report(trial, epoch, value)
        for hopeless in self._study.freezer.give_up():
            self._study.tell(hopeless, "pruned")
        if epoch == self._epochs:
            self._study.tell(trial, "completed", self._best[trial])
        return frozen


def make(
    space: SearchSpace,
    direction: Literal["max", "min"],
    epochs: int,
    n_workers: int,
    budget_epochs: int,
    seed: int,
) -> ThawSearcher:
    """A new search; it is told neither the workers nor the budget."""
    return ThawSearcher(space, direction, epochs, seed)
