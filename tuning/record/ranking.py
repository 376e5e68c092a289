"""Trials in the order of what they reached, by one objective or by several."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence

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


def pareto_front(
    trials: Mapping[int, TrialRecord], objectives: Mapping[str, Direction]
) -> list[TrialRecord]:
    """The completed trials that none is better than: as good in all, and better in one.

    Returns:
        The best by the first objective first.
    """
    signs = [1.0 if direction == "min" else -1.0 for direction in objectives.values()]
    points = []
    for number, trial in trials.items():
        values = trial.values(objectives) if trial.state == "completed" else None
        if values is not None:
            losses = tuple(sign * value for sign, value in zip(signs, values, strict=True))
            points.append((losses, number))
    front: list[tuple[tuple[float, ...], int]] = []
    for losses, number in sorted(points):  # what comes later can not dominate what came before
        if not any(_dominates(other, losses) for other, _ in front):
            front.append((losses, number))
    return [trials[number] for _, number in front]


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    no_worse = all(a <= b for a, b in zip(first, second, strict=True))
    return no_worse and tuple(first) != tuple(second)
