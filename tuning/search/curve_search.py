"""Searches by a model of all learning curves so far: proposes points, foresees where trials end."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import erfcx, ndtr

from tuning.search.cost import CostModel
from tuning.search.curve_model import CurveModel, Curves, Encoder, shapes
from tuning.search.plan import SearchPlan

_N_RANDOM = 8  # trials before the model is asked
_SHARE_RANDOM = 0.25  # of later proposals: where the model is wrong, it would never find out
_N_CANDIDATES = 100
# The model learns from the best trials and some of the others, and chooses its parameters from a
# limited number of observations. So the cost of a proposal (about 10 ms) does not grow.
_N_BEST, _N_OTHERS, _N_FITTED = 80, 70, 200
_GROWTH_BETWEEN_FITS = 1.25
# The model is not conditioned anew for news that are a smaller share than this of all that was
# heard. With a thousand trials at once there are news between any two questions.
_SHARE_UNHEARD = 1 / 200


@dataclass
class _Trial:
    encoded: np.ndarray  # [column]
    values: list[float]  # best so far after each epoch; more is better


class CurveSearch:
    """Hears of each epoch of each trial, whoever runs them."""

    def __init__(self, plan: SearchPlan) -> None:
        """Begin with nothing known."""
        self._space = plan.space
        self._sign = 1.0 if plan.directions[0] == "max" else -1.0
        self._epochs = plan.epochs
        self._random = random.Random(plan.sampling_seed)
        self._encode = Encoder(plan.space)
        self._model = CurveModel(self._encode.domain_of_column)
        self._trials: dict[int, _Trial] = {}  # those with a value
        self._trained: set[int] = set()  # those that have not diverged
        self._n_heard = 0
        self._n_heard_at_condition = 0
        self._n_fitted = 0
        self._rows: dict[int, int] = {}  # trials that the model knows now -> their row there
        self._cost_aware = plan.cost_aware
        self._costs = CostModel()

    def observe(self, number: int, point: Mapping[str, Any], epoch: int, value: float) -> None:
        """Hear of a trial's value after ``epoch``."""
        value *= self._sign
        trial = self._trials.get(number)
        if trial is None:
            trial = self._trials[number] = _Trial(self._encode([point])[0], [])
        self._trained.add(number)
        best = max(value, trial.values[-1]) if trial.values else value
        trial.values += [best] * (epoch - len(trial.values))
        self._n_heard += 1

    def diverged(self, number: int, point: Mapping[str, Any]) -> None:
        """Hear that a trial diverged or does not fit in memory: it counts as the worst of all."""
        self._trials[number] = _Trial(self._encode([point])[0], [-math.inf] * self._epochs)
        self._trained.discard(number)
        self._n_heard += 1

    def costs(self, number: int, point: Mapping[str, Any], seconds: float | None) -> None:
        """Hear what a training of all of a trial's epochs takes; None says nothing."""
        if self._cost_aware and seconds is not None:
            self._costs.learn(number, self._encode([point])[0], seconds)

    def propose(self) -> dict[str, Any]:
        """A point to try next, from among random candidates.

        It is the one whose end is foreseen as best with some optimism: mean + u · standard
        deviation. u is drawn anew each time (exponential), so that trials that are started together
        differ. If costs count, it is the one with the most expected improvement per second over the
        foreseen end of the best known trial.
        """
        if self._is_too_early or self._random.random() < _SHARE_RANDOM:
            return self._space.sample(self._random)
        candidates = [self._space.sample(self._random) for _ in range(_N_CANDIDATES)]
        self._condition()
        encoded = self._encode(candidates)
        mean, deviation = self._ends(encoded, [None] * len(candidates))
        if self._cost_aware:
            gain = _log_expected_improvement((mean - self._best_end()) / deviation, deviation)
            return candidates[int(np.argmax(gain - self._costs.predict_log_seconds(encoded)))]
        return candidates[int(np.argmax(mean + self._random.expovariate(1.0) * deviation))]

    def _best_end(self) -> float:
        """Where the best of the trials that the model knows is foreseen to end."""
        known = np.stack([self._trials[number].encoded for number in self._rows])
        return float(self._ends(known, list(self._rows.values()))[0].max())

    def foresee(self, numbers: Sequence[int]) -> dict[int, float]:
        """Where each of these trials is expected to end: more is better, the unit is our own.

        With too few trials to learn from, these are their best values so far.
        """
        if self._is_too_early:
            return {n: self._trials[n].values[-1] for n in numbers}
        self._condition()
        encoded = np.stack([self._trials[n].encoded for n in numbers])
        mean, _ = self._ends(encoded, [self._rows.get(n) for n in numbers])
        return dict(zip(numbers, map(float, mean), strict=True))

    @property
    def _is_too_early(self) -> bool:
        return len(self._trained) < _N_RANDOM

    def _ends(
        self, encoded: np.ndarray, rows: Sequence[int | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the value after the last epoch."""
        last = np.full(len(encoded), float(self._epochs))
        queries = Curves(np.arange(len(encoded)), shapes(last, self._epochs), np.empty(0))
        mean, variance = self._model.predict(queries, encoded, rows)
        return mean, np.sqrt(variance)

    def _condition(self) -> None:
        """Let the model know what has been heard since, unless that is next to nothing."""
        n_unheard = self._n_heard - self._n_heard_at_condition
        if self._rows and n_unheard <= _SHARE_UNHEARD * self._n_heard:
            return
        numbers = self._chosen()
        self._rows = {n: row for row, n in enumerate(numbers)}
        points = np.stack([self._trials[n].encoded for n in numbers])
        curves = self._curves(numbers)
        if len(curves.value) >= _GROWTH_BETWEEN_FITS * self._n_fitted or self._n_fitted == 0:
            self._n_fitted = len(curves.value)
            self._model.fit(*self._some(curves, points))
        self._model.condition(curves, points)
        self._n_heard_at_condition = self._n_heard

    def _chosen(self) -> list[int]:
        """The trials to learn from: the best, and some of the others."""
        if len(self._trials) <= _N_BEST + _N_OTHERS:
            return list(self._trials)
        ranked = sorted(self._trials, key=lambda n: -self._trials[n].values[-1])
        return sorted([*ranked[:_N_BEST], *self._random.sample(ranked[_N_BEST:], _N_OTHERS)])

    def _curves(self, numbers: Sequence[int]) -> Curves:
        """A few epochs of each trial, with values spread out where they are good.

        They become the logarithm of the distance to a value a little beyond the best. It tells 0.98
        from 0.97 as well as 0.8 from 0.7, and how bad the bad trials are hardly matters.
        """
        observations = [
            (row, epoch, self._trials[n].values[epoch - 1])
            for row, n in enumerate(numbers)
            for epoch in _epochs_to_learn_from(len(self._trials[n].values))
        ]
        trial, epoch, values = map(np.array, zip(*observations, strict=True))
        lasts = np.array([self._trials[n].values[-1] for n in numbers])
        trained = values[np.isfinite(values)]
        below = trained.min() - ((trained.max() - trained.min()) or 1.0)
        values, lasts = np.maximum(values, below), np.maximum(lasts, below)
        gaps = values.max() - lasts
        beyond = float(np.quantile(gaps, 0.25)) or float(gaps.mean()) or 1.0
        spread = -np.log(values.max() + beyond - values)
        standardised = (spread - spread.mean()) / (float(spread.std()) or 1.0)
        return Curves(trial, shapes(epoch, self._epochs), standardised)

    def _some(self, curves: Curves, points: np.ndarray) -> tuple[Curves, np.ndarray]:
        """Some of the trials, with as many observations as a fit can afford."""
        n_trials, n_values = len(points), len(curves.value)
        if n_values <= _N_FITTED:
            return curves, points
        some = sorted(self._random.sample(range(n_trials), _N_FITTED * n_trials // n_values))
        row = np.full(n_trials, -1)
        row[some] = np.arange(len(some))
        kept = row[curves.trial] >= 0
        chosen = Curves(row[curves.trial[kept]], curves.shapes[kept], curves.value[kept])
        return chosen, points[some]


def _log_expected_improvement(z: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The logarithm of E[max(end - best, 0)], finite also where that is as good as zero.

    Args:
        z: (mean of the end - best) / ``deviation``.
    """
    log_density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    near, below = np.maximum(z, -1.0), np.clip(-z, 1.0, 100.0)
    gain = np.exp(np.where(z > -1.0, log_density, 0.0)) + near * ndtr(near)
    # Far below, digits are lost in that difference (arXiv:2310.20708).
    rest = np.log1p(-below * math.sqrt(math.pi / 2) * erfcx(below / math.sqrt(2)))
    return np.asarray(np.log(deviation) + np.where(z > -1.0, np.log(gain), log_density + rest))


def _epochs_to_learn_from(n_epochs: int) -> list[int]:
    """The first, the last, and two between: half and a quarter of the way."""
    return sorted({min(2, n_epochs), max(1, n_epochs // 4), max(1, n_epochs // 2), n_epochs})
