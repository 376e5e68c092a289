"""What is done about each thing that happens, whichever engine runs what, and of whichever kind.

An engine asks ``propose`` for work, tells ``observe`` of every epoch and ``ended`` of every run's
end. It calls them from one thread. What comes next, and what an epoch means, the kinds of run know:
see runs.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict

from trainables.task import TrainingRun
from tuning.control.attempts import Attempts, MicroBatches
from tuning.control.goals import UNFIT, Ending
from tuning.control.gpu_packing import Packing
from tuning.control.runs import Orders, Runs
from tuning.hosting.assignment import Assignment, EpochResult, Outcome
from tuning.hosting.node_needs import Needs
from tuning.record.events import Record, RunKind, TrialRecord, TrialState
from tuning.record.resources import Resources, Slot
from tuning.record.sweep import Sweep
from tuning.storage.open_store import StoreAddress, address_of

_ROUNDING = 1e-6
_SECONDS_BETWEEN_CHECKPOINTS = 60.0  # what a killed run may lose, against what a checkpoint costs
_MOST_GIVEN_BACK = 3  # runs in a row, by workers on which none can start


class Controller:
    """The decisions of one sitting."""

    def __init__(
        self,
        sweep: Sweep,
        record: Record,
        resources: Resources,
        kinds: Mapping[RunKind, Runs],
        *,
        address: StoreAddress | None = None,
        needs: Needs | None = None,
    ) -> None:
        """Begin a sitting.

        Args:
            kinds: the kinds of run to do, one after the other.
            address: how workers reach the sweep's checkpoints; by default as this process does.
            needs: what workers on other machines must have; None where there are none.
        """
        self.sweep = sweep
        self.resources = resources
        self._record = record
        self.kinds = kinds
        self._address = address or address_of(sweep)
        self._needs = needs
        self._running: dict[int, Slot] = {}
        self._heard: dict[int, float] = {}  # running -> time.monotonic() of its last sign
        self._n_given_back = 0
        self._attempts = Attempts()
        self._micro_batches = MicroBatches(resources.n_workers)
        self._packing = Packing(resources.most_per_gpu)

    @property
    def n_ahead(self) -> int:
        """Runs that may still be done, those that run included; at least one."""
        return max(1, sum(runs.n_ahead for runs in self.kinds.values()))

    @property
    def exhausted(self) -> bool:
        """Whether nothing will be proposed any more in this sitting."""
        # What runs comes back if its process dies, or if it was packed and ran out of memory.
        return all(runs.is_over(self._n_running(kind)) for kind, runs in self.kinds.items())

    def _n_running(self, kind: RunKind) -> int:
        return sum(self._run(number).kind == kind for number in self._running)

    def _run(self, number: int) -> TrialRecord:
        return self._record.history.trial(number)

    def propose(self) -> Assignment | None:
        """The next run; None if all slots are taken or there is none for now."""
        slot = self.resources.slot(self._packing.trials_per_gpu)
        if self.exhausted or not self._has_room(slot):
            return None
        if (proposed := self._next()) is None:
            return None
        number = proposed.number
        is_new = not self._record.history.knows(number)
        orders = self.kinds[proposed.kind].orders(proposed)
        told = () if proposed.kind == "trial" else ("kind", "repeats", "name")
        self._record.append(
            "trial_started",
            trial=number,
            point=proposed.point,
            config=proposed.config,
            gpus=slot.gpus * self.resources.n_workers,
            **{name: getattr(proposed, name) for name in told},
        )
        self._running[number] = slot
        return self._assignment(self._run(number), slot, orders, is_new=is_new)

    def _next(self) -> TrialRecord | None:
        for kind, runs in self.kinds.items():
            n_running = self._n_running(kind)
            if not runs.is_over(n_running) and (run := runs.next()) is not None:
                return run
            if n_running:
                return None
        return None

    def _assignment(
        self, run: TrialRecord, slot: Slot, orders: Orders, *, is_new: bool
    ) -> Assignment:
        sweep, micro_batch = self.sweep, self._micro_batches.of(run)
        changed = {} if micro_batch is None else {"micro_batch_size": micro_batch}
        return Assignment(
            trial=run.number,
            config={**run.config, **changed},
            task=sweep.space.task,
            train_file=None if sweep.train_file is None else str(sweep.train_file),
            metric=sweep.metric,
            mode=sweep.mode,
            other_metrics=tuple(sweep.other_metrics),
            cpus=slot.cpus,
            gpus=slot.gpus,
            seconds_between_checkpoints=_SECONDS_BETWEEN_CHECKPOINTS,
            store=self._address,
            run=TrainingRun(
                sweep.cache_folder,
                "cuda" if slot.gpus else "cpu",
                strategy=sweep.strategy,
                n_threads=slot.n_threads,
                prefix_cache_bytes=sweep.prefix_cache_bytes,
                data_fingerprint=sweep.data_fingerprint(run.config),
            ),
            needs=self._needs,
            is_new=is_new,
            **asdict(orders),
        )

    def _has_room(self, slot: Slot) -> bool:
        """Whether one more may run: Ray is not asked for what it would have to wait for."""
        if len(self._running) >= self.resources.concurrency:
            return False
        if self.resources.most_per_gpu == 1:
            return True
        taken = sum(running.gpus for running in self._running.values())
        return taken + slot.gpus <= self.resources.n_gpus + _ROUNDING

    def resized(self, resources: Resources) -> None:
        """Hear that nodes have come or gone; what runs goes on, or is heard of as lost."""
        if self.resources.concurrency and not resources.concurrency:
            message = "waiting for nodes: not even one trial fits into those that are left"
            self._record.append("trouble", message=message)
        self.resources = resources

    def observe(self, number: int, result: EpochResult) -> bool:
        """Hear of an epoch; True if the run should stop, in which case it has ended."""
        if number not in self._running:
            return True
        self.began(number)
        self._n_given_back = 0
        run = self._run(number)
        if result.epoch in run.curve:
            if result.note:
                self._record.append("trouble", message=f"{run.label}: {result.note}")
            return False  # what goes on from a checkpoint repeats some epochs
        halved = self._micro_batches.halved_by_itself(run, result)
        notes = [note for note in (result.note, halved) if note]
        self._record.append(
            "epoch",
            trial=number,
            epoch=result.epoch,
            metrics=dict(result.metrics),
            note="; ".join(notes) or None,
            tags=dict(result.tags),
        )
        self._learn_memory(number, result.metrics, ran_out=halved is not None)
        state = self.kinds[run.kind].observe(run, result)
        if state is not None:
            self._release(number)
            self._end(run, state)
        return state is not None

    def began(self, number: int) -> None:
        """Hear that a run's process is up: from now on it may not be silent for too long."""
        self._heard[number] = time.monotonic()

    def give_up_silent(self) -> list[int]:
        """End the runs that have not reported within the epoch timeout, as failed; say which."""
        limit = self.sweep.epoch_timeout_seconds
        if limit is None:
            return []
        now = time.monotonic()
        silent = [number for number in self._running if now - self._heard.get(number, now) > limit]
        for number in silent:
            reason = f"no epoch report within {limit:g} s (--epoch-timeout); its process was ended"
            self.ended(number, Outcome("failed", reason))
        return silent

    def retried(self, number: int, reason: str | None) -> None:
        """Hear that a run starts again, from its last checkpoint if it has one."""
        if number in self._running:
            self._heard.pop(number, None)
            self._record.append("trial_retried", trial=number, reason=reason)

    def worker_lost(self, number: int) -> None:
        """Hear that a run's process died: it is proposed again, and goes on from its checkpoint.

        It fails if that happens again and again without an epoch between.
        """
        if number not in self._running:
            return
        failure = self._attempts.lost(self._run(number))
        if failure is not None:
            self.ended(number, Outcome("failed", failure))
        else:
            self._again(number, "its worker process died")

    def ended(self, number: int, outcome: Outcome) -> None:
        """Hear how a run ended. A second call for the same run is ignored."""
        if number not in self._running:
            return
        if outcome.state == "interrupted":
            self._given_back(number, outcome.error or "")
            return
        run = self._run(number)
        if outcome.out_of_memory and (again := self._with_more_memory(run)):
            self._again(number, again)
            return
        self._release(number)
        self._end(run, outcome.state, outcome.error)

    def _with_more_memory(self, run: TrialRecord) -> str | None:
        """How a run that ran out of memory can be tried again; None if it can not."""
        self._learn_memory(run.number, {}, ran_out=True)
        if self.sweep.space.task is not None and (halved := self._micro_batches.halve(run)):
            return halved
        n = self._running[run.number].trials_per_gpu
        # It may fit where fewer share the GPU: only then is it infeasible.
        return f"out of memory with {n} trials on a GPU" if n > 1 else None

    def _given_back(self, number: int, reason: str) -> None:
        """Let a run be the next once more, for its worker can not do any.

        If none can, the sitting ends, and what is wrong can be mended before it is resumed.
        """
        self._n_given_back += 1
        self._again(number, reason)
        if self._n_given_back >= _MOST_GIVEN_BACK:
            for runs in self.kinds.values():
                runs.end(Ending(UNFIT, f"no worker can run its trials: {reason}"))

    def _again(self, number: int, reason: str) -> None:
        """Let a run be the next of its kind once more."""
        self.retried(number, reason)
        self._release(number)
        run = self._run(number)
        self.kinds[run.kind].again(run)

    def _release(self, number: int) -> None:
        """Take a run's slot away from it."""
        self._heard.pop(number, None)
        del self._running[number]

    def _end(self, run: TrialRecord, state: TrialState, error: str | None = None) -> None:
        self._record.append("trial_ended", trial=run.number, state=state, error=error)
        self.kinds[run.kind].ended(run)

    def _learn_memory(self, number: int, metrics: Mapping[str, float], *, ran_out: bool) -> None:
        """Let what a run needed decide how many share a GPU from now on."""
        ran_out_with = self._running[number].trials_per_gpu if ran_out else None
        reason = self._packing.learn(metrics, ran_out_with)
        if reason is not None:
            n = self._packing.trials_per_gpu
            self._record.append("packing", trial=number, trials_per_gpu=n, reason=reason)

    def close(self) -> None:
        """End this sitting: what still runs is interrupted, and can be gone on with."""
        is_done = self.exhausted
        known = [run for run in self._record.history.runs() if run.kind in self.kinds]
        waiting = {run.number for run in known if run.state == "running"}
        for number in sorted(waiting | set(self._running)):
            self._record.append("trial_ended", trial=number, state="interrupted", error=None)
        self._running.clear()
        for runs in self.kinds.values():
            runs.close(is_done=is_done)
