"""What a sweep does about each thing that happens, whichever engine runs its trials.

An engine asks ``propose`` for work, tells ``observe`` of every epoch and ``ended`` of every trial's
end. It calls them from one thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from tuning.control.confirm import Confirmation
from tuning.control.goals import OF_FAILURE, UNFIT, Ending, Goals, all_tried
from tuning.control.gpu_packing import Packing
from tuning.hosting.node_needs import Needs
from tuning.hosting.trial_host import Assignment, EpochResult, Outcome
from tuning.record.events import ENDED_STATES, Record, TrialRecord, TrialState
from tuning.record.resources import Resources, Slot
from tuning.record.sweep import Sweep
from tuning.search.cost import seconds_of_all_epochs
from tuning.search.space_changes import split_by_fit
from tuning.search.study import Study
from tuning.search.warm_start import warm_trials
from tuning.storage.checkpoints import CheckpointKeeper, trial_folder
from tuning.storage.open_store import StoreAddress, address_of, store_of

_ROUNDING = 1e-6
_SECONDS_BETWEEN_CHECKPOINTS = 60.0  # what a killed trial may lose, against what a checkpoint costs
# of one trial, each from its last checkpoint
_RETRIES_WITHOUT_PROGRESS = 2
# Trials given back by workers that can not run any, without an epoch of another between.
_MOST_GIVEN_BACK = 3


class Controller:
    """The decisions of one sitting of a sweep."""

    def __init__(
        self,
        sweep: Sweep,
        record: Record,
        resources: Resources,
        *,
        address: StoreAddress | None = None,
        needs: Needs | None = None,
    ) -> None:
        """Begin a sitting.

        Args:
            address: how workers reach the sweep's checkpoints; by default as this process does.
            needs: what workers on other machines must have; None where there are none.
        """
        self.sweep = sweep
        self._address = address or address_of(sweep)
        self._needs = needs
        self._n_given_back = 0
        self.resources = resources
        self._record = record
        self._goals = Goals(sweep, record.history)
        self._confirmation = Confirmation(sweep, record)
        self._keeper = CheckpointKeeper(
            store_of(sweep),
            max(sweep.keep_checkpoints, sweep.confirm),  # each may turn out to be the winner
            sweep.metric,
            sweep.mode,
            budget_bytes=sweep.checkpoint_budget_bytes,
            warn=lambda message: record.append("trouble", message=message),
        )
        self._study = Study(
            sweep.space,
            searcher=sweep.searcher,
            scheduler=sweep.scheduler,
            direction=sweep.mode,
            epochs=sweep.max_epochs(),
            seed=sweep.seed,
            n_known=len(record.history.trials),
            n_trials=sweep.trials,
            other_directions=tuple(sweep.other_metrics.values()),
            cost_aware=sweep.cost_aware,
        )
        self._unfinished: list[TrialRecord] = []
        self._running: dict[int, Slot] = {}
        self._heard: dict[int, float] = {}  # running trial -> time.monotonic() of its last sign
        self._lost: dict[int, tuple[int, int]] = {}  # trial -> lost processes, at so many epochs
        self._packing = Packing(resources.most_per_gpu)
        self._micro_batches: dict[int, int] = {}  # trial of several workers -> after halving
        self._study.learn(warm_trials(sweep), sweep.objectives)
        fitting, self.dropped = split_by_fit(sweep, record.history)
        self._study.restore_all(fitting, sweep.objectives, self._seconds)
        outside = {trial.number for trial in self.dropped}
        self._keeper.restore([t for t in self.trials.values() if t.state in ENDED_STATES])
        for trial in self.trials.values():
            if trial.state in ENDED_STATES:
                continue
            if trial.number not in outside:
                if trial.state != "frozen" or not self._study.rungs:
                    self._unfinished.append(trial)
            elif trial.state == "running":  # when its driver was killed
                record.append("trial_ended", trial=trial.number, state="interrupted", error=None)
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
    def n_ahead(self) -> int:
        """Trials that may still run, those that do included; at least one."""
        n_open = sum(trial.state not in ENDED_STATES for trial in self.trials.values())
        n_confirming = self.sweep.confirm * self.sweep.confirm_seeds
        return max(1, self.n_trials - self._n_proposed + n_open + n_confirming)

    @property
    def exhausted(self) -> bool:
        """Whether no further trial will ever be proposed in this sitting."""
        # One that runs comes back if its process dies, or if it was packed and ran out of memory.
        none_comes_back = not self._running
        ending = self._goals.ending
        if ending is None and not (self._nothing_to_try and none_comes_back):
            return False
        if self.sweep.confirm == 0 or (ending is not None and ending.by in OF_FAILURE):
            return True
        return self._confirmation.exhausted and none_comes_back

    @property
    def _nothing_to_try(self) -> bool:
        """Whether all trials have begun, and none that is frozen will go on."""
        if self._unfinished or self._n_proposed < self.n_trials:
            return False
        if not self._study.rungs:
            return True
        # What still runs may be frozen, and thawed.
        is_any_running = any(number in self.trials for number in self._running)
        return not is_any_running and not self._study.can_thaw(is_last_call=True)

    @property
    def ending(self) -> Ending:
        """What ended this sitting, once its engine has come to the end."""
        is_grid = self._study.limit is not None and self.n_trials == self._study.limit
        return self._goals.ending or all_tried(self.n_trials, is_grid=is_grid)

    def propose(self) -> Assignment | None:
        """The next trial to run; None if all slots are taken or there is none left."""
        slot = self.resources.slot(self._packing.trials_per_gpu)
        if self.exhausted or not self._has_room(slot):
            return None
        confirms = None
        if self._goals.ending is not None or self._nothing_to_try:
            known = self._next_confirmation()
            if known is None:
                return None
            confirms = known.confirms
        else:
            known = self._known_trial()
        if known is not None:
            number, point, config = known.number, known.point, known.config
        elif self._n_proposed >= self.n_trials:
            return None
        else:
            number = self._n_proposed
            self._n_proposed += 1
            point = self._study.ask(number)
            config = self.sweep.configuration(point)
        self._running[number] = slot
        self._record.append(
            "trial_started",
            trial=number,
            point=point,
            config=config,
            gpus=slot.gpus * self.resources.n_workers,
            confirms=confirms,
        )
        sweep, trial = self.sweep, self._record.history.trial(number)
        return Assignment(
            trial=number,
            config=self._with_micro_batch(trial, config),
            task=sweep.space.task,
            train_file=None if sweep.train_file is None else str(sweep.train_file),
            trial_folder=str(trial_folder(sweep.folder, number)),
            cache_folder=str(sweep.cache_folder),
            metric=sweep.metric,
            mode=sweep.mode,
            other_metrics=tuple(sweep.other_metrics),
            save_beyond=self._keeper.save_beyond() if confirms is None else self._unreachable,
            device="cuda" if slot.gpus else "cpu",
            cpus=slot.cpus,
            gpus=slot.gpus,
            n_threads=slot.n_threads,
            seconds_between_checkpoints=_SECONDS_BETWEEN_CHECKPOINTS,
            prefix_cache_bytes=sweep.prefix_cache_bytes,
            data_fingerprint=sweep.data_fingerprint(config),
            store=self._address.to_json(),
            needs=None if self._needs is None else self._needs.to_json(),
            is_new=known is None,
            strategy=sweep.strategy,
            save_after=self._study.rungs[:-1] if confirms is None else (),
        )

    def _with_micro_batch(self, trial: TrialRecord, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration with the micro-batch that a trial has come down to."""
        size = self._micro_batch(trial)
        return dict(config) if size is None else {**config, "micro_batch_size": size}

    def _micro_batch(self, trial: TrialRecord) -> int | None:
        """What a trial of several workers, or else the one that it confirms, has come down to."""
        numbers = (trial.number, -1 if trial.confirms is None else trial.confirms)
        return next((self._micro_batches[n] for n in numbers if n in self._micro_batches), None)

    def _known_trial(self) -> TrialRecord | None:
        """One to go on with, in preference to a new one."""
        if self._unfinished:
            return self._unfinished.pop(0)
        thawed = self._study.thaw(is_last_call=self._n_proposed >= self.n_trials)
        return None if thawed is None else self.trials[thawed]

    def _next_confirmation(self) -> TrialRecord | None:
        """The next run with a fresh seed, once all trials have ended and the best are known."""
        if self.sweep.confirm == 0 or any(number in self.trials for number in self._running):
            return None
        self._goals.end(self.ending)
        return self._confirmation.next()

    @property
    def _unreachable(self) -> float:
        """A value that no epoch beats, so that none is saved for being the best."""
        return math.inf if self.sweep.mode == "max" else -math.inf

    def _has_room(self, slot: Slot) -> bool:
        """Whether one more may run: Ray is not asked for what it would have to wait for."""
        if self.n_running >= self.resources.concurrency:
            return False
        if self.resources.most_per_gpu == 1:
            return True
        taken = sum(running.gpus for running in self._running.values())
        return taken + slot.gpus <= self.resources.n_gpus + _ROUNDING

    def resized(self, resources: Resources) -> None:
        """Hear that nodes have come or gone; what runs goes on, or is heard of as lost."""
        before, self.resources = self.resources.concurrency, resources
        if before and not resources.concurrency:
            message = "waiting for nodes: not even one trial fits into those that are left"
            self._record.append("trouble", message=message)

    def observe(self, number: int, result: EpochResult) -> bool:
        """Hear of an epoch; True if the trial should stop, in which case it has ended as pruned."""
        if number not in self._running:
            return True
        self.began(number)
        self._n_given_back = 0
        trial = self._record.history.trial(number)
        if result.epoch in trial.curve:
            if result.note:
                self._record.append("trouble", message=f"{trial.label}: {result.note}")
            return False  # a trial that goes on from a checkpoint repeats some epochs
        halved = self._halved(number, result)
        notes = [note for note in (result.note, halved) if note]
        self._record.append(
            "epoch",
            trial=number,
            epoch=result.epoch,
            metrics=dict(result.metrics),
            note="; ".join(notes) or None,
            tags=dict(result.tags),
        )
        self._learn_memory(number, result, ran_out=halved is not None)
        self._keeper.look()
        if trial.confirms is not None:
            return False
        value = result.metrics[self.sweep.metric]
        self._goals.reported(value)
        stop = self._study.report(number, result.epoch, value)
        if stop and self._study.rungs and not self._goals.ends_running:
            self._freeze(number)
            return True
        if stop or self._goals.ends_running:
            self.ended(number, Outcome("pruned"))
            return True
        return False

    def _freeze(self, number: int) -> None:
        """Let a trial give its slot away; it may go on later."""
        self._release(number)
        self._record.append("trial_ended", trial=number, state="frozen", error=None)
        self._study.frozen(number, self._seconds(self.trials[number]))
        self._goals.ended(self.trials[number])
        for hopeless in self._study.give_up():
            self._tell(self.trials[hopeless], "pruned")

    def _release(self, number: int) -> Slot:
        """Take a trial's slot away from it."""
        self._heard.pop(number, None)
        return self._running.pop(number)

    def began(self, number: int) -> None:
        """Hear that a trial's process is up: from now on it may not be silent for too long."""
        self._heard[number] = time.monotonic()

    def give_up_silent(self) -> list[int]:
        """End the trials that have not reported within the epoch timeout, as failed; say which."""
        limit = self.sweep.epoch_timeout_seconds
        if limit is None:
            return []
        now = time.monotonic()
        silent = [number for number in self._running if now - self._heard.get(number, now) > limit]
        for number in silent:
            reason = f"no epoch report within {limit:g} s (--epoch-timeout); its process was ended"
            self.ended(number, Outcome("failed", reason))
        return silent

    def retried(self, number: int, reason: str) -> None:
        """Hear that a trial starts again, from its last checkpoint if it has one."""
        if number in self._running:
            self._heard.pop(number, None)
            self._record.append("trial_retried", trial=number, reason=reason)

    def worker_lost(self, number: int) -> None:
        """Hear that a trial's process died: it is proposed again, and goes on from its checkpoint.

        It fails if that happens again and again without an epoch between.
        """
        if number not in self._running:
            return
        trial = self._record.history.trial(number)
        n_epochs = len(trial.curve)
        n_lost, n_epochs_then = self._lost.get(number, (0, n_epochs))
        n_lost = n_lost + 1 if n_epochs == n_epochs_then else 1
        if n_lost > _RETRIES_WITHOUT_PROGRESS:
            reason = f"its worker process died {n_lost} times without an epoch between"
            self.ended(number, Outcome("failed", reason))
            return
        self._lost[number] = (n_lost, n_epochs)
        self.retried(number, "its worker process died")
        self._release(number)
        self._put_back(trial)

    def _given_back(self, number: int, reason: str) -> None:
        """Let a trial be the next once more, for its worker can not run any.

        If none can, the sweep ends, and what is wrong can be mended before it is resumed.
        """
        self._n_given_back += 1
        self.retried(number, reason)
        self._release(number)
        self._put_back(self._record.history.trial(number))
        if self._n_given_back >= _MOST_GIVEN_BACK:
            self._goals.end(Ending(UNFIT, f"no worker can run its trials: {reason}"))

    def _put_back(self, trial: TrialRecord) -> None:
        """Let a trial be the next once more."""
        if trial.confirms is None:
            self._unfinished.insert(0, trial)
        else:
            self._confirmation.again(trial)

    def ended(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended. A second call for the same trial is ignored."""
        if number not in self._running:
            return
        if outcome.state == "interrupted":
            self._given_back(number, outcome.error or "")
            return
        if outcome.out_of_memory:
            self._learn_memory(number, None, ran_out=True)
        slot = self._release(number)
        trial = self._record.history.trial(number)
        if outcome.out_of_memory and self._halve_micro_batch(trial):
            self._put_back(trial)
            return
        if outcome.out_of_memory and slot.trials_per_gpu > 1:
            # It may fit where fewer share the GPU: only then is it infeasible.
            reason = f"out of memory with {slot.trials_per_gpu} trials on a GPU"
            self._record.append("trial_retried", trial=number, reason=reason)
            self._put_back(trial)
            return
        if trial.confirms is None:
            self._tell(trial, outcome.state, outcome.error)
        else:
            self._record.append(
                "trial_ended", trial=number, state=outcome.state, error=outcome.error
            )
            self._keeper.discard(trial)

    def _halve_micro_batch(self, trial: TrialRecord) -> bool:
        """Whether a trial of several workers that ran out of memory can be tried with half of it.

        One worker alone does so by itself. Of several, only some may have run out, and the others
        wait for them: they are all started again.
        """
        batch_size = trial.config.get("batch_size")
        n_workers = self.resources.n_workers
        if n_workers == 1 or self.sweep.space.task is None or batch_size is None:
            return False
        share = math.ceil(batch_size / n_workers)
        newest = trial.curve[max(trial.curve)].get("micro_batch_size") if trial.curve else None
        known = self._micro_batch(trial) or newest
        size = min(int(known or trial.config.get("micro_batch_size") or batch_size), share)
        if size == 1:
            return False
        self._micro_batches[trial.number] = half = math.ceil(size / 2)
        reason = f"out of memory with a micro-batch of {size} on each worker; it is {half} now"
        self._record.append("trial_retried", trial=trial.number, reason=reason)
        return True

    def _tell(self, trial: TrialRecord, state: TrialState, error: str | None = None) -> None:
        """Let all who keep account of trials know that one has come to its end."""
        values = trial.values(self.sweep.objectives)
        value, others = (None, ()) if values is None else (values[0], values[1:])
        self._study.tell(trial.number, state, value, others, seconds=self._seconds(trial))
        self._record.append("trial_ended", trial=trial.number, state=state, error=error)
        self._keeper.ended(trial)
        self._goals.ended(trial)

    def _seconds(self, trial: TrialRecord) -> float | None:
        """What a training of all the trial's epochs takes; None before the first."""
        held = self._record.history.spent.trial_seconds(trial.number, time.time())
        return seconds_of_all_epochs(trial, held, self.sweep.max_epochs())

    def _halved(self, number: int, result: EpochResult) -> str | None:
        """A note if the trial's micro-batch has become smaller in this epoch."""
        trial = self._record.history.trial(number)
        size = result.metrics.get("micro_batch_size")
        newest = trial.curve[max(trial.curve)] if trial.curve else {}
        before = newest.get("micro_batch_size") or (
            trial.config.get("micro_batch_size") or trial.config.get("batch_size")
        )
        if size is None or before is None or size >= before or number in self._micro_batches:
            return None
        return f"out of memory with a micro-batch of {before:g}; it is {size:g} now"

    def _learn_memory(self, number: int, result: EpochResult | None, *, ran_out: bool) -> None:
        """Let what a trial needed decide how many share a GPU from now on."""
        before = self._packing.trials_per_gpu
        reason = "it ran out of memory"
        metrics = {} if result is None else result.metrics
        if {"peak_memory_bytes", "gpu_memory_bytes"} <= set(metrics):
            peak, gpu = metrics["peak_memory_bytes"], metrics["gpu_memory_bytes"]
            self._packing.measured(peak, gpu)
            if not ran_out:
                reason = f"its tensors took {peak / 2**30:.1f} of {gpu / 2**30:.1f} GiB"
        if ran_out:
            self._packing.ran_out(self._running[number].trials_per_gpu)
        now = self._packing.trials_per_gpu
        if now != before:
            self._record.append("packing", trial=number, trials_per_gpu=now, reason=reason)

    def close(self) -> None:
        """End this sitting: what still runs is interrupted, and can be resumed.

        When the sweep is over, what is frozen stays so for good.
        """
        history = self._record.history
        if self.exhausted and self.ending.by != UNFIT:
            for trial in history.trials.values():
                if trial.state == "frozen":
                    self._tell(trial, "pruned")
        known = (*history.trials.values(), *history.confirmations.values())
        waiting = {trial.number for trial in known if trial.state == "running"}
        for number in sorted(waiting | set(self._running)):
            self._record.append("trial_ended", trial=number, state="interrupted", error=None)
        self._running.clear()
        self._keeper.close()
