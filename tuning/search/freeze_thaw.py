"""Trains trials in legs: most are frozen early, and the promising are thawed to go on.

Successive halving with promotions as in ASHA (arXiv:1810.05934): after 2, 6, 18 … epochs a trial is
frozen, and goes on once it is in the best third of the trials frozen there. Three things differ, so
that trials which only start fast do not win. Half of the promotions go by where a model foresees
that trials end. Nothing is stopped for good: a frozen trial may go on hours later. And once the
search is under way, some trials begin with a longer leg (as Hyperband's brackets do,
arXiv:1603.06560), from which the model learns what becomes of slow starters.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

from trainables.metrics import Direction
from tuning.record.events import ENDED_STATES, TrialRecord
from tuning.record.methods import SCHEDULERS
from tuning.search.plan import SearchPlan

REDUCTION_FACTOR = 3  # of three trials at a rung, one goes on
_MOST_RUNGS = 4
# Each frozen trial has a checkpoint on the disk. When a rung has more than the second figure, all
# but the first figure are given up. The gap spares a forecast for every single trial.
_N_KEPT, _MOST_FROZEN = 20, 24
_N_WHOLE = 3  # trials that should at least come to their end, whatever the number of trials
# Shares of trials whose first leg ends at the first, second … rung, and after how many trials
# longer first legs begin
_FIRST_LEGS, _N_BEFORE_LONG_LEGS = (0.70, 0.20, 0.07, 0.03), 30

Foresee = Callable[[Sequence[int]], Mapping[int, float]]  # trials -> where they end, more is better


def rungs(epochs: int, n_trials: int | None) -> list[int]:
    """The epochs after which a trial may be frozen; the last one is its end.

    The fewer trials there will be, the later the first: at least three are to come to their end.

    Args:
        epochs: of a whole training.
        n_trials: that the sweep will have; None if only time limits them.
    """
    n_rungs = _MOST_RUNGS
    if n_trials is not None:
        ratio = max(1.0, n_trials / _N_WHOLE)
        n_rungs = min(n_rungs, 1 + int(math.log(ratio) / math.log(REDUCTION_FACTOR) + 1e-9))
    least = min(2, -(-epochs // REDUCTION_FACTOR))  # after one epoch hardly anything can be told
    found = [max(least, round(epochs / REDUCTION_FACTOR ** (n_rungs - 1)))]
    while found[-1] * REDUCTION_FACTOR < 0.8 * epochs:
        found.append(found[-1] * REDUCTION_FACTOR)
    return [*found, epochs] if found[-1] < epochs else [epochs]


class FreezeThaw:
    """Decides which trial goes on, and how far; knows nothing of who runs them."""

    def __init__(self, plan: SearchPlan, foresee: Foresee) -> None:
        """Begin; with another scheduler it freezes none, and each trial has one leg."""
        self.freezes = SCHEDULERS[plan.scheduler].freezes
        self.rungs = rungs(plan.epochs, plan.n_trials) if self.freezes else [plan.epochs]
        self._sign = 1.0 if plan.directions[0] == "max" else -1.0
        self._random = random.Random(plan.seed)
        self._foresee = foresee
        self._best: dict[int, float] = {}  # trial -> best value so far, more is better
        self._goal: dict[int, int] = {}  # running trial -> the rung at which its leg ends
        self._frozen: list[dict[int, float]] = [{} for _ in self.rungs]  # by rung, with its value
        self._n_reached = [0 for _ in self.rungs]  # trials whose leg ended at a rung
        self._n_promoted = [0 for _ in self.rungs]
        self._n_started = 0

    def start(self, number: int) -> None:
        """Begin a new trial's first leg."""
        self._n_started += 1
        goal = 0
        if self._n_started > _N_BEFORE_LONG_LEGS:
            goal = self._random.choices(range(len(_FIRST_LEGS)), _FIRST_LEGS)[0]
        self._goal[number] = min(goal, len(self.rungs) - 1)

    def observe(self, number: int, epoch: int, value: float) -> bool:
        """Hear of an epoch of a running trial; True if it is frozen now."""
        value *= self._sign
        self._best[number] = max(value, self._best.get(number, -math.inf))
        goal = self._goal[number]
        if epoch < self.rungs[goal]:
            return False
        self._n_reached[goal] += 1
        if goal == len(self.rungs) - 1:
            return False
        del self._goal[number]
        self._frozen[goal][number] = self._best[number]
        if self._next_at(goal, at_least_one=False) == number:
            self._thaw(goal, number)
            return False
        return True

    def ended(self, number: int) -> None:
        """Hear that a running trial has ended; being frozen is no end."""
        if (goal := self._goal.pop(number, None)) is not None and goal < len(self.rungs) - 1:
            self._n_reached[goal] += 1  # it fell out before: one more that goes no further

    def restore(self, record: TrialRecord, metric: str, mode: Direction) -> None:
        """Take over a trial of an earlier sitting: ended, frozen, or to be run on."""
        number, state, n_epochs = record.number, record.state, len(record.curve)
        best = record.value(metric, mode)
        self._n_started += 1
        if best is not None:
            self._best[number] = self._sign * best
        n_behind = sum(rung <= n_epochs for rung in self.rungs)
        for goal in range(n_behind):
            self._n_reached[goal] += 1
            self._n_promoted[goal] += goal < n_behind - 1
        if self.freezes and state == "frozen" and n_behind < len(self.rungs):
            goal = max(0, n_behind - 1)
            self._n_reached[goal] += n_behind == 0  # when rungs came earlier
            self._frozen[goal][number] = self._best.get(number, -math.inf)
        elif state not in ENDED_STATES:
            self._n_promoted[max(0, n_behind - 1)] += n_behind > 0
            self._goal[number] = min(n_behind, len(self.rungs) - 1)

    def can_thaw(self, *, is_last_call: bool) -> bool:
        """Whether ``thaw`` would return a trial."""
        return self._next(is_last_call) is not None

    def thaw(self, *, is_last_call: bool) -> int | None:
        """A frozen trial that should go on now, in preference to a new one; it is running then.

        Args:
            is_last_call: there will be no new trials, so that each rung may promote at least one.
        """
        if (found := self._next(is_last_call)) is None:
            return None
        self._thaw(*found)
        return found[1]

    def give_up(self) -> list[int]:
        """Trials that are frozen for good: too many others at their rung are better.

        The best by forecast and the best by value are kept, half of the room each.
        """
        given_up = []
        for frozen in self._frozen:
            if len(frozen) <= _MOST_FROZEN:
                continue
            kept = set(sorted(frozen, key=lambda n: -frozen[n])[: _N_KEPT // 2])
            ends = self._foresee(list(frozen))
            kept |= set(sorted(set(frozen) - kept, key=lambda n: -ends[n])[: _N_KEPT // 2])
            hopeless = [number for number in frozen if number not in kept]
            for number in hopeless:
                del frozen[number]
            given_up += hopeless
        return given_up

    def _next(self, is_last_call: bool) -> tuple[int, int] | None:
        """The rung and the number of the trial to thaw; the furthest first."""
        for goal in reversed(range(len(self.rungs) - 1)):
            if (number := self._next_at(goal, at_least_one=is_last_call)) is not None:
                return goal, number
        return None

    def _thaw(self, goal: int, number: int) -> None:
        del self._frozen[goal][number]
        self._n_promoted[goal] += 1
        self._goal[number] = goal + 1

    def _next_at(self, goal: int, *, at_least_one: bool) -> int | None:
        frozen = self._frozen[goal]
        quota = max(self._n_reached[goal] // REDUCTION_FACTOR, at_least_one)
        if not frozen or self._n_promoted[goal] >= quota:
            return None
        by_forecast = self._n_promoted[goal] % 2
        ends = self._foresee(list(frozen)) if by_forecast else frozen
        return max(frozen, key=lambda number: ends[number])
