"""Keeps a sweep's best few checkpoints on the disk and deletes the others, off the control loop."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainables.metrics import Direction
from tuning.hosting import BEST, LAST
from tuning.record import Best, TrialRecord


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
        self._best = Best(n_kept, metric, mode)
        self._deletions = ThreadPoolExecutor(max_workers=1, thread_name_prefix="delete-checkpoints")

    def save_beyond(self) -> float | None:
        """The value a new checkpoint must beat to be among those kept; None while there is room.

        It only ever rises (or falls, where less is better), so a worker that knows an old one saves
        too often, never too seldom.
        """
        best = self._best.trials
        return None if len(best) < self._n_kept else best[-1].value(self._metric, self._mode)

    def ended(self, trial: TrialRecord) -> None:
        """Delete, in the background, what is not needed now that ``trial`` has ended."""
        self._delete(trial, LAST)
        dropped = self._best.add(trial)
        if dropped is not None:
            self._delete(dropped, BEST)

    def discard(self, trial: TrialRecord) -> None:
        """Delete, in the background, all checkpoints of ``trial``."""
        folder = trial_folder(self._sweep_folder, trial.number)
        self._deletions.submit(shutil.rmtree, folder, ignore_errors=True)

    def close(self) -> None:
        """Wait until everything that was to be deleted is."""
        self._deletions.shutdown(wait=True)

    def _delete(self, trial: TrialRecord, name: str) -> None:
        folder = trial_folder(self._sweep_folder, trial.number) / name
        self._deletions.submit(shutil.rmtree, folder, ignore_errors=True)
