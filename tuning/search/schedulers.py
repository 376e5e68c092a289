"""The table of early-stopping schedulers: Optuna pruners, which decide on the study's curves."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable

import optuna
from optuna.study import StudyDirection

_REDUCTION_FACTOR = 3  # of three trials at a rung, one goes on (ASHA, arXiv:1810.05934, uses 4)


def first_rung(epochs: int) -> int:
    """The epoch before which nothing is stopped: a third of all, rounded up.

    Warm-up and thawing make good configurations start slowly.
    """
    return -(-epochs // 3)


class RungPruner(optuna.pruners.BasePruner):
    """ASHA: decides as Optuna's SuccessiveHalvingPruner does, at a cost that does not grow.

    Optuna gathers a rung's values from all trials each time; here each rung keeps its own. It must
    therefore be asked about every epoch of every trial, those of earlier sittings included.
    """

    def __init__(self, min_resource: int, reduction_factor: int) -> None:
        """Make a pruner.

        Args:
            min_resource: epochs before the first rung; each further rung comes after
                ``reduction_factor`` times as many.
            reduction_factor: of so many trials at a rung, one goes on.
        """
        self._min_resource = min_resource
        self._reduction_factor = reduction_factor
        self._rungs: list[list[float]] = []  # values of the trials that reached it, best first
        self._n_reached: dict[int, int] = {}  # trial number -> rungs behind it

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether ``trial``, which has just reported, should stop."""
        step = trial.last_step
        if step is None:
            return False
        value = float(trial.intermediate_values[step])
        best_first = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        while True:
            rung = self._n_reached.get(trial.number, 0)
            if step < self._min_resource * self._reduction_factor**rung:
                return False
            if math.isnan(value):
                return True
            self._n_reached[trial.number] = rung + 1
            if not self._promoted(rung, best_first * value):
                return True

    def _promoted(self, rung: int, value: float) -> bool:
        """Enter a value, less being better; whether it is in the rung's best 1/reduction_factor."""
        if rung == len(self._rungs):
            self._rungs.append([])
        values = self._rungs[rung]
        insort(values, value)
        return value <= values[max(1, len(values) // self._reduction_factor) - 1]


# name -> pruner for trials of at most so many epochs
SCHEDULERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "asha": lambda epochs: RungPruner(first_rung(epochs), _REDUCTION_FACTOR),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(1, epochs, _REDUCTION_FACTOR),
    "median": lambda epochs: optuna.pruners.MedianPruner(n_warmup_steps=first_rung(epochs)),
    "freeze-thaw": lambda epochs: optuna.pruners.NopPruner(),  # stops nothing: see freeze_thaw.py
    "none": lambda epochs: optuna.pruners.NopPruner(),
}
