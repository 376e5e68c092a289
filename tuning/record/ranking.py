"""Trials in the order of what they reached, as the search has seen it."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping

from trainables.metrics import Direction
from tuning.record.events import TrialRecord

_Rank = tuple[float, int]  # smaller is better


def _rank(trial: TrialRecord, metric: str, mode: Direction) -> _Rank | None:
    """Where a trial stands; None without a value, or if it is infeasible or failed."""
    value = None if trial.state in ("failed", "infeasible") else trial.value(metric, mode)
    return None if value is None else (-value if mode == "max" else value, trial.number)


def ranked(trials: Mapping[int, TrialRecord], metric: str, mode: Direction) -> list[TrialRecord]:
    """Trials that reached a value, best first; infeasible and failed ones are left out."""
    ranks = [(_rank(trial, metric, mode), trial) for trial in trials.values()]
    valid = [(rank, trial) for rank, trial in ranks if rank is not None]
    return [trial for _, trial in sorted(valid, key=lambda pair: pair[0])]


class Best:
    """The best few of the trials that ended, known at each end without a look at all others."""

    def __init__(self, n: int, metric: str, mode: Direction) -> None:
        self._n = n
        self._metric = metric
        self._mode = mode
        self._ranked: list[tuple[_Rank, TrialRecord]] = []

    @property
    def trials(self) -> list[TrialRecord]:
        """At most ``n``, best first."""
        return [trial for _, trial in list(self._ranked)]

    def add(self, trial: TrialRecord) -> TrialRecord | None:
        """Take in a trial that has ended; returns one that is not among the best, if there is one.

        That is the trial itself, or the one whose place it took. A trial that was there before, to
        go on then, counts by what it has reached now.
        """
        self._ranked = [pair for pair in self._ranked if pair[1].number != trial.number]
        rank = _rank(trial, self._metric, self._mode)
        if rank is None:
            return trial
        insort(self._ranked, (rank, trial), key=lambda pair: pair[0])
        return self._ranked.pop()[1] if len(self._ranked) > self._n else None

    def drop_worst(self) -> TrialRecord | None:
        """Take out the worst and return it, but never the only one."""
        return self._ranked.pop()[1] if len(self._ranked) > 1 else None
