"""The trials of a sweep: what the search proposes, until a goal is reached or all are done."""

from __future__ import annotations

import time

from tuning.control.goals import UNFIT, Ending, Goals, all_tried
from tuning.control.runs import Orders, Runs
from tuning.hosting.assignment import EpochResult
from tuning.record.events import ENDED_STATES, Record, TrialRecord, TrialState
from tuning.record.sweep import Sweep
from tuning.search.cost import seconds_of_all_epochs
from tuning.search.plan import SearchPlan
from tuning.search.space_changes import split_by_fit
from tuning.search.study import Study
from tuning.search.warm_start import warm_trials
from tuning.storage.checkpoints import CheckpointKeeper
from tuning.storage.open_store import store_of
from tuning.storage.stores import trial_key


class Trials(Runs):
    """The trials of one sitting, and those before it."""

    def __init__(self, sweep: Sweep, record: Record) -> None:
        super().__init__()
        self._sweep = sweep
        self._record = record
        history = record.history
        self.goals = Goals(sweep, history)
        self.keeper = CheckpointKeeper(
            store_of(sweep),
            max(sweep.keep_checkpoints, sweep.confirm),  # each may turn out to be the winner
            sweep.metric,
            sweep.mode,
            budget_bytes=sweep.checkpoint_budget_bytes,
            warn=lambda message: record.append("trouble", message=message),
        )
        self._study = Study(SearchPlan.of(sweep, n_known=len(history.trials)))
        self._study.learn(warm_trials(sweep), sweep.objectives)
        self._freezer = self._study.freezer
        fitting, self.dropped = split_by_fit(sweep, history)
        self._study.restore_all(fitting, sweep.objectives)
        for trial in fitting:
            self._study.curves.costs(trial.number, trial.point, self._seconds(trial))
        self._queue = self._to_do()
        self._n_proposed = len(history.trials)
        self.n_trials = min(sweep.trials, self._study.limit or sweep.trials)

    def _to_do(self) -> list[TrialRecord]:
        """The trials of earlier sittings that go on; they come before new ones.

        A trial outside of the space does not go on. If it was running when its driver was killed,
        it ends as interrupted; if it was frozen, it ends as pruned.
        """
        for trial in self.dropped:
            if trial.state in ("running", "frozen"):
                self._enter(trial, "pruned" if trial.state == "frozen" else "interrupted")
        trials, outside = self._record.history.trials.values(), {t.number for t in self.dropped}
        self.keeper.restore([trial for trial in trials if trial.state in ENDED_STATES])
        waiting = ENDED_STATES if not self._freezer.freezes else (*ENDED_STATES, "frozen")
        return [t for t in trials if t.state not in waiting and t.number not in outside]

    @property
    def n_ahead(self) -> int:
        """How many may still be proposed, with those that have not ended."""
        trials = self._record.history.trials.values()
        n_open = sum(trial.state not in ENDED_STATES for trial in trials)
        return self.n_trials - self._n_proposed + n_open

    @property
    def ending(self) -> Ending:
        """What ended this sitting, once its engine has come to the end."""
        is_grid = self._study.limit is not None and self.n_trials == self._study.limit
        return self.goals.ending or all_tried(self.n_trials, is_grid=is_grid)

    def is_over(self, n_running: int) -> bool:
        """Whether a goal is reached, or all trials have begun and none can come back."""
        if self.goals.ending is not None:
            return True
        if self._queue or self._n_proposed < self.n_trials or n_running:
            return False  # what still runs may be frozen, and thawed
        return not self._freezer.can_thaw(is_last_call=True)

    def next(self) -> TrialRecord | None:
        """One to go on with, in preference to a new one."""
        if self._queue:
            return super().next()
        thawed = self._freezer.thaw(is_last_call=self._n_proposed >= self.n_trials)
        if thawed is not None:
            return self._record.history.trials[thawed]
        if self._n_proposed >= self.n_trials:
            return None
        number = self._n_proposed
        self._n_proposed += 1
        point = self._study.ask(number)
        return TrialRecord(number, self._sweep.configuration(point), point)

    def orders(self, run: TrialRecord) -> Orders:
        beyond = self.keeper.save_beyond()
        return Orders(trial_key(run.number), beyond, save_after=self._freezer.rungs[:-1])

    def observe(self, run: TrialRecord, result: EpochResult) -> TrialState | None:
        self.keeper.look()
        value = result.metrics[self._sweep.metric]
        self.goals.reported(value)
        stop = self._study.report(run.number, result.epoch, value)
        if stop and self._freezer.freezes and not self.goals.ends_running:
            return "frozen"
        return "pruned" if stop or self.goals.ends_running else None

    def ended(self, run: TrialRecord) -> None:
        """Let all who keep account of trials know that one has ended, or is frozen."""
        self.goals.ended(run)
        self._study.costs(run.number, self._seconds(run))
        if run.state == "frozen":
            for number in self._freezer.give_up():
                self._close_off(self._record.history.trials[number])
            return
        self._study.tell(run.number, run.state, *(run.values(self._sweep.objectives) or ()))
        self.keeper.ended(run)

    def end(self, ending: Ending) -> None:
        self.goals.end(ending)

    def close(self, *, is_done: bool) -> None:
        """When the sweep is over, what is frozen stays so for good."""
        if is_done and self.ending.by != UNFIT:
            for trial in self._record.history.trials.values():
                if trial.state == "frozen":
                    self._close_off(trial)
        self.keeper.close()

    def _close_off(self, trial: TrialRecord) -> None:
        """End a frozen trial that will never go on."""
        self._enter(trial, "pruned")
        self.ended(trial)

    def _enter(self, trial: TrialRecord, state: TrialState) -> None:
        self._record.append("trial_ended", trial=trial.number, state=state, error=None)

    def _seconds(self, trial: TrialRecord) -> float | None:
        """What a training of all the trial's epochs takes; None before the first."""
        held = self._record.history.spent.trial_seconds(trial.number, time.time())
        return seconds_of_all_epochs(trial, held, self._sweep.max_epochs())
