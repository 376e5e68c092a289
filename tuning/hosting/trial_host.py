"""Hosts a training function for one trial, step by step; the same code under every engine."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from trainables.errors import DamagedCheckpoint, InputError, OutOfMemory, TrialInfeasible
from trainables.task import EpochReport
from trainables.training.process_state import ProcessState
from tuning.hosting.assignment import Assignment, EpochResult, Outcome, Place
from tuning.hosting.node_needs import Unfit, check_fitness, here
from tuning.hosting.reports import checked_metrics
from tuning.hosting.testing import evaluate_checkpoint
from tuning.storage.code_archive import train_file_here
from tuning.storage.open_store import open_store
from tuning.storage.remote import RemoteError
from tuning.storage.stores import CheckpointStore
from tuning.storage.trial_checkpoints import BEST, LAST, TrialCheckpoints, save_share
from tuning.user_code.loading import training_function

# Of a store that a trial is to go on from a checkpoint in, while it does not answer.
_SECONDS_FOR_STORE, _SECONDS_BETWEEN_LOOKS = 120.0, 5.0

Result = TypeVar("Result")


class TrialHost:
    """Runs one trial's training function; ``step`` never raises.

    Each of several workers has one, and they take each step together. The first one's files are the
    trial's, and what is to be decided it decides for all.
    """

    def __init__(
        self, assignment: Assignment, *, owns_process: bool = False, place: Place | None = None
    ) -> None:
        """Host the trial of ``assignment``.

        Args:
            owns_process: nothing but trials runs in this process, so that ``close`` may put back
                all of its state.
            place: the only worker, if it is not given.
        """
        self._owns_process = owns_process
        self._place = place or Place()
        self._assignment = assignment
        self._sign = 1 if assignment.mode == "max" else -1
        self._best: float | None = None
        self._saved_at = time.monotonic()
        self._curve: dict[int, dict[str, float]] = {}
        # Epochs behind the checkpoint gone on from: their reports may have met a dead driver.
        self._replayed: list[tuple[int, dict[str, float]]] = []
        self._generator: Iterator[EpochReport] | None = None
        self._process_state: ProcessState | None = None
        self._checkpoints: TrialCheckpoints | None = None  # looked for when the trial begins
        self._resume_from: Path | None = None
        self._trouble: list[str] = []  # to be noted with the next report

    def step(self) -> EpochResult | Outcome:
        """Train one more epoch, and save a checkpoint if it may be needed."""
        try:
            if self._generator is None:
                self._generator = self._start()
            if self._replayed:
                return EpochResult(*self._replayed.pop(0), self._take_trouble())
            began = time.monotonic()
            report = next(self._generator, None)
            if report is None:
                return self._completed()
            metrics, targets = self._judge(report, time.monotonic() - began)
            self._curve[report.epoch] = metrics
            for target in targets:
                if note := self._save(report, target):
                    self._trouble.append(note)
            return EpochResult(report.epoch, metrics, self._take_trouble(), dict(report.tags))
        except Unfit as error:
            return Outcome("interrupted", str(error))
        except DamagedCheckpoint as error:
            if not self._can_begin_again(error):
                return Outcome("failed", traceback.format_exc())
            return self.step()
        except TrialInfeasible as error:
            reason = f"{type(error).__name__}: {error}"
            return Outcome("infeasible", reason, isinstance(error, OutOfMemory))
        except InputError as error:
            return Outcome("failed", str(error))
        except Exception as error:
            # torch's own, of a user's training
            out_of_memory = type(error).__name__ == "OutOfMemoryError"
            return Outcome("failed", traceback.format_exc(), out_of_memory)

    def _can_begin_again(self, error: DamagedCheckpoint) -> bool:
        """Let the trial begin again, in every worker, from what the first one chooses."""
        if self._resume_from is None:
            return False
        self._place.share(None)  # nobody reads it any more
        is_possible = self._place.rank == 0 and self._go_on_from_older(error)
        self._generator = None
        return bool(self._place.share(is_possible))

    def _go_on_from_older(self, error: DamagedCheckpoint) -> bool:
        """Put the damaged checkpoint away, so that an older one counts; False if it stays."""
        checkpoints = self._checkpoints
        if checkpoints is None or (damaged := checkpoints.newest) is None:
            return False
        where = checkpoints.name(damaged)
        try:
            checkpoints.set_aside(damaged)
        except OSError:
            return False
        older = checkpoints.newest
        left = "the start" if older is None else f"the checkpoint {checkpoints.name(older)!r}"
        # A copy's path says nothing to a person.
        told = str(error) if where in str(error) else f"checkpoint {where!r}: {error}"
        self._trouble.append(f"{told}; it goes on from {left}")
        return True

    def close(self) -> str | None:
        """Stop the training function and put the process back as it was before.

        Returns:
            What could not be put back, so that no other trial should run here; None if all was.
        """
        generator, self._generator = self._generator, None
        if generator is not None and hasattr(generator, "close"):
            generator.close()
        if self._checkpoints is not None:
            self._checkpoints.release()
        state, self._process_state = self._process_state, None
        return None if state is None else state.restore()

    def _start(self) -> Iterator[EpochReport]:
        assignment, place = self._assignment, self._place
        try:
            store = open_store(assignment.store)
            train_file = self._check_fitness(store)
            checkpoints = _patiently(lambda: self._look_for_checkpoints(store))
            newest, self._curve = place.share((checkpoints.newest, checkpoints.newest_curve))
            self._resume_from = None
            if newest is not None:
                self._resume_from = _patiently(lambda: checkpoints.fetch(newest))
        except OSError as error:
            raise Unfit(f"{here()}: {error}") from error
        train = training_function(assignment.task, train_file)
        if self._process_state is None:  # what the training imports is part of it
            self._process_state = ProcessState(is_shared=not self._owns_process)
        self._best = checkpoints.best_value
        self._replayed = sorted(self._curve.items())
        run = replace(
            assignment.run,
            device=place.device or assignment.run.device,
            rank=place.rank,
            world_size=place.world_size,
            resume_from=self._resume_from,
        )
        if assignment.evaluates is not None:
            return evaluate_checkpoint(store, assignment.evaluates, run)
        return train(assignment.config, run)

    def _check_fitness(self, store: CheckpointStore) -> str | None:
        """Compare this machine with the driver's; the path here of the user's file, if any."""
        asked, run = self._assignment, self._assignment.run
        if asked.needs is None:
            return asked.train_file
        check_fitness(asked.task, asked.config, run.data_fingerprint, asked.needs, run.cache_folder)
        if asked.train_file is None:
            return None
        return train_file_here(asked.train_file, asked.needs.code, store, run.cache_folder)

    def _look_for_checkpoints(self, store: CheckpointStore) -> TrialCheckpoints:
        """The trial's checkpoints; the first worker knows which there are."""
        if self._checkpoints is None:
            checkpoints = TrialCheckpoints(store, self._assignment.key)
            if not self._assignment.is_new and self._place.rank == 0:
                checkpoints.look()
            self._checkpoints = checkpoints
        return self._checkpoints

    def _take_trouble(self) -> str | None:
        notes, self._trouble = self._trouble, []
        return "; ".join(notes) or None

    def _completed(self) -> Outcome:
        if self._checkpoints is not None and self._place.rank == 0:
            self._checkpoints.retry(is_last=True)
        if not self._curve:
            return Outcome("failed", "the training function ended without a single epoch report")
        return Outcome("completed")

    def _judge(
        self, report: EpochReport, measured_seconds: float
    ) -> tuple[dict[str, float], list[str]]:
        """The report's metrics, and under which names its state is to be saved.

        What is wrong with the report is raised in every worker.
        """
        verdict: Any = None
        if self._place.rank == 0:
            try:
                metrics = checked_metrics(report, self._assignment, measured_seconds)
                verdict = metrics, self._targets(report)
            except (InputError, TrialInfeasible) as error:
                verdict = error
        verdict = self._place.share(verdict)
        if isinstance(verdict, Exception):
            raise verdict
        metrics, targets = verdict
        return metrics, targets

    def _targets(self, report: EpochReport) -> list[str]:
        if self._assignment.evaluates is not None:
            return []
        value = report.metrics[self._assignment.metric]
        targets = []
        if self._best is None or self._sign * value > self._sign * self._best:
            self._best = value
            beyond = self._assignment.save_beyond
            if beyond is None or self._sign * value > self._sign * beyond:
                targets.append(BEST)
        waited = time.monotonic() - self._saved_at
        is_due = waited >= self._assignment.seconds_between_checkpoints
        if not targets and (is_due or report.epoch in self._assignment.save_after):
            targets.append(LAST)
        if not targets and self._checkpoints is not None:
            self._checkpoints.retry()
        return targets

    def _save(self, report: EpochReport, target: str) -> str | None:
        """Save a report; a disk that refuses is a note, not the end."""
        if self._place.rank != 0:
            if self._assignment.run.strategy == "fsdp":
                save_share(report)
            return None
        assert self._checkpoints is not None
        value = report.metrics[self._assignment.metric]
        try:
            self._checkpoints.save(target, report, value, self._curve)
        except OSError as error:
            return f"checkpoint {self._checkpoints.name(target)!r} was not written: {error}"
        self._saved_at = time.monotonic()
        return None


def _patiently(action: Callable[[], Result]) -> Result:
    """Try again while a store is away for what may be a minute, but not for ever."""
    give_up = time.monotonic() + _SECONDS_FOR_STORE
    while True:
        try:
            return action()
        except RemoteError as error:
            if not error.may_pass or time.monotonic() > give_up:
                raise
            time.sleep(_SECONDS_BETWEEN_LOOKS)
