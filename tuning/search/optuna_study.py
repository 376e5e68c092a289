"""A search's trials in Optuna's hands: asked for, reported, told as they ended."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers._ga import BaseGASampler
from optuna.trial import FrozenTrial

from search_spaces.domains import SearchSpace
from trainables.metrics import Direction
from tuning.record.events import TrialRecord, TrialState
from tuning.search.convert import suggest
from tuning.search.cost import SECONDS
from tuning.search.optuna_trials import (
    INFEASIBLE,
    OPTUNA_DIRECTIONS,
    Objectives,
    ending,
    frozen_trial,
)
from tuning.search.samplers import KNOW_FROM_TRIALS, make_sampler
from tuning.search.schedulers import SCHEDULERS

# What Optuna says to people who wrote the calls themselves
_SILENCED = (
    "Constraints have been set, but CmaEsSampler",  # it sees the worst value instead
    "Clip non-finite values",  # of infeasible trials, for the GP
)


class OptunaStudy:
    """The sampler's study, and that of the pruner, which judges by the first objective.

    They are one and the same where there is one objective. Trials go by their numbers in the sweep.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        searcher: str,
        scheduler: str,
        directions: Sequence[Direction],
        epochs: int,
        seed: int,
        n_known: int = 0,
        cost_aware: bool = False,
    ) -> None:
        """Begin without trials; the arguments are those of ``searcher.Study``."""
        # Optuna logs one line per trial at level INFO; the live view shows the same.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # `group`, experimental since 2021: nothing else samples conditional spaces jointly.
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        for message in _SILENCED:
            warnings.filterwarnings("ignore", message=message)
        self._space = space
        self._epochs = epochs
        self._directions = directions
        # Whether the sampler goes by what it was asked before, and is led through that again.
        self.asks_again = searcher not in KNOW_FROM_TRIALS
        sampler_seed = seed if self.asks_again else seed_of_sitting(seed, n_known)
        pruner = SCHEDULERS[scheduler](epochs)
        self.study = optuna.create_study(
            directions=[OPTUNA_DIRECTIONS[each] for each in directions],
            sampler=make_sampler(searcher, sampler_seed, len(directions), cost_aware=cost_aware),
            pruner=pruner,
        )
        # Optuna takes curves only where there is one objective.
        self._judge = self.study
        if len(directions) > 1:
            self._judge = optuna.create_study(
                direction=OPTUNA_DIRECTIONS[directions[0]],
                sampler=optuna.samplers.RandomSampler(seed=seed),
                pruner=pruner,
            )
        self._trials: dict[int, optuna.Trial] = {}  # those that have not ended
        self._judged: dict[int, optuna.Trial] = {}  # the same, in the judge's study

    def ask(self, number: int, point: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The point of a new trial: the one given, completed by the sampler, or all its own."""
        if point is not None:
            self.study.enqueue_trial(dict(point))
        trial = self.study.ask()
        found: dict[str, Any] = {}
        for name, domain in self._space.domains.items():
            if self._space.is_active(name, found):
                found[name] = suggest(trial, name, domain)
        self._trials[number] = trial
        self._judged[number] = trial if self._judge is self.study else self._judge.ask()
        return found

    def has_unended(self, number: int) -> bool:
        """Whether a trial was asked for and not told of."""
        return number in self._trials

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Hear the first objective's value after ``epoch``; True if the pruner would stop now."""
        trial = self._judged[number]
        trial.report(value, epoch)
        return epoch < self._epochs and trial.should_prune()

    def tell(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        seconds: float | None = None,
    ) -> None:
        """Hear how a trial ended.

        Args:
            values: one per objective.
            seconds: what a training of all its epochs takes.
        """
        trial, judged = self._trials.pop(number), self._judged.pop(number)
        if seconds is not None:
            trial.set_user_attr(SECONDS, seconds)
        if values is not None and len(values) != len(self._directions):
            values = None
        end = ending(state, values, self._directions)
        if end.constraint is not None:
            trial.set_constraint(INFEASIBLE, end.constraint)
        self.study.tell(trial, end.values, state=end.state)
        if judged is not trial:
            self._judge.tell(judged, end.values and end.values[0], state=end.state)

    def learn(self, record: TrialRecord, objectives: Objectives) -> bool:
        """Hear of a finished trial that is not this sweep's own; False if it does not fit."""
        trial = frozen_trial(self._space, record, objectives)
        if trial is None:
            return False
        sampler = self.study.sampler
        if isinstance(sampler, BaseGASampler):  # it knows only generations: they are the first
            trial.system_attrs[sampler._get_generation_key()] = 0
        self.study.add_trial(trial)
        return True

    def add_ended(self, record: TrialRecord, objectives: Objectives, seconds: float | None) -> None:
        """Take over a trial that ended in an earlier sitting, if it fits into the space."""
        trial = frozen_trial(self._space, record, objectives)
        if trial is None:
            return
        if seconds is not None:
            trial.set_user_attr(SECONDS, seconds)
        self.study.add_trial(trial)
        if self._judge is not self.study:
            primary = dict(list(objectives.items())[:1])
            judged = frozen_trial(self._space, record, primary)
            assert judged is not None
            self._judge.add_trial(judged)
            trial = judged
        self._judge_again(trial)

    def _judge_again(self, trial: FrozenTrial) -> None:
        """Show the pruner a trial that was just added, epoch by epoch: it may keep what it saw."""
        seen = copy.copy(trial)
        seen.number = len(self._judge.get_trials(deepcopy=False)) - 1
        seen.intermediate_values = {}
        for epoch, value in trial.intermediate_values.items():
            seen.intermediate_values[epoch] = value
            if epoch < self._epochs:
                self._judge.pruner.prune(self._judge, seen)  # what came of it then stands


def seed_of_sitting(seed: int, n_known: int) -> int:
    """Another one in each sitting: else what was proposed in the first would be proposed again."""
    return seed if n_known == 0 else random.Random(f"{seed}, {n_known}").randrange(2**32)
