"""What a trial costs, learned from those that ran, so that the search can weigh it."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import optuna
from optuna.samplers._tpe.sampler import default_gamma
from optuna.trial import FrozenTrial

from tuning.record.events import TrialRecord
from tuning.search.bounded_tpe import BoundedTPESampler

SECONDS = "seconds"  # user attribute of an Optuna trial: of a training of all its epochs
_N_LEAST = 10  # trials to learn from: as many as TPE draws at random before it begins
_N_MOST = 1000  # the newest
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


def predict_log_seconds(
    seen: np.ndarray, log_seconds: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """The logarithm of what candidates take [candidate]; zeros where too few trials are known.

    Args:
        seen: features of trials [trial, feature], from 0 to 1.
        log_seconds: what they took [trial].
        candidates: their features [candidate, feature].
    """
    if len(seen) < _N_LEAST:
        return np.zeros(len(candidates))
    centre, mean = seen.mean(axis=0), log_seconds.mean()
    seen = seen - centre
    gram = seen.T @ seen + _RIDGE * np.eye(seen.shape[1])
    weights = np.linalg.solve(gram, seen.T @ (log_seconds - mean))
    return np.asarray(mean + (candidates - centre) @ weights)


class CostAwareTPESampler(BoundedTPESampler):
    """TPE that proposes by expected improvement per second (Snoek et al., arXiv:1206.2944).

    TPE compares its candidates by the ratio l / g of two densities, with which their expected
    improvement rises: it is proportional to 1 / (γ + (1 - γ) g / l), γ being the share of good
    trials (Bergstra et al., NeurIPS 2011). That is divided by the seconds that a ridge regression
    of their logarithm, linear and square in each parameter, predicts from what trials took.
    """

    def __init__(self, *, seed: int | None, **options: int) -> None:
        super().__init__(seed=seed, **options)
        self._log_seconds: dict[int, float] = {}  # by the number of a trial that has ended

    def _learn(self, trial: FrozenTrial, study: optuna.Study) -> None:
        super()._learn(trial, study)
        seconds = trial.user_attrs.get(SECONDS)
        if seconds is not None and seconds > 0:
            self._log_seconds[trial.number] = math.log(seconds)

    def _compute_acquisition_func(
        self, samples: dict[str, np.ndarray], mpe_below: Any, mpe_above: Any
    ) -> np.ndarray:
        log_ratio = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        n = len(self._ended)
        good = default_gamma(min(n, self._n_ended)) / n if n else 1.0
        log_improvement = -np.logaddexp(math.log(good), np.log1p(-good) - log_ratio)
        return np.asarray(log_improvement - self._predict_log_seconds(samples))

    def _predict_log_seconds(self, samples: dict[str, np.ndarray]) -> np.ndarray:
        """Of each candidate, from trials that have all its parameters; zeros if they are few."""
        numbers = list(self._log_seconds)[-_N_MOST:]
        columns = {name: self._column(name)[numbers] for name in samples}
        known = ~np.isnan(list(columns.values())).any(axis=0)
        target = np.array([self._log_seconds[number] for number in numbers])[known]
        seen = self._features({name: column[known] for name, column in columns.items()})
        return predict_log_seconds(seen, target, self._features(samples))

    def _features(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """One row per trial: numbers from 0 to 1 and their squares, choices one-hot."""
        found: list[np.ndarray] = []
        for name, column in columns.items():
            distribution = self._distributions[name]
            if isinstance(distribution, optuna.distributions.CategoricalDistribution):
                found += [column == index for index in range(len(distribution.choices))]
                continue
            low, high = float(distribution.low), float(distribution.high)
            if distribution.log:
                column, low, high = np.log(column), math.log(low), math.log(high)
            scaled = (column - low) / (high - low) if high > low else np.zeros(len(column))
            found += [scaled, scaled**2]
        return np.column_stack(found).astype(float)
