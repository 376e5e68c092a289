"""A model of learning curves over a search space: what a trial will come to if it goes on.

A Gaussian process over configuration and epoch, after Swersky, Snoek and Adams, "Freeze-Thaw
Bayesian Optimization" (arXiv:1406.3896). The best value so far of trial i after epoch t is

    y_i(t) = a_i + b_i (1 - s) + c_i (1 - s)^2 + noise,    s = log t / log epochs,

so a_i is where the trial ends. Each of a, b and c varies smoothly with the configuration (Matern
5/2, one length scale per domain), and by a part of the trial's own. What slow starters have in
common, the model learns from those that were trained to their end, instead of taking the order
after a few epochs for the final one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from search_spaces.domains import Choice, Domain, Float, Int, SearchSpace
from search_spaces.domains.kinds import same

_N_SHAPES = 3  # a, b and c above
_MEAN_SPREAD = 1.0  # prior standard deviation of the shapes' means; values are standardised
_JITTER = 1e-6
_INACTIVE = 0.5  # how far from the middle of a domain it is not to have it


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes milliseconds, so it is done once


def _one_thread() -> AbstractContextManager[Any]:
    """Let linear algebra use one thread.

    Beside a driver, trainings usually take all cores. Several threads then wait for each other: the
    same call took 20 times as long, and the control loop stood still for a second.
    """
    limit: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limit


class Encoder:
    """Points as rows of numbers, between which Euclidean distance makes sense."""

    def __init__(self, space: SearchSpace) -> None:
        self._domains = space.domains
        widths = [_width(domain) + (domain.when is not None) for domain in self._domains.values()]
        self._first = np.cumsum([0, *widths])  # column of each domain
        # [column], index of the column's domain
        self.domain_of_column = np.repeat(np.arange(len(widths)), widths)

    def __call__(self, points: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """[point, column]: the place within the bounds, 0 to 1; one column for each option.

        A conditional domain has a further column. Where it is not active, it is as far from all of
        its values.
        """
        rows = np.zeros((len(points), len(self.domain_of_column)))
        for first, (name, domain) in zip(self._first, self._domains.items(), strict=False):
            for row, point in zip(rows, points, strict=True):
                if name not in point:
                    row[first] = 0.0 if isinstance(domain, Choice) else 0.5
                    row[first + _width(domain)] = _INACTIVE
                elif isinstance(domain, Choice):
                    is_it = [same(point[name], option) for option in domain.options]
                    row[first + is_it.index(True)] = math.sqrt(0.5)
                else:
                    row[first] = _place(domain, point[name])
        return rows


def _width(domain: Domain) -> int:
    return len(domain.options) if isinstance(domain, Choice) else 1


def _place(domain: Float | Int, value: float) -> float:
    if domain.high == domain.low:
        return 0.0
    scale = math.log if domain.log else float
    low, high = scale(domain.low), scale(domain.high)
    return (scale(value) - low) / (high - low)


@dataclass(frozen=True)
class Curves:
    """Observations of trials: the value after some of their epochs."""

    trial: np.ndarray  # [observation], index of the trial's row among the encoded points
    shapes: np.ndarray  # [observation, 3], what a, b and c are multiplied by
    value: np.ndarray  # [observation], standardised, more is better


def shapes(epoch: np.ndarray | float, epochs: int) -> np.ndarray:
    """What a, b and c are multiplied by after ``epoch`` [..., 3]."""
    rest = 1.0 - np.log(np.maximum(epoch, 1)) / math.log(max(epochs, 2))
    return np.stack([np.ones_like(rest), rest, rest**2], axis=-1)


class CurveModel:
    """The Gaussian process. ``fit`` chooses its parameters, ``condition`` takes observations in."""

    def __init__(self, domain_of_column: np.ndarray) -> None:
        self._domain_of_column = domain_of_column
        self._n_domains = n_domains = int(domain_of_column.max()) + 1
        # Logarithms: length scales, scales of a, b, c by configuration, of a, b, c by trial, noise.
        # In high dimensions points lie further apart (arXiv:2402.02229).
        lengths = np.full(n_domains, math.log(0.5 * math.sqrt(n_domains)))
        scales = np.log([0.8, 0.6, 0.4, 0.3, 0.3, 0.2, 0.1])
        self._prior_mean = np.concatenate([lengths, scales])
        self._prior_deviation = np.concatenate([np.ones(n_domains), np.full(len(scales), 0.7)])
        self.parameters = self._prior_mean.copy()

    def fit(self, curves: Curves, points: np.ndarray, n_iterations: int = 40) -> None:
        """Choose the parameters that make the observations and the prior most likely.

        Args:
            points: [trial, column], encoded.
        """
        by_domain = [points[:, self._domain_of_column == d] for d in range(self._n_domains)]
        reach = 4 * self._prior_deviation
        with _one_thread():
            distances = np.stack([_squared(columns) for columns in by_domain])
            found = minimize(
                self._loss,
                self.parameters,
                args=(curves, distances),
                jac=True,
                method="L-BFGS-B",
                bounds=list(zip(self._prior_mean - reach, self._prior_mean + reach, strict=True)),
                options={"maxiter": n_iterations},
            )
        if np.isfinite(found.fun):
            self.parameters = found.x

    def condition(self, curves: Curves, points: np.ndarray) -> None:
        """Take the observations in; ``points`` as for ``fit``."""
        lengths, by_point, by_trial, noise = self._unpack(self.parameters)
        self._curves = curves
        self._scaled = points / lengths[self._domain_of_column]
        with _one_thread():
            kernel, same = _matern(_squared(self._scaled)), np.eye(len(points))
            covariance = _covariance(curves, curves, kernel, same, by_point, by_trial)
            covariance[np.diag_indices_from(covariance)] += noise + _JITTER
            self._factor = cholesky(covariance, lower=True, check_finite=False)
            self._weights = cho_solve((self._factor, True), curves.value, check_finite=False)

    def predict(
        self, queries: Curves, points: np.ndarray, known: Sequence[int | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean [query] and variance [query] of values without noise.

        Args:
            queries: their ``trial`` is a row of ``points``; their ``value`` is not used.
            points: [queried trial, column], encoded.
            known: for each of these, which of the observed trials it is, if it is one.
        """
        lengths, by_point, by_trial, _ = self._unpack(self.parameters)
        with _one_thread():
            kernel = _matern(_squared(self._scaled, points / lengths[self._domain_of_column]))
            same = np.zeros(kernel.shape)
            for column, row in enumerate(known):
                if row is not None:
                    same[row, column] = 1.0
            cross = _covariance(self._curves, queries, kernel, same, by_point, by_trial)
            half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
            squares = queries.shapes**2
            prior = squares @ (by_point + by_trial) + _MEAN_SPREAD**2 * squares.sum(axis=1)
            return cross.T @ self._weights, np.maximum(prior - (half**2).sum(axis=0), 1e-12)

    def _unpack(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Length scales, variances by configuration and by trial [3], variance of the noise."""
        n = self._n_domains
        lengths = np.exp(parameters[:n])
        by_point = np.exp(2 * parameters[n : n + _N_SHAPES])
        by_trial = np.exp(2 * parameters[n + _N_SHAPES : n + 2 * _N_SHAPES])
        return lengths, by_point, by_trial, float(np.exp(2 * parameters[-1]))

    def _loss(
        self, parameters: np.ndarray, curves: Curves, distances: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Negative logarithm of likelihood times prior, and its gradient."""
        lengths, by_point, by_trial, noise = self._unpack(parameters)
        kernel, by_length = _matern_with_slopes(distances, lengths)
        n_trials = distances.shape[1]
        same = np.eye(n_trials)
        covariance = _covariance(curves, curves, kernel, same, by_point, by_trial)
        covariance[np.diag_indices_from(covariance)] += noise + _JITTER
        try:
            factor = cholesky(covariance, lower=True)
        except np.linalg.LinAlgError:
            return math.inf, np.zeros_like(parameters)
        inverse = cho_solve((factor, True), np.eye(len(covariance)))
        weights = inverse @ curves.value
        z = (parameters - self._prior_mean) / self._prior_deviation
        value = 0.5 * curves.value @ weights + np.log(np.diag(factor)).sum() + 0.5 * (z**2).sum()
        # d value / d covariance, folded to pairs of trials for each shape
        slope = 0.5 * (inverse - np.outer(weights, weights))
        gradient = z / self._prior_deviation
        n = self._n_domains
        folded = [_fold(slope, curves, shape, n_trials) for shape in range(_N_SHAPES)]
        for shape in range(_N_SHAPES):
            point, trial = n + shape, n + _N_SHAPES + shape
            gradient[point] += 2 * by_point[shape] * (folded[shape] * kernel).sum()
            gradient[trial] += 2 * by_trial[shape] * np.trace(folded[shape])
        weighted = sum(variance * fold for variance, fold in zip(by_point, folded, strict=True))
        gradient[:n] += (weighted[None] * by_length).sum(axis=(1, 2))
        gradient[-1] += 2 * noise * np.trace(slope)
        return float(value), gradient


def _covariance(
    left: Curves,
    right: Curves,
    kernel: np.ndarray,
    same: np.ndarray,
    by_point: np.ndarray,
    by_trial: np.ndarray,
) -> np.ndarray:
    """Of observations without noise [left, right]."""
    pairs = np.ix_(left.trial, right.trial)
    in_common = (left.shapes * by_point) @ right.shapes.T * kernel[pairs]
    own = (left.shapes * by_trial) @ right.shapes.T * same[pairs]
    means = _MEAN_SPREAD**2 * (left.shapes @ right.shapes.T)
    return np.asarray(in_common + own + means)


def _fold(slope: np.ndarray, curves: Curves, shape: int, n_trials: int) -> np.ndarray:
    """``slope`` times a shape's products, summed over the observations of each pair of trials."""
    column = curves.shapes[:, shape]
    weighted = slope * column[:, None] * column[None, :]
    rows = np.zeros((n_trials, len(column)))
    np.add.at(rows, curves.trial, weighted)
    both = np.zeros((n_trials, n_trials))
    np.add.at(both.T, curves.trial, rows.T)
    return both


def _squared(left: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
    """Squared distances between rows [left, right]."""
    right = left if right is None else right
    squared = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * left @ right.T
    return np.asarray(np.maximum(squared, 0.0))


def _matern(squared: np.ndarray) -> np.ndarray:
    """Matern 5/2 of squared scaled distances."""
    root = np.sqrt(5 * squared)
    return np.asarray((1 + root + 5 / 3 * squared) * np.exp(-root))


def _matern_with_slopes(
    distances: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``_matern``, and its slope by the logarithm of each length [domain, left, right].

    Args:
        distances: squared, [domain, left, right].
    """
    scaled = distances / (lengths**2)[:, None, None]
    squared = scaled.sum(axis=0)
    root = np.sqrt(5 * squared)
    # d kernel / d squared = -5/6 (1 + root) exp(-root), d squared / d log length = -2 scaled
    return _matern(squared), 5 / 3 * ((1 + root) * np.exp(-root))[None] * scaled
