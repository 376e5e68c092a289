"""The Optuna study of a sweep: proposes points, hears curves, is told how each trial ended."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState as OptunaState

from search_spaces.domains import SearchSpace
from trainables.metrics import Direction
from tuning.bounded_tpe import BoundedTPESampler
from tuning.convert import suggest
from tuning.cost import SECONDS, CostAwareTPESampler
from tuning.record import ENDED_STATES, TrialRecord, TrialState
from tuning.schedulers import SCHEDULERS

# name -> sampler from (seed); a grid is enqueued, so its sampler is never asked
SEARCHERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: BoundedTPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}

# Those that can weigh what a trial costs
COST_AWARE: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: CostAwareTPESampler(seed=seed),
}

INFEASIBLE = "infeasible"  # name of the constraint that a diverged or too large trial breaks


class Study:
    """Engine-free: the Ray engine and the in-process one ask it for points and tell it results.

    It lives in memory; ``restore`` fills it from a sweep's record.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        searcher: str,
        scheduler: str,
        direction: Direction,
        epochs: int,
        seed: int,
        n_known: int = 0,
        cost_aware: bool = False,
    ) -> None:
        """Begin a study.

        Args:
            n_known: trials of earlier sittings. A sampler that began anew from the same seed would
                propose what it proposed then.
            cost_aware: weigh what a trial costs; with the searcher ``tpe`` only.
        """
        # Optuna logs one line per trial at level INFO; the live view shows the same.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # `group`, experimental since 2021: nothing else samples conditional spaces jointly.
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._space = space
        self._epochs = epochs
        make_sampler = COST_AWARE[searcher] if cost_aware else SEARCHERS[searcher]
        self._study = optuna.create_study(
            direction="maximize" if direction == "max" else "minimize",
            sampler=make_sampler(_sampler_seed(seed, n_known)),
            pruner=SCHEDULERS[scheduler](epochs),
        )
        self._trials: dict[int, optuna.Trial] = {}
        points: list[Mapping[str, Any]] = list(space.starting_points)
        if searcher == "grid":
            # In random order: a sweep cut short by its budget has seen all corners of the grid.
            points = list(space.grid())
            random.Random(seed).shuffle(points)
        self._queue = points
        self._limit = len(points) if searcher == "grid" else None

    @property
    def limit(self) -> int | None:
        """How many trials there are at all, if the searcher has only so many."""
        return self._limit

    def ask(self, number: int) -> dict[str, Any]:
        """The point of trial ``number``: starting points in their order, then the sampler's."""
        if number < len(self._queue):
            self._study.enqueue_trial(dict(self._queue[number]))
        return self._ask(number)

    def _ask(self, number: int) -> dict[str, Any]:
        trial = self._study.ask()
        point: dict[str, Any] = {}
        for name, domain in self._space.domains.items():
            if self._space.is_active(name, point):
                point[name] = suggest(trial, name, domain)
        self._trials[number] = trial
        return point

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Hear the value after ``epoch`` (counted from 1); True if the trial should stop now."""
        trial = self._trials[number]
        trial.report(value, epoch)
        return epoch < self._epochs and trial.should_prune()

    def tell(
        self, number: int, state: TrialState, value: float | None, seconds: float | None = None
    ) -> None:
        """Hear how a trial ended: completed with its best value, pruned, failed or infeasible.

        Args:
            seconds: what a training of all its epochs takes.
        """
        trial = self._trials.pop(number)
        if seconds is not None:
            trial.set_user_attr(SECONDS, seconds)
        if state == "completed" and value is not None:
            self._study.tell(trial, value)
        elif state == "pruned":
            self._study.tell(trial, state=OptunaState.PRUNED)
        else:
            if state == "infeasible":
                trial.set_constraint(INFEASIBLE, 1.0)
            self._study.tell(trial, state=OptunaState.FAIL)

    def restore(
        self, record: TrialRecord, metric: str, mode: Direction, seconds: float | None = None
    ) -> None:
        """Take over a trial of an earlier sitting: as it ended, or else as running again."""
        number = record.number
        self._study.enqueue_trial(dict(record.point))
        self._ask(number)
        for epoch, metrics in sorted(record.curve.items()):
            if metric in metrics:
                self.report(number, epoch, metrics[metric])  # what came of it then stands
        if record.state in ENDED_STATES:
            self.tell(number, record.state, record.value(metric, mode), seconds)


def _sampler_seed(seed: int, n_known: int) -> int:
    return seed if n_known == 0 else random.Random(f"{seed}, {n_known}").randrange(2**32)
