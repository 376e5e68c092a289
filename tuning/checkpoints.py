"""Keeps a sweep's best few checkpoints on the disk and deletes the others, off the control loop.

Only checkpoints of trials that have ended are ever deleted: one that runs, or waits to go on, keeps
all it has. The best one stays, whatever the budget.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from trainables.metrics import Direction
from tuning.disk import LEAST_FREE_BYTES, folder_bytes, free_bytes, show_bytes
from tuning.hosting import BEST, LAST
from tuning.record import Best, TrialRecord

_TRIALS = "trials"
_SECONDS_BETWEEN_LOOKS = 30.0  # at the disk; a look lists every trial's folder
_SECONDS_BETWEEN_LOOKS_WITH_BUDGET = 5.0


def trial_folder(sweep_folder: Path, number: int) -> Path:
    """Where trial ``number`` of a sweep keeps its files."""
    return sweep_folder / _TRIALS / f"{number:04d}"


def checkpoint_sizes(sweep_folder: Path) -> dict[Path, int]:
    """The bytes of every checkpoint of a sweep's trials, unfinished and damaged ones included."""
    folders = (sweep_folder / _TRIALS).glob("*/*")
    return {folder: folder_bytes(folder) for folder in folders if folder.is_dir()}


class CheckpointKeeper:
    """Decides which checkpoints may still be needed."""

    def __init__(
        self,
        sweep_folder: Path,
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
        self._sweep_folder = sweep_folder
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

        A worker that knows an old one saves too often, never too seldom: it only ever rises (or
        falls, where less is better) but for one that was dropped for want of room.
        """
        best = self._best.trials
        has_room = len(best) < self._n_kept and not (self._is_short and best)
        return None if has_room else best[-1].value(self._metric, self._mode)

    def ended(self, trial: TrialRecord) -> None:
        """Delete, in the background, what is not needed now that ``trial`` has ended."""
        self._background.submit(self._take_in, trial)
        self.look()

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
        folder = trial_folder(self._sweep_folder, trial.number)
        self._background.submit(shutil.rmtree, folder, ignore_errors=True)

    def close(self) -> None:
        """Settle, and delete nothing from now on."""
        self.settle()
        self._background.shutdown()

    # What follows runs in the background thread, which alone changes which are the best.

    def _take_in(self, trial: TrialRecord) -> None:
        self._delete_all_but_best(trial)
        if not (trial_folder(self._sweep_folder, trial.number) / BEST).is_dir():
            return  # the disk did not take it, or it was not good enough to be saved
        dropped = self._best.add(trial)
        if dropped is not None:
            self._delete_best(dropped)

    def _make_room(self) -> None:
        """Drop the worst of the kept checkpoints until the rest fits the budget and the disk."""
        with suppress(OSError):  # a folder may be replaced while it is measured: next time
            sizes = checkpoint_sizes(self._sweep_folder)
            room = min(self._fit_budget(sizes), self._fit_disk(sizes))
            self._is_short = room < max(sizes.values(), default=0)  # for one more

    def _fit_budget(self, sizes: dict[Path, int]) -> float:
        """Returns the bytes that are left of the budget."""
        if self._budget_bytes is None:
            return math.inf
        used = sum(sizes.values())
        while used > self._budget_bytes:
            freed = self._drop_worst(sizes)
            if freed is None:
                self._warn_once(
                    "budget",
                    f"checkpoints take {show_bytes(used)}, and --checkpoint-budget is "
                    f"{show_bytes(self._budget_bytes)}; what is left is the best one and those of "
                    "trials that have not ended, which are kept",
                )
                break
            used -= freed
        return self._budget_bytes - used

    def _fit_disk(self, sizes: dict[Path, int]) -> float:
        """Leave room for each trial that has not ended to replace a checkpoint by a new one.

        Returns the bytes that are free beyond that.
        """
        kept = {trial_folder(self._sweep_folder, trial.number) for trial in self._best.trials}
        n_unfinished = len({folder.parent for folder in sizes} - kept)
        needed = max(LEAST_FREE_BYTES, max(sizes.values(), default=0) * max(1, n_unfinished))
        free = free_bytes(self._sweep_folder)
        if free >= needed:
            return free - needed
        n_dropped = 0
        while free < needed and (freed := self._drop_worst(sizes)) is not None:
            free += freed
            n_dropped += 1
        self._warn_once(
            "disk",
            f"the disk of {str(self._sweep_folder)!r} is nearly full: {show_bytes(free)} free, "
            f"{show_bytes(needed)} wanted; {n_dropped} checkpoints that are not the best were "
            "deleted, and training goes on",
        )
        return free - needed

    def _drop_worst(self, sizes: dict[Path, int]) -> int | None:
        """Delete the worst kept checkpoint, never the best; its bytes, or None if there is none."""
        trial = self._best.drop_worst()
        if trial is None:
            return None
        self._delete_best(trial)
        return sizes.get(trial_folder(self._sweep_folder, trial.number) / BEST, 0)

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            self._warn(message)

    def _delete_best(self, trial: TrialRecord) -> None:
        shutil.rmtree(trial_folder(self._sweep_folder, trial.number) / BEST, ignore_errors=True)

    def _delete_all_but_best(self, trial: TrialRecord) -> None:
        """The newest checkpoint, damaged ones, and what a killed process left half-written."""
        folder = trial_folder(self._sweep_folder, trial.number)
        for pattern in (LAST, "*.damaged", f".{BEST}-*", f".{LAST}-*"):
            for found in folder.glob(pattern):
                shutil.rmtree(found, ignore_errors=True)
