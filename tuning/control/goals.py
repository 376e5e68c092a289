"""What ends a sweep: the table of its budgets and goals. Whichever comes first, for good."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tuning.record.events import ENDED_STATES, SweepHistory, TrialRecord
from tuning.record.sweep import Sweep

MAX_FAILURES = "max_failures"
UNFIT = "unfit_nodes"
OF_FAILURE = (MAX_FAILURES, UNFIT)  # endings that leave running trials alone, and are failures
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Ending:
    """Why a sitting of a sweep came to its end."""

    by: str  # a rule of RULES, or trials, interrupted, error
    because: str  # the same as the rest of a sentence: "ended because …"


INTERRUPTED = Ending("interrupted", "it was interrupted")
CRASHED = Ending("error", "an error stopped it")


class Goals:
    """What the rules look at, over all sittings, and the first that is reached."""

    def __init__(self, sweep: Sweep, history: SweepHistory) -> None:
        """Look back at what ``history`` holds; from now on, be told of each epoch and end."""
        self.sweep = sweep
        self.history = history
        self.best: float | None = None  # that any trial has reported
        self.n_ended_since_best = 0
        self._best_ended: float | None = None
        self._started = time.monotonic()
        self._ending: Ending | None = None
        self._counted: set[int] = set()
        ended = [t for t in history.trials.values() if t.state in (*ENDED_STATES, "frozen")]
        for trial in sorted(ended, key=lambda trial: trial.ended or 0.0):
            self.ended(trial)

    @property
    def wall_seconds(self) -> float:
        """Spent so far, this sitting included."""
        return self.history.spent.wall_seconds + time.monotonic() - self._started

    @property
    def gpu_hours(self) -> float:
        """Spent so far, running trials included."""
        return self.history.spent.gpu_seconds(time.time()) / _SECONDS_PER_HOUR

    def reported(self, value: float) -> None:
        """Hear the metric's value after some epoch of some trial."""
        if self.best is None or self.better(value, self.best):
            self.best = value

    def ended(self, trial: TrialRecord) -> None:
        """Hear that a trial has ended, or is frozen: whatever follows, it counts once."""
        valid = trial.state in ("completed", "pruned", "frozen")
        value = trial.value(self.sweep.metric, self.sweep.mode) if valid else None
        self.n_ended_since_best += trial.number not in self._counted
        self._counted.add(trial.number)
        if value is None:
            return
        self.reported(value)
        if self._best_ended is None or self.better(value, self._best_ended):
            self._best_ended = value
            self.n_ended_since_best = 0

    def better(self, value: float, other: float) -> bool:
        """Whether ``value`` is strictly better."""
        return value > other if self.sweep.mode == "max" else value < other

    @property
    def ending(self) -> Ending | None:
        """The rule that ends this sitting; None while none is reached.

        Once one is, it stays: a trial that ends later may improve on the best.
        """
        if self._ending is None:
            for name, rule in RULES.items():
                because = rule(self)
                if because is not None:
                    self._ending = Ending(name, because)
                    break
        return self._ending

    def end(self, ending: Ending) -> None:
        """Let this be what ends the sitting, unless a rule did."""
        self._ending = self.ending or ending

    @property
    def ends_running(self) -> bool:
        """Whether running trials are to be ended too, as pruned: not after too many failures."""
        return self.ending is not None and self.ending.by not in OF_FAILURE


def _too_many_failures(goals: Goals) -> str | None:
    limit, n_failed = goals.sweep.max_failures, goals.history.n_in_state["failed"]
    if limit is None or n_failed <= limit:
        return None
    return f"{_count(n_failed, 'trial')} failed, more than --max-failures {limit} allows"


def _target(goals: Goals) -> str | None:
    target, best = goals.sweep.target, goals.best
    if target is None or best is None or goals.better(target, best):
        return None
    return f"{goals.sweep.metric} reached {best:.4g}, and the target was {target:g}"


def _patience(goals: Goals) -> str | None:
    patience, n = goals.sweep.patience, goals.n_ended_since_best
    if patience is None or n < patience:
        return None
    return f"the best {goals.sweep.metric} did not improve for {_count(n, 'trial')}"


def _time_budget(goals: Goals) -> str | None:
    budget = goals.sweep.time_budget_seconds
    if budget is None or goals.wall_seconds < budget:
        return None
    return f"the time budget of {budget:g} s is spent"


def _gpu_hours(goals: Goals) -> str | None:
    budget = goals.sweep.gpu_hours
    if budget is None or goals.gpu_hours < budget:
        return None
    return f"the budget of {budget:g} GPU-hours is spent"


# name -> rule: the reason to end the sweep, or None
RULES: dict[str, Callable[[Goals], str | None]] = {
    MAX_FAILURES: _too_many_failures,
    "target": _target,
    "patience": _patience,
    "time_budget": _time_budget,
    "gpu_hours": _gpu_hours,
}


def all_tried(n_trials: int, *, is_grid: bool) -> Ending:
    """The ending of a sweep that reached nothing sooner."""
    done = f"its {_count(n_trials, 'trial')} {'is' if n_trials == 1 else 'are'} done"
    return Ending("trials", f"{done}, the whole grid" if is_grid else done)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
