"""Which trials no other beats in all objectives at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainables.metrics import Direction
from tuning.record.events import TrialRecord


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
