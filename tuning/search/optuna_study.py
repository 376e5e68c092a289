"""A search's trials in Optuna's hands: asked for, reported, told as they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseGASampler, BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from tuning.record.events import TrialRecord, TrialState
from tuning.record.methods import SCHEDULERS
from tuning.search.optuna_trials import (
    INFEASIBLE,
    OPTUNA_DIRECTIONS,
    Objectives,
    ending,
    frozen_trial,
    quiet_optuna,
    suggest_point,
)
from tuning.search.plan import SearchPlan
from tuning.search.samplers import make_sampler


class OptunaStudy:
    """The sampler's study, and the pruner's, which judges by the first objective.

    With one objective the two are the same study. With several, Optuna takes no curves, so the
    pruner gets a study of its own. Trials go by their numbers in the sweep.
    """

    def __init__(self, plan: SearchPlan) -> None:
        """Begin without trials."""
        quiet_optuna()
        self._plan = plan
        self._storage = optuna.storages.InMemoryStorage()
        self.study = self._create(
            "search", len(plan.directions), make_sampler(plan.searcher, plan.sampling_seed)
        )
        self._judge = self.study
        if len(plan.directions) > 1:
            self._judge = self._create("judge", 1, RandomSampler(seed=plan.seed))
        self._trials: dict[int, optuna.Trial] = {}  # those that have not ended
        self._judged: dict[int, optuna.Trial] = {}  # the same, in the judge's study

    def _create(self, name: str, n_objectives: int, sampler: BaseSampler) -> optuna.Study:
        # Hyperband draws a trial's bracket from the study's name, so it must not be a random one.
        return optuna.create_study(
            study_name=name,
            storage=self._storage,
            directions=[OPTUNA_DIRECTIONS[each] for each in self._plan.directions[:n_objectives]],
            sampler=sampler,
            pruner=SCHEDULERS[self._plan.scheduler].make(self._plan.epochs),
        )

    def ask(self, number: int, point: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The point of a new trial: the one given, completed by the sampler, or all its own."""
        if point is not None:
            self.study.enqueue_trial(dict(point))
        trial = self.study.ask()
        found = suggest_point(trial, self._plan.space)
        self._trials[number] = trial
        self._judged[number] = trial if self._judge is self.study else self._judge.ask()
        return found

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Hear the first objective's value after ``epoch``; True if the pruner would stop now."""
        trial = self._judged[number]
        trial.report(value, epoch)
        return epoch < self._plan.epochs and trial.should_prune()

    def tell(self, number: int, state: TrialState, values: Sequence[float]) -> None:
        """Hear how a trial ended; ``values`` has one per objective."""
        trial, judged = self._trials.pop(number), self._judged.pop(number)
        end = ending(state, values, self._plan.directions)
        if end.constraint is not None:
            trial.set_constraint(INFEASIBLE, end.constraint)
        self.study.tell(trial, end.values, state=end.state)
        if judged is not trial:
            self._judge.tell(judged, end.values and end.values[0], state=end.state)

    def learn(
        self, record: TrialRecord, objectives: Objectives, *, is_own: bool, is_judged: bool = False
    ) -> bool:
        """Take over a trial that has ended; False if it does not fit into the space.

        Args:
            is_own: it is of this sweep, so that the judge hears of it too.
            is_judged: show its curve to the pruner.
        """
        trial = frozen_trial(self._plan.space, record, objectives)
        if trial is None:
            return False
        is_one = self._judge is self.study
        self._add(self.study, trial, is_judged=is_judged and is_one)
        if is_own and not is_one:
            first = dict(list(objectives.items())[:1])
            judged = frozen_trial(self._plan.space, record, first)
            assert judged is not None
            self._add(self._judge, judged, is_judged=is_judged)
        return True

    def _add(self, study: optuna.Study, trial: FrozenTrial, *, is_judged: bool) -> None:
        """Add a finished trial as one that runs and then ends.

        On the way a genetic sampler puts it into a generation, and the pruner enters it at the
        rungs that it reached. Both look only at trials that went through their hands.
        """
        state, values, curve = trial.state, trial.values, trial.intermediate_values
        trial.state, trial.values, trial.datetime_complete = OptunaState.RUNNING, None, None
        trial.intermediate_values = {}
        study_id = self._storage.get_study_id_from_name(study.study_name)
        trial_id = self._storage.create_new_trial(study_id, template_trial=trial)
        if isinstance(study.sampler, BaseGASampler):
            study.sampler.get_trial_generation(study, self._storage.get_trial(trial_id))
        for epoch, value in curve.items():
            self._storage.set_trial_intermediate_value(trial_id, epoch, value)
            if is_judged and epoch < self._plan.epochs:  # what came of it then stands
                study.pruner.prune(study, self._storage.get_trial(trial_id))
        self._storage.set_trial_state_values(trial_id, state, values)
