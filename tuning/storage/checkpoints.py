"""Keeps a sweep's best few checkpoints on the disk and deletes the others, off the control loop.

Only checkpoints of trials that have ended are ever deleted: one that runs, or waits to go on, keeps
all it has. The best one stays, whatever the budget.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from trainables.metrics import Direction
from tuning.record.events import TrialRecord
from tuning.record.ranking import Best
from tuning.storage.disk import LEAST_FREE_BYTES, show_bytes
from tuning.storage.stores import TRIALS, CheckpointStore, trial_key
from tuning.storage.trial_checkpoints import BEST

_SECONDS_BETWEEN_LOOKS = 30.0  # at the disk; a look lists every trial's folder
_SECONDS_BETWEEN_LOOKS_WITH_BUDGET = 5.0


def best_key(number: int) -> str:
    """The key of the best checkpoint of trial ``number``."""
    return f"{trial_key(number)}/{BEST}"


class CheckpointKeeper:
    """Decides which checkpoints may still be needed."""

    def __init__(
        self,
        store: CheckpointStore,
        n_kept: int,
        metric: str,
        mode: Direction,
        *,
        budget_bytes: int | None = None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Keep the checkpoints of the best ``n_kept`` trials.

        Args:
            budget_bytes: of all checkpoints together; fewer are kept where they are larger.
            warn: told once if the disk or the budget does not suffice, in a thread of its own.
        """
        self._store = store
        self._n_kept = n_kept
        self._metric = metric
        self._mode = mode
        self._budget_bytes = budget_bytes
        self._warn = warn
        self._best = Best(n_kept, metric, mode)
        self._is_short = False  # of room: fewer than n_kept are kept
        self._warned: set[str] = set()
        self._seconds_between_looks = (
            _SECONDS_BETWEEN_LOOKS if budget_bytes is None else _SECONDS_BETWEEN_LOOKS_WITH_BUDGET
        )
        self._looked_at = -self._seconds_between_looks
        self._background = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="delete-checkpoints"
        )

    def save_beyond(self) -> float | None:
        """The value a new checkpoint must beat to be among those kept; None while there is room.

        Workers may know an old value. It is never better than the new one, unless a checkpoint was
        dropped for want of room; so they save too often, but not too seldom.
        """
        best = self._best.trials
        has_room = len(best) < self._n_kept and not (self._is_short and best)
        return None if has_room else best[-1].value(self._metric, self._mode)

    def ended(self, trial: TrialRecord) -> None:
        """Delete, in the background, what is not needed now that ``trial`` has ended."""
        self._background.submit(self._take_in, trial)
        self.look()

    def restore(self, trials: Sequence[TrialRecord]) -> None:
        """Take in, in the background, trials that ended in earlier sittings."""
        self._background.submit(self._take_in_all, trials)

    def look(self) -> None:
        """Have the room for checkpoints looked at, in the background, if it was not just now."""
        now = time.monotonic()
        if now - self._looked_at >= self._seconds_between_looks:
            self._looked_at = now
            self._background.submit(self._make_room)

    def settle(self) -> None:
        """Wait until everything that was to be deleted is."""
        self._background.submit(self._make_room).result()

    def discard(self, trial: TrialRecord) -> None:
        """Delete, in the background, all checkpoints of ``trial``."""
        self._background.submit(self._clear, trial)

    def close(self) -> None:
        """Settle, and delete nothing from now on."""
        self.settle()
        self._background.shutdown()

    # What follows runs in the background thread, which alone changes which are the best.

    def _take_in_all(self, trials: Sequence[TrialRecord]) -> None:
        try:
            left = {key.rpartition("/")[0] for key in self._store.sizes()}
        except OSError:
            left = {trial_key(trial.number) for trial in trials}  # as far as can be known
        for trial in trials:
            if trial_key(trial.number) in left:
                self._take_in(trial)

    def _take_in(self, trial: TrialRecord) -> None:
        # The newest one, damaged ones, and what a killed process left half-written.
        self._clear(trial, keep=best_key(trial.number))
        with suppress(OSError):  # it does not answer: not known to be gone
            if self._store.find(best_key(trial.number)) is None:
                return  # the disk did not take it, or it was not good enough to be saved
        dropped = self._best.add(trial)
        if dropped is not None:
            self._delete(dropped)

    def _make_room(self) -> None:
        """Drop the worst of the kept checkpoints until the others fit the budget and the disk."""
        # A folder may be replaced while it is measured, or a store not answer: next time.
        with suppress(OSError):
            sizes = self._store.sizes()
            room = min(self._fit_budget(sizes), self._fit_disk(sizes))
            self._is_short = room < max(sizes.values(), default=0)  # for one more

    def _fit_budget(self, sizes: dict[str, int]) -> float:
        """Returns the bytes that are left of the budget."""
        if self._budget_bytes is None:
            return math.inf
        _, room = self._drop(sizes, self._budget_bytes - sum(sizes.values()))
        if room < 0:
            self._warn_once(
                "budget",
                f"checkpoints take {show_bytes(self._budget_bytes - int(room))}, and "
                f"--checkpoint-budget is {show_bytes(self._budget_bytes)}; what is left is the "
                "best one and those of trials that have not ended, which are kept",
            )
        return room

    def _fit_disk(self, sizes: dict[str, int]) -> float:
        """Leave room for each trial that has not ended to replace a checkpoint by a new one.

        Returns the bytes that are free beyond that.
        """
        kept = {trial_key(trial.number) for trial in self._best.trials}
        n_unfinished = len({key.rpartition("/")[0] for key in sizes} - kept)
        needed = max(LEAST_FREE_BYTES, max(sizes.values(), default=0) * max(1, n_unfinished))
        free = self._store.free_bytes()
        n_dropped, room = self._drop(sizes, free - needed)
        if free < needed:
            self._warn_once(
                "disk",
                f"the disk of {self._store.name(TRIALS)!r} is nearly full: "
                f"{show_bytes(int(room + needed))} free, {show_bytes(needed)} wanted; {n_dropped} "
                "checkpoints that are not the best were deleted, and training goes on",
            )
        return room

    def _drop(self, sizes: dict[str, int], room: float) -> tuple[int, float]:
        """Delete the worst kept checkpoints, never the best, until room is not negative.

        Returns how many, and the room there is then.
        """
        n_dropped = 0
        while room < 0 and (trial := self._best.drop_worst()) is not None:
            self._delete(trial)
            room += sizes.get(best_key(trial.number), 0)
            n_dropped += 1
        return n_dropped, room

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            self._warn(message)

    def _delete(self, trial: TrialRecord) -> None:
        with suppress(OSError):
            self._store.delete(best_key(trial.number))

    def _clear(self, trial: TrialRecord, keep: str | None = None) -> None:
        with suppress(OSError):
            self._store.clear(trial_key(trial.number), keep)
