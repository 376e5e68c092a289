"""Optuna's TPE at a cost per proposal that does not grow with the trials: it learns from some."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

# TPE's good set: a tenth of the trials, at most 25 (optuna.samplers._tpe.sampler.default_gamma).
_N_GOOD = 25
_LEARNED = (OptunaState.COMPLETE, OptunaState.PRUNED)


class BoundedTPESampler(optuna.samplers.TPESampler):
    """Optuna's multivariate TPE for conditional spaces, on a bounded selection of the trials.

    TPE compares the density of the good trials with that of all others. The good ones are always
    in the selection. The others, of which only a density is wanted, are thinned out evenly in the
    order in which they ended; so are running trials. Each of them then stands for several, and the
    prior weighs so much less beside them: or else regions where nothing was tried would seem less
    promising than they are. Up to the bounds nothing is left out, and what is proposed is what
    Optuna proposes. ``benchmarks/search_quality.py`` compares the two.
    """

    _parzen_estimator_parameters: Any  # of the base class

    def __init__(self, *, seed: int | None, n_ended: int = 300, n_running: int = 100) -> None:
        """Make a sampler.

        Args:
            seed: of its random numbers.
            n_ended: completed and pruned trials to learn from, at most; ten times the good ones or
                more, or else fewer would count as good.
            n_running: running trials to keep away from, at most.
        """
        super().__init__(seed=seed, multivariate=True, group=True)
        self._n_ended = n_ended
        self._n_running = n_running
        self._n_seen = 0
        self._open: list[int] = []  # numbers of the trials seen that had not ended then
        self._ended: list[FrozenTrial] = []
        self._best: list[FrozenTrial] = []
        self._ungrouped: list[FrozenTrial] = []  # not yet in the groups of the search space
        self._share_selected = 1.0  # of the trials that are not among the best
        self._selected: tuple[int, _StudyOf] | None = None  # for the trial of this number

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        self._follow(study)
        # The groups are refined by each trial once; trials that they know change nothing.
        new = _StudyOf(study, self._ungrouped)
        self._ungrouped = []
        return dict(super().infer_relative_search_space(new, trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        return dict(super().sample_relative(self._selection(study, trial), trial, search_space))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        selection = self._selection(study, trial)
        return super().sample_independent(selection, trial, param_name, param_distribution)

    def _build_parzen_estimator(
        self, study: Any, search_space: Any, trials: list[FrozenTrial], handle_below: bool
    ) -> Any:
        self._parzen_estimator_parameters = self._parzen_estimator_parameters._replace(
            prior_weight=1.0 if handle_below else self._share_selected
        )
        return super()._build_parzen_estimator(study, search_space, trials, handle_below)

    def _follow(self, study: optuna.Study) -> list[FrozenTrial]:
        """Take in the trials that ended since the last call; returns those that have not."""
        trials = study._get_trials(deepcopy=False)
        unknown = [trials[number] for number in self._open] + trials[self._n_seen :]
        self._n_seen = len(trials)
        unended = [trial for trial in unknown if not trial.state.is_finished()]
        self._open = [trial.number for trial in unended]
        ended = [trial for trial in unknown if trial.state in _LEARNED]
        if ended:
            self._ended += ended
            self._ungrouped += ended
            candidates = sorted(self._best + ended, key=lambda trial: trial.number)
            self._best, _ = _split_trials(study, candidates, _N_GOOD)
        return unended

    def _selection(self, study: optuna.Study, trial: FrozenTrial) -> _StudyOf:
        """What ``trial`` is proposed from: the same for all its parameters."""
        if self._selected is None or self._selected[0] != trial.number:
            self._selected = trial.number, _StudyOf(study, self._select(self._follow(study)))
        return self._selected[1]

    def _select(self, unended: list[FrozenTrial]) -> list[FrozenTrial]:
        running = [trial for trial in unended if trial.state == OptunaState.RUNNING]
        ended = self._ended
        if len(ended) > self._n_ended:
            ended = self._best + _spread(ended, self._n_ended - _N_GOOD)
        selected = {trial.number: trial for trial in ended + _spread(running, self._n_running)}
        n_others = len(selected) - len(self._best)
        n_left_out = len(self._ended) + len(running) - len(selected)
        self._share_selected = n_others / (n_others + n_left_out) if n_left_out else 1.0
        return [selected[number] for number in sorted(selected)]


class _StudyOf:
    """A study as a sampler sees it, of some of its trials only."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        self._study = study
        self._trials = trials
        self.direction = study.direction  # read for every trial

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[OptunaState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


def _spread(trials: list[FrozenTrial], n: int) -> list[FrozenTrial]:
    """At most ``n`` of ``trials``, evenly spread."""
    if len(trials) <= n:
        return trials
    return [trials[i * len(trials) // n] for i in range(n)]
