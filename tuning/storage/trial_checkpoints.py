"""The checkpoints of one trial in its sweep's store: what is saved, and what it goes on from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainables.task import EpochReport
from tuning.storage.stores import CheckpointStore

# a trial's checkpoints: of its best epoch, and the newest for going on from
BEST, LAST = "best", "last"
_NAMES = (LAST, BEST)  # the first is gone on from where both are of one epoch
_PROGRESS_FILE = "progress.json"  # beside a checkpoint's own files: epoch, value and curve


def save_share(report: EpochReport) -> None:
    """Take part in saving a model of which each worker has a share; the first one writes it."""
    with tempfile.TemporaryDirectory(prefix="thaw-share-") as unused:
        report.save(Path(unused))


class TrialCheckpoints:
    """``best`` and ``last`` of one run. Every method may raise OSError."""

    def __init__(self, store: CheckpointStore, key: str) -> None:
        """Make the checkpoints of the run at ``key`` of ``store``."""
        self._store = store
        self._prefix = f"{key}/"
        self._known: dict[str, dict[str, Any]] = {}

    def look(self) -> None:
        """Find what an earlier process of the trial has left, and clean up after it."""
        for name in _NAMES:
            self._store.recover(self._key(name))
        found = {name: self._progress(name) for name in _NAMES}
        self._known = {name: progress for name, progress in found.items() if progress is not None}

    @property
    def newest(self) -> str | None:
        """The one to go on from, with the most epochs behind it; None if there is none."""
        epochs = {name: int(progress["epoch"]) for name, progress in self._known.items()}
        return max(epochs, key=lambda name: epochs[name], default=None)

    @property
    def best_value(self) -> float | None:
        """The metric's value that ``best`` was saved for; None if there is none."""
        return float(self._known[BEST]["value"]) if BEST in self._known else None

    @property
    def newest_curve(self) -> dict[int, dict[str, float]]:
        """The epochs behind the newest, with their metrics."""
        name = self.newest
        known = {} if name is None else self._known[name]["curve"]
        return {int(epoch): metrics for epoch, metrics in known.items()}

    def fetch(self, name: str) -> Path:
        """A folder of this machine with a checkpoint, to be read only."""
        folder = self._store.get(self._key(name))
        if folder is None:
            raise OSError(f"checkpoint {self.name(name)!r} is gone")
        return folder

    def save(
        self, name: str, report: EpochReport, value: float, curve: Mapping[int, dict[str, float]]
    ) -> None:
        """Save a report's state, whole or not at all, its epoch and value beside it.

        Raises:
            OSError: the store does not take it; what ``name`` had is still there.
        """

        def fill(folder: Path) -> None:
            report.save(folder)
            progress = {"epoch": report.epoch, "value": value, "curve": curve}
            (folder / _PROGRESS_FILE).write_text(json.dumps(progress))

        self._store.put(self._key(name), fill)

    def retry(self, *, is_last: bool = False) -> None:
        """Try again to save what could not be saved."""
        with suppress(OSError):  # which has been told
            self._store.retry(is_last=is_last)

    def set_aside(self, name: str) -> None:
        """Take a damaged one out of use: its value must not keep a good one away."""
        self._store.set_aside(self._key(name))
        del self._known[name]

    def release(self) -> None:
        """Give back the folders that ``fetch`` has returned."""
        for name in _NAMES:
            self._store.release(self._key(name))

    def name(self, name: str) -> str:
        """Where a checkpoint is or would be, for a person."""
        return self._store.name(self._key(name))

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _progress(self, name: str) -> dict[str, Any] | None:
        content = self._store.peek(self._key(name), _PROGRESS_FILE)
        try:
            values: dict[str, Any] = json.loads(content or b"null") or {}
        except ValueError:
            return None
        return values if {"epoch", "value", "curve"} <= values.keys() else None
