"""What a search is compared with: each peer as its documentation has it, driven without a cluster.

The classes are the packages' own. Nothing but the training is replaced, and what they hear is what
their own loop would have told them at that point.
"""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, Literal

from search_dehb import DEHB_VERSION, DehbSearch
from search_simulator import Leg, MakeSearcher

from search_spaces.domains import SearchSpace
from tuning.search.optuna_trials import suggest_point

Direction = Literal["max", "min"]
_METRIC = "value"


@dataclass(frozen=True)
class Peer:
    """A searcher to compare with."""

    make: MakeSearcher
    version: Callable[[], str]  # results of another version are not kept
    budget_factor: int = 1  # of the budget that all others get


class RandomSearch:
    """Full trainings of random points, as many as the budget holds."""

    def __init__(
        self,
        space: SearchSpace,
        direction: Direction,
        epochs: int,
        n_workers: int,
        budget_epochs: int,
        seed: int,
    ) -> None:
        self._space = space
        self._generator = random.Random(seed)
        self._epochs = epochs
        self._n_free = budget_epochs  # epochs that no trial has been promised
        self._n_trials = 0

    def next(self) -> Leg | None:
        if self._n_free < self._epochs:
            return None
        self._n_free -= self._epochs
        self._n_trials += 1
        return Leg(self._n_trials - 1, self._space.sample(self._generator))

    def observe(self, trial: int, epoch: int, value: float, seconds: float) -> bool:
        if math.isnan(value):
            self._n_free += self._epochs - epoch
        return False


class RayOptunaAsha:
    """Ray Tune's OptunaSearch and ASHAScheduler, told as Tune's controller tells them.

    In ``TuneController._process_trial_result`` (ray 2.60) the scheduler decides first; a result
    that stops the trial goes to the searcher as the completed trial's, any other as an
    intermediate one. The searcher's and the scheduler's settings are the documented defaults, but
    for ``max_t``, the epochs of a full training.
    """

    def __init__(
        self,
        space: SearchSpace,
        direction: Direction,
        epochs: int,
        n_workers: int,
        budget_epochs: int,
        seed: int,
        sampler: Any = None,
    ) -> None:
        _quieten_optuna()
        # It warns of values that are not a number, which it does not tell, and of a slow machine.
        logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", message="Define-by-run function")
        from ray.tune.schedulers import ASHAScheduler, TrialScheduler
        from ray.tune.search.optuna import OptunaSearch

        def define(trial: Any) -> None:
            suggest_point(trial, space)

        self._stop = TrialScheduler.STOP
        self._search = OptunaSearch(
            define, metric=_METRIC, mode=direction, seed=seed, sampler=sampler
        )
        self._scheduler = ASHAScheduler(metric=_METRIC, mode=direction, max_t=epochs)
        self._trials: list[SimpleNamespace] = []

    def next(self) -> Leg:
        number = len(self._trials)
        trial = SimpleNamespace(trial_id=str(number))  # all that the scheduler reads of a trial
        point = self._search.suggest(trial.trial_id)
        assert point is not None
        self._trials.append(trial)
        self._scheduler.on_trial_add(None, trial)
        return Leg(number, point)

    def observe(self, trial: int, epoch: int, value: float, seconds: float) -> bool:
        result = {_METRIC: value, "training_iteration": epoch}
        decision = self._scheduler.on_trial_result(None, self._trials[trial], result)
        if decision == self._stop or math.isnan(value):
            self._search.on_trial_complete(str(trial), result=result)
            return True
        self._search.on_trial_result(str(trial), result)
        return False


def make_asha_random(
    space: SearchSpace,
    direction: Direction,
    epochs: int,
    n_workers: int,
    budget_epochs: int,
    seed: int,
) -> RayOptunaAsha:
    """ASHA as above, on random points."""
    from optuna.samplers import RandomSampler

    sampler = RandomSampler(seed=seed)
    return RayOptunaAsha(space, direction, epochs, n_workers, budget_epochs, seed, sampler)


class OptunaHyperband:
    """Optuna's TPESampler and HyperbandPruner, as the example in the pruner's documentation.

    There steps count from 0, ``max_resource`` is the number of steps, a pruned trial ends as
    PRUNED, and a full one with its last value. A value that is not a number fails the trial.
    """

    def __init__(
        self,
        space: SearchSpace,
        direction: Direction,
        epochs: int,
        n_workers: int,
        budget_epochs: int,
        seed: int,
    ) -> None:
        _quieten_optuna()
        import optuna

        self._space = space
        self._epochs = epochs
        self._states = optuna.trial.TrialState
        self._study = optuna.create_study(
            study_name=f"seed {seed}",  # decides which bracket a trial is in; random without one
            direction="maximize" if direction == "max" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.HyperbandPruner(
                min_resource=1, max_resource=epochs, reduction_factor=3
            ),
        )
        self._trials: list[Any] = []

    def next(self) -> Leg:
        trial = self._study.ask()
        self._trials.append(trial)
        return Leg(len(self._trials) - 1, suggest_point(trial, self._space))

    def observe(self, trial: int, epoch: int, value: float, seconds: float) -> bool:
        asked = self._trials[trial]
        if math.isnan(value):
            self._study.tell(asked, state=self._states.FAIL)
            return True
        asked.report(value, epoch - 1)
        if epoch == self._epochs:
            self._study.tell(asked, value)
            return True
        if asked.should_prune():
            self._study.tell(asked, state=self._states.PRUNED)
            return True
        return False


def _quieten_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")


def _ray_version() -> str:
    return f"ray {version('ray')}, {_optuna_version()}"


def _optuna_version() -> str:
    return f"optuna {version('optuna')}"


PEERS = {
    "random": Peer(RandomSearch, lambda: "1"),
    "random_twice": Peer(RandomSearch, lambda: "1", budget_factor=2),
    "ray_optuna_asha": Peer(RayOptunaAsha, _ray_version),
    "optuna_hyperband": Peer(OptunaHyperband, _optuna_version),
    "dehb": Peer(DehbSearch, lambda: f"dehb {DEHB_VERSION}"),
    "ray_random_asha": Peer(make_asha_random, _ray_version),
}
