"""What a trial costs, learned from the trials that ran, so that the search can weigh it."""

from __future__ import annotations

import math
import statistics

import numpy as np

from tuning.record.events import TrialRecord

_N_LEAST = 10  # trials; with fewer, nothing is weighed
_N_MOST = 500  # the newest are learned from
# Of the regression, whose features lie between 0 and 1: with ten trials it is a mild one (assumed).
_RIDGE = 0.5


def seconds_of_all_epochs(trial: TrialRecord, held_seconds: float, epochs: int) -> float | None:
    """What a trial would have cost had it trained all its epochs; None before the first.

    Args:
        held_seconds: how long it had its slot, for trainings that report no ``seconds``.
        epochs: of a trial whose configuration does not say.
    """
    if not trial.curve:
        return None
    reported = [m["seconds"] for m in trial.curve.values() if m.get("seconds", 0) > 0]
    per_epoch = statistics.fmean(reported) if reported else held_seconds / len(trial.curve)
    return per_epoch * float(trial.config.get("epochs") or epochs)


class CostModel:
    """A ridge regression of the logarithm of seconds, linear and square in each column."""

    def __init__(self) -> None:
        # trial -> its encoded point, and the logarithm of the seconds that all its epochs take
        self.known: dict[int, tuple[np.ndarray, float]] = {}

    def learn(self, number: int, encoded: np.ndarray, seconds: float) -> None:
        """Hear what a training of all of a trial's epochs takes.

        Args:
            encoded: the trial's point [column], each from 0 to 1.
        """
        if seconds > 0:
            self.known.pop(number, None)  # what was heard last comes last
            self.known[number] = encoded, math.log(seconds)

    def predict_log_seconds(self, encoded: np.ndarray) -> np.ndarray:
        """What candidates [candidate, column] take [candidate]; zeros if too few trials are known.

        The result is the logarithm of seconds.
        """
        newest = list(self.known.values())[-_N_MOST:]
        if len(newest) < _N_LEAST:
            return np.zeros(len(encoded))
        seen = _features(np.stack([point for point, _ in newest]))
        log_seconds = np.array([seconds for _, seconds in newest])
        centre, mean = seen.mean(axis=0), log_seconds.mean()
        seen = seen - centre
        gram = seen.T @ seen + _RIDGE * np.eye(seen.shape[1])
        weights = np.linalg.solve(gram, seen.T @ (log_seconds - mean))
        return np.asarray(mean + (_features(encoded) - centre) @ weights)


def _features(encoded: np.ndarray) -> np.ndarray:
    return np.hstack([encoded, encoded**2])
