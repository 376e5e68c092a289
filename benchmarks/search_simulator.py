"""Replays a search on learning curves in simulated time, with as many workers as wanted.

Nothing sleeps: each worker trains one epoch after another of the leg it was given, and the next
thing to happen is the epoch that ends first. Every epoch counts once, whatever trial it is of;
trials that were stopped and go on later repeat nothing. The seed of a trial's curve depends on the
run's seed and the trial's number alone.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from curve_tables import Surrogate

from search_spaces.domains import SearchSpace

FULL_TRAININGS = 30  # the budget, unless another is given
Of = Literal["epochs", "seconds"]  # what of the budget is spent


class SimulationError(RuntimeError):
    """A searcher asked for something that can not be."""


@dataclass(frozen=True)
class Leg:
    """A stretch of a trial's training: from the epoch it has reached to ``until``, inclusive."""

    trial: int
    point: Mapping[str, Any]
    until: int | None = None  # the last epoch of this leg; None: to the end of the training


class Searcher(Protocol):
    """What is compared. One worker's leg at a time for each trial."""

    def next(self) -> Leg | None:
        """What a free worker should train; None: nothing until something is observed."""

    def observe(self, trial: int, epoch: int, value: float, seconds: float) -> bool:
        """Hear the value after an epoch (from 1), which took ``seconds``; True: end this leg now.

        NaN is a training that diverged: the trial has ended, whatever is returned.
        """


# (space, direction, epochs of a full training, n_workers, budget_epochs, seed) -> a new searcher
MakeSearcher = Callable[[SearchSpace, Literal["max", "min"], int, int, int, int], Searcher]


@dataclass
class Trajectory:
    """The incumbent's normalised regret after each improvement; it starts with the first epoch."""

    budget_epochs: int
    budget_seconds: float  # of simulated time: all workers busy, epochs of mean length
    spent_epochs: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)
    n_epochs: int = 0  # spent in all
    n_trials: int = 0
    end_seconds: float = 0.0

    def regret_at(self, share: float, of: Of = "epochs") -> float:
        """The regret once ``share`` of the budget was spent; infinite before the first epoch."""
        times: Sequence[float] = self.spent_epochs if of == "epochs" else self.seconds
        limit = share * (self.budget_epochs if of == "epochs" else self.budget_seconds)
        n_before = bisect_right(times, limit * (1 + 1e-9))
        return self.regrets[n_before - 1] if n_before else math.inf

    def share_to_reach(self, regret: float) -> float:
        """The share of the epochs after which the regret is no more than that; inf: never."""
        for spent, value in zip(self.spent_epochs, self.regrets, strict=True):
            if value <= regret:
                return spent / self.budget_epochs
        return math.inf


@dataclass
class _Trial:
    point: dict[str, Any]
    values: list[float]
    seconds: list[float]
    epoch: int = 0  # the last one that was trained
    until: int = 0  # the last one of the present leg
    running: bool = False
    ended: bool = False


def simulate(
    surrogate: Surrogate,
    make: MakeSearcher,
    *,
    n_workers: int,
    seed: int,
    budget_epochs: int | None = None,
) -> Trajectory:
    """Run one search until its budget is spent, or it has nothing more to run.

    No epoch begins that would exceed the budget; those that have begun then end.

    Raises:
        SimulationError: a leg of a trial that runs, has ended, or had another point.
    """
    budget = budget_epochs or FULL_TRAININGS * surrogate.n_epochs
    searcher = make(
        surrogate.space, surrogate.direction, surrogate.n_epochs, n_workers, budget, seed
    )
    return _Simulation(surrogate, searcher, n_workers, seed, budget).run()


class _Simulation:
    def __init__(
        self, surrogate: Surrogate, searcher: Searcher, n_workers: int, seed: int, budget: int
    ) -> None:
        self._surrogate = surrogate
        self._searcher = searcher
        self._seed = seed
        self._n_free = n_workers
        self._n_left = budget  # epochs that may still begin
        self._trials: dict[int, _Trial] = {}
        self._events: list[tuple[float, int, int]] = []  # (when its epoch ends, tie, trial)
        self._n_events = 0
        self._incumbent = math.nan
        budget_seconds = budget * surrogate.mean_epoch_seconds / n_workers
        self._trajectory = Trajectory(budget, budget_seconds)

    def run(self) -> Trajectory:
        self._fill(now=0.0)
        while self._events:
            now, _, number = heapq.heappop(self._events)
            self._end_epoch(number, now)
            self._fill(now)
        self._trajectory.n_trials = len(self._trials)
        return self._trajectory

    def _fill(self, now: float) -> None:
        """Give free workers legs while there are any."""
        while self._n_free and self._n_left:
            leg = self._searcher.next()
            if leg is None:
                return
            self._n_free -= 1
            self._start(leg)
            self._begin_epoch(leg.trial, now)

    def _start(self, leg: Leg) -> None:
        trial = self._trials.get(leg.trial)
        if trial is None:
            curve_seed = random.Random(f"{self._seed}, {leg.trial}").randrange(2**31)
            _, values, seconds = self._surrogate.curve(leg.point, curve_seed)
            trial = _Trial(dict(leg.point), list(map(float, values)), list(map(float, seconds)))
            self._trials[leg.trial] = trial
        until = len(trial.values) if leg.until is None else min(leg.until, len(trial.values))
        for wrong, why in (
            (trial.running, "it is running"),
            (trial.ended, f"it ended after epoch {trial.epoch}"),
            (trial.point != dict(leg.point), f"its point is {trial.point}"),
            (until <= trial.epoch, f"it has reached epoch {trial.epoch}"),
        ):
            if wrong:
                raise SimulationError(f"{leg}: the trial can not run so: {why}")
        trial.until, trial.running = until, True

    def _begin_epoch(self, number: int, now: float) -> None:
        trial = self._trials[number]
        self._n_left -= 1
        self._n_events += 1  # of epochs that end together, the one that began first comes first
        event = (now + trial.seconds[trial.epoch], self._n_events, number)
        heapq.heappush(self._events, event)

    def _end_epoch(self, number: int, now: float) -> None:
        trial = self._trials[number]
        value, seconds = trial.values[trial.epoch], trial.seconds[trial.epoch]
        trial.epoch += 1
        self._record(value, now)
        stop = self._searcher.observe(number, trial.epoch, value, seconds)
        trial.ended = trial.epoch == len(trial.values) or math.isnan(value)
        if trial.ended or stop or trial.epoch >= trial.until or not self._n_left:
            trial.running = False
            self._n_free += 1
        else:
            self._begin_epoch(number, now)

    def _record(self, value: float, now: float) -> None:
        trajectory = self._trajectory
        trajectory.n_epochs += 1
        trajectory.end_seconds = now
        if self._surrogate.is_better(value, self._incumbent):
            self._incumbent = value
            trajectory.spent_epochs.append(trajectory.n_epochs)
            trajectory.seconds.append(now)
            trajectory.regrets.append(self._surrogate.regret(value))
