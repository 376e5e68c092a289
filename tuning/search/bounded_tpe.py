"""Optuna's TPE at a cost per proposal that does not grow with the trials: it learns from some."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers._tpe.sampler import (
    _get_infeasible_trial_score,
    _get_pruned_trial_score,
    default_gamma,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

_N_GOOD = 25  # what default_gamma comes to with 250 trials, and stays at
_LEARNED = (OptunaState.COMPLETE, OptunaState.PRUNED)

Space = Mapping[str, optuna.distributions.BaseDistribution]


class BoundedTPESampler(optuna.samplers.TPESampler):
    """Optuna's multivariate TPE for conditional spaces, from a bounded number of trials.

    TPE compares the density of the good trials with that of all others. Here the good ones are
    known as trials end, and parameters are kept as arrays, so that a thousand trials cost little.
    Beyond that the others, of which only a density is wanted, are thinned out evenly; so are
    running trials. Each then stands for several, and the prior weighs so much less beside them: or
    else regions where nothing was tried would seem less promising than they are.

    Up to the bounds, what is proposed is what Optuna proposes; ``benchmarks/search_quality.py``
    compares the two beyond them. A trial must be given all its parameters before the next is
    asked for, and a study must have one objective.
    """

    def __init__(self, *, seed: int | None, n_ended: int = 1000, n_running: int = 100) -> None:
        """Make a sampler.

        Args:
            seed: of its random numbers.
            n_ended: completed and pruned trials to learn from, at most.
            n_running: running trials to keep away from, at most.
        """
        super().__init__(seed=seed, multivariate=True, group=True)
        self._n_ended = n_ended
        self._n_running = n_running
        self._n_seen = 0
        self._unended: list[int] = []
        self._running: list[int] = []  # of the unended, those that have their parameters
        self._ended: list[int] = []  # ascending, as are all numbers of trials here
        self._good: list[tuple[tuple[float, ...], int]] = []  # rank and number, best first
        self._ungrouped: list[FrozenTrial] = []  # not yet in the groups of the search space
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {}
        self._values: dict[str, np.ndarray] = {}  # parameter -> by number; NaN where not set

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        self._follow(study, trial)
        # The groups are refined by each trial once; trials that they know change nothing.
        new, self._ungrouped = self._ungrouped, []
        return dict(super().infer_relative_search_space(_StudyOf(study, new), trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        return dict(super().sample_relative(_StudyOf(study, self._ended), trial, search_space))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        ended = _StudyOf(study, self._ended)
        return super().sample_independent(ended, trial, param_name, param_distribution)

    def _sample(self, study: Any, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        n_good = default_gamma(min(len(self._ended), self._n_ended))
        good = sorted(number for _, number in self._good[:n_good])
        others, share = self._others(set(good))
        below = self._density(search_space, good, prior_weight=1.0)
        above = self._density(search_space, others, prior_weight=share)
        candidates = below.sample(self._rng.rng, self._n_ei_candidates)
        scores = self._compute_acquisition_func(candidates, below, above)
        best = self._compare(candidates, scores)
        return {name: space.to_external_repr(best[name]) for name, space in search_space.items()}

    def _others(self, good: set[int]) -> tuple[list[int], float]:
        """Trials that are not good, and the share of them that these are."""
        n_ended = self._n_ended if len(self._ended) <= self._n_ended else self._n_ended - len(good)
        ended, running = _spread(self._ended, n_ended), _spread(self._running, self._n_running)
        others = sorted(number for number in (*ended, *running) if number not in good)
        n_in_all = len(self._ended) - len(good) + len(self._running)
        return others, len(others) / n_in_all if others else 1.0

    def _density(self, search_space: Space, numbers: list[int], prior_weight: float) -> Any:
        """Of those trials that have all parameters of ``search_space``."""
        columns = {name: self._column(name)[numbers] for name in search_space}
        known = ~np.isnan(list(columns.values())).any(axis=0)
        return self._parzen_estimator_cls(
            {name: column[known] for name, column in columns.items()},
            search_space,
            self._parzen_estimator_parameters._replace(prior_weight=prior_weight),
        )

    def _follow(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Take in what became of the other trials since the last call."""
        trials = study._get_trials(deepcopy=False)
        known_running = set(self._running)
        unknown = [*self._unended, *range(self._n_seen, len(trials))]
        self._n_seen = len(trials)
        self._unended, self._running = [], []
        for other in (trials[number] for number in unknown):
            if other.state in _LEARNED:
                self._learn(other, study)
            elif not other.state.is_finished():
                self._unended.append(other.number)
                if other.state == OptunaState.RUNNING and other.number != trial.number:
                    self._running.append(other.number)
                    if other.number not in known_running:
                        # Those too that were sampled with it but do not apply: Optuna does so.
                        self._keep(other, self._get_params(other, study))

    def _learn(self, trial: FrozenTrial, study: optuna.Study) -> None:
        self._distributions.update(trial.distributions)
        for column in self._values.values():
            column[trial.number : trial.number + 1] = np.nan
        self._keep(trial, trial.params)
        insort(self._ended, trial.number)
        insort(self._good, (_rank(trial, study), trial.number))
        del self._good[_N_GOOD:]
        self._ungrouped.append(trial)

    def _keep(self, trial: FrozenTrial, values: dict[str, Any]) -> None:
        for name, value in values.items():
            distribution = trial.distributions.get(name) or self._distributions[name]
            self._column(name)[trial.number] = distribution.to_internal_repr(value)

    def _column(self, name: str) -> np.ndarray:
        """The values of a parameter, with room for all trials seen."""
        column = self._values.get(name, np.empty(0))
        if len(column) < self._n_seen:
            room = np.full(2 * self._n_seen, np.nan)
            room[: len(column)] = column
            self._values[name] = column = room
        return column


class _StudyOf:
    """A study as a sampler sees it that asks for its completed and pruned trials."""

    def __init__(self, study: optuna.Study, trials: Sequence[Any]) -> None:
        self._study = study
        self._trials = trials

    def _get_trials(self, **how: Any) -> Sequence[Any]:
        return self._trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


def _rank(trial: FrozenTrial, study: optuna.Study) -> tuple[float, ...]:
    """Where TPE puts a trial, less being better: completed, then stopped, then infeasible ones."""
    infeasible = _get_infeasible_trial_score(trial)
    if infeasible > 0:
        return 2.0, infeasible
    if trial.state == OptunaState.PRUNED:
        return 1.0, *_get_pruned_trial_score(trial, study)
    return 0.0, -trial.value if study.direction == StudyDirection.MAXIMIZE else trial.value


def _spread(numbers: list[int], n: int) -> list[int]:
    """At most ``n`` of ``numbers``, evenly spread."""
    if len(numbers) <= n:
        return numbers
    return [numbers[i * len(numbers) // n] for i in range(n)]
