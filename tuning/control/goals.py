"""What ends a sweep: its budgets and goals. Whichever comes first, for good."""

from __future__ import annotations

import time
from collections.abc import Iterator
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

    by: str  # a name that ``Goals`` or the constants here give, such as target or interrupted
    because: str  # the same as the rest of a sentence: "ended because …"


INTERRUPTED = Ending("interrupted", "it was interrupted")
CRASHED = Ending("error", "an error stopped it")


class Goals:
    """The budgets and goals of a sweep over all its sittings, and the first that is reached."""

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
        """What ends this sitting; None while nothing does.

        Once something does, it stays: a trial that ends later may improve on the best.
        """
        if self._ending is None:
            self._ending = next(self._reached(), None)
        return self._ending

    def _reached(self) -> Iterator[Ending]:
        """The goals that are reached and the budgets that are spent, the first to count first."""
        sweep, spent = self.sweep, self.history.spent
        n_failed = self.history.n_in_state["failed"]
        if sweep.max_failures is not None and n_failed > sweep.max_failures:
            allowed = f"more than --max-failures {sweep.max_failures} allows"
            yield Ending(MAX_FAILURES, f"{_count(n_failed, 'trial')} failed, {allowed}")
        target, best = sweep.target, self.best
        if target is not None and best is not None and not self.better(target, best):
            reached = f"{sweep.metric} reached {best:.4g}"
            yield Ending("target", f"{reached}, and the target was {target:g}")
        n = self.n_ended_since_best
        if sweep.patience is not None and n >= sweep.patience:
            best_of = f"the best {sweep.metric}"
            yield Ending("patience", f"{best_of} did not improve for {_count(n, 'trial')}")
        budget, wall = sweep.time_budget_seconds, time.monotonic() - self._started
        if budget is not None and spent.wall_seconds + wall >= budget:
            yield Ending("time_budget", f"the time budget of {budget:g} s is spent")
        hours = sweep.gpu_hours
        if hours is not None and spent.gpu_seconds(time.time()) >= hours * _SECONDS_PER_HOUR:
            yield Ending("gpu_hours", f"the budget of {hours:g} GPU-hours is spent")

    def end(self, ending: Ending) -> None:
        """Let this be what ends the sitting, unless something did before."""
        self._ending = self.ending or ending

    @property
    def ends_running(self) -> bool:
        """Whether running trials are to be ended too, as pruned: not after too many failures."""
        return self.ending is not None and self.ending.by not in OF_FAILURE


def all_tried(n_trials: int, *, is_grid: bool) -> Ending:
    """The ending of a sweep that reached nothing sooner."""
    done = f"its {_count(n_trials, 'trial')} {'is' if n_trials == 1 else 'are'} done"
    return Ending("trials", f"{done}, the whole grid" if is_grid else done)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
