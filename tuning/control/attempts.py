"""What is tried again: runs whose worker was lost, and runs that ran out of memory."""

from __future__ import annotations

import math

from tuning.hosting.assignment import EpochResult
from tuning.record.events import TrialRecord

_RETRIES_WITHOUT_PROGRESS = 2  # of one run, each from its last checkpoint


class Attempts:
    """How often the worker of each run was lost without an epoch in between."""

    def __init__(self) -> None:
        self._lost: dict[int, tuple[int, int]] = {}  # run -> losses, at so many epochs

    def lost(self, run: TrialRecord) -> str | None:
        """Hear that a run's worker was lost; why it has failed, or None: it is tried again."""
        n_epochs = len(run.curve)
        n_lost, n_epochs_then = self._lost.get(run.number, (0, n_epochs))
        n_lost = n_lost + 1 if n_epochs == n_epochs_then else 1
        self._lost[run.number] = (n_lost, n_epochs)
        if n_lost <= _RETRIES_WITHOUT_PROGRESS:
            return None
        return f"its worker process died {n_lost} times without an epoch between"


class MicroBatches:
    """The micro-batches that runs of several workers have come down to.

    One worker alone halves its micro-batch by itself when it runs out of memory. Of several, only
    some may have run out, and the others wait for them: they are all started again.
    """

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        self._sizes: dict[int, int] = {}  # run -> samples

    def of(self, run: TrialRecord) -> int | None:
        """What a run, or else the trial that it repeats, has come down to; None if to nothing."""
        numbers = (run.number, -1 if run.repeats is None else run.repeats)
        return next((self._sizes[n] for n in numbers if n in self._sizes), None)

    def halve(self, run: TrialRecord) -> str | None:
        """Halve what a run that ran out of memory has; what was done, or None if it can not be."""
        batch_size = run.config.get("batch_size")
        if self._n_workers == 1 or batch_size is None:
            return None
        share = math.ceil(batch_size / self._n_workers)
        newest = run.curve[max(run.curve)].get("micro_batch_size") if run.curve else None
        known = self.of(run) or newest
        size = min(int(known or run.config.get("micro_batch_size") or batch_size), share)
        if size == 1:
            return None
        self._sizes[run.number] = half = math.ceil(size / 2)
        return f"out of memory with a micro-batch of {size} on each worker; it is {half} now"

    def halved_by_itself(self, run: TrialRecord, result: EpochResult) -> str | None:
        """A note if the run's only worker has halved its micro-batch in this epoch."""
        size = result.metrics.get("micro_batch_size")
        newest = run.curve[max(run.curve)] if run.curve else {}
        before = newest.get("micro_batch_size") or (
            run.config.get("micro_batch_size") or run.config.get("batch_size")
        )
        if size is None or before is None or size >= before or run.number in self._sizes:
            return None
        return f"out of memory with a micro-batch of {before:g}; it is {size:g} now"
