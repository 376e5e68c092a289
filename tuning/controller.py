"""What a sweep does about each thing that happens, whichever engine runs its trials.

An engine asks ``propose`` for work, tells ``observe`` of every epoch and ``ended`` of every trial's
end. It calls them from one thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from tuning.checkpoints import CheckpointKeeper, trial_folder
from tuning.hosting import Assignment, EpochResult, Outcome
from tuning.record import ENDED_STATES, Record, TrialRecord
from tuning.resources import Resources
from tuning.searcher import Study
from tuning.sweep import Sweep

_SECONDS_BETWEEN_CHECKPOINTS = 60.0  # what a killed trial may lose, against what a checkpoint costs


class Controller:
    """The decisions of one sitting of a sweep."""

    def __init__(self, sweep: Sweep, record: Record, resources: Resources) -> None:
        self.sweep = sweep
        self.resources = resources
        self._record = record
        self._started = time.monotonic()
        self._keeper = CheckpointKeeper(
            sweep.folder, sweep.keep_checkpoints, sweep.metric, sweep.mode
        )
        self._study = Study(
            sweep.space,
            searcher=sweep.searcher,
            scheduler=sweep.scheduler,
            direction=sweep.mode,
            epochs=sweep.max_epochs(),
            seed=sweep.seed,
            n_known=len(record.history.trials),
        )
        self._unfinished: list[TrialRecord] = []
        self._running: set[int] = set()
        for trial in self.trials.values():
            self._study.restore(trial, sweep.metric, sweep.mode)
            if trial.state in ENDED_STATES:
                self._keeper.ended(trial)
            else:
                self._unfinished.append(trial)
        self._n_proposed = len(self.trials)
        self.n_trials = min(sweep.trials, self._study.limit or sweep.trials)

    @property
    def trials(self) -> Mapping[int, TrialRecord]:
        """Every trial so far, by number."""
        return self._record.history.trials

    @property
    def n_running(self) -> int:
        """Trials proposed whose end is not known yet."""
        return len(self._running)

    @property
    def exhausted(self) -> bool:
        """Whether no further trial will ever be proposed in this sitting."""
        return (
            (not self._unfinished and self._n_proposed >= self.n_trials)
            or self.out_of_time
            or self.too_many_failures
        )

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is spent, earlier sittings included."""
        left = self.seconds_left
        return left is not None and left <= 0

    @property
    def seconds_left(self) -> float | None:
        """Of the time budget; None without one."""
        if self.sweep.time_budget_seconds is None:
            return None
        spent = self._record.history.wall_seconds + time.monotonic() - self._started
        return self.sweep.time_budget_seconds - spent

    @property
    def too_many_failures(self) -> bool:
        """Whether more trials failed than ``max_failures`` allows."""
        limit = self.sweep.max_failures
        return limit is not None and self._record.history.n_in_state["failed"] > limit

    def propose(self) -> Assignment | None:
        """The next trial to run; None if all slots are taken or there is none left."""
        if self.exhausted or self.n_running >= self.resources.concurrency:
            return None
        if self._unfinished:
            trial = self._unfinished.pop(0)
            number, point, config = trial.number, trial.point, trial.config
        else:
            number = self._n_proposed
            self._n_proposed += 1
            point = self._study.ask(number)
            config = self.sweep.configuration(point)
        self._running.add(number)
        self._record.append("trial_started", trial=number, point=point, config=config)
        sweep = self.sweep
        return Assignment(
            trial=number,
            config=config,
            task=sweep.space.task,
            train_file=None if sweep.train_file is None else str(sweep.train_file),
            trial_folder=str(trial_folder(sweep.folder, number)),
            cache_folder=str(sweep.cache_folder),
            metric=sweep.metric,
            mode=sweep.mode,
            save_beyond=self._keeper.save_beyond(),
            device="cuda" if self.resources.gpus_per_trial else "cpu",
            n_threads=self.resources.n_threads,
            seconds_between_checkpoints=_SECONDS_BETWEEN_CHECKPOINTS,
            prefix_cache_bytes=sweep.prefix_cache_bytes,
            data_fingerprint=sweep.data_fingerprint(config),
        )

    def observe(self, number: int, result: EpochResult) -> bool:
        """Hear of an epoch; True if the trial should stop, in which case it has ended as pruned."""
        if number not in self._running:
            return True
        if result.epoch in self.trials[number].curve:
            return False  # a trial that goes on from a checkpoint repeats some epochs
        self._record.append(
            "epoch",
            trial=number,
            epoch=result.epoch,
            metrics=dict(result.metrics),
            note=result.note,
            tags=dict(result.tags),
        )
        value = result.metrics[self.sweep.metric]
        stop = self._study.report(number, result.epoch, value)
        if stop or self.out_of_time:
            self.ended(number, Outcome("pruned"))
            return True
        return False

    def retried(self, number: int, reason: str) -> None:
        """Hear that a trial starts again, from its last checkpoint if it has one."""
        if number in self._running:
            self._record.append("trial_retried", trial=number, reason=reason)

    def ended(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended. A second call for the same trial is ignored."""
        if number not in self._running:
            return
        self._running.discard(number)
        value = self.trials[number].value(self.sweep.metric, self.sweep.mode)
        self._study.tell(number, outcome.state, value)
        self._record.append("trial_ended", trial=number, state=outcome.state, error=outcome.error)
        self._keeper.ended(self.trials[number])

    def close(self) -> None:
        """End this sitting: what still runs is interrupted, and can be resumed."""
        for number in sorted(self._running):
            self._record.append("trial_ended", trial=number, state="interrupted", error=None)
        self._running.clear()
        self._keeper.close()
