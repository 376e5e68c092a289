"""Keeps a sweep's best few checkpoints on the disk and deletes the others, off the control loop."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from trainables.metrics import Direction
from tuning.hosting import BEST, LAST
from tuning.record import ENDED_STATES, TrialRecord, ranked


def trial_folder(sweep_folder: Path, number: int) -> Path:
    """Where trial ``number`` of a sweep keeps its files."""
    return sweep_folder / "trials" / f"{number:04d}"


class CheckpointKeeper:
    """Decides which checkpoints may still be needed."""

    def __init__(self, sweep_folder: Path, n_kept: int, metric: str, mode: Direction) -> None:
        self._sweep_folder = sweep_folder
        self._n_kept = n_kept
        self._metric = metric
        self._mode = mode
        self._deletions = ThreadPoolExecutor(max_workers=1, thread_name_prefix="delete-checkpoints")
        self._pending: list[Future[None]] = []
        self._deleted: set[Path] = set()

    def save_beyond(self, trials: dict[int, TrialRecord]) -> float | None:
        """The value a new checkpoint must beat to be among those kept; None while there is room.

        It only ever rises (or falls, where less is better), so a worker that knows an old one saves
        too often, never too seldom.
        """
        ended = {number: trial for number, trial in trials.items() if trial.state in ENDED_STATES}
        best = ranked(ended, self._metric, self._mode)
        if len(best) < self._n_kept:
            return None
        return best[self._n_kept - 1].value(self._metric, self._mode)

    def tidy(self, trials: dict[int, TrialRecord]) -> None:
        """Delete, in the background, what no trial that still runs and none of the best needs."""
        ended = {number: trial for number, trial in trials.items() if trial.state in ENDED_STATES}
        kept = {trial.number for trial in ranked(ended, self._metric, self._mode)[: self._n_kept]}
        for number in ended:
            folder = trial_folder(self._sweep_folder, number)
            self._delete(folder / LAST)
            if number not in kept:
                self._delete(folder / BEST)

    def close(self) -> None:
        """Wait until everything that was to be deleted is."""
        self._deletions.shutdown(wait=True)

    def _delete(self, folder: Path) -> None:
        if folder not in self._deleted:
            self._deleted.add(folder)
            self._deletions.submit(shutil.rmtree, folder, ignore_errors=True)
