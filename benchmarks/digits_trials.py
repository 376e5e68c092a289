"""Runs sweeps of the small digits training: under Thaw, under what else one would use, and bare."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import ENVIRONMENT, script_command, thaw_command
from processes import Ran, run_measured
from times import SweepTimes, TrialTimes, read_times

Command = Callable[[Mapping[str, Any], int, int], list[str]]  # of (config, n_trials, n_slots)
_WARM_UP = 1  # trainings of a process that import and allocate what later ones find


@dataclass(frozen=True)
class Workload:
    """What every contender of one run trains."""

    folder: Path  # empty but for the data
    steps: int  # optimiser steps per epoch

    def config(self, times_file: Path) -> dict[str, Any]:
        return {
            "data": str(self.folder / "digits.npz"),
            "times_file": str(times_file),
            "steps": self.steps,
        }


@contextmanager
def workload(steps: int) -> Iterator[Workload]:
    """A workload in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="thaw-benchmark-") as folder:
        write_digits(Path(folder) / "digits.npz")
        yield Workload(Path(folder), steps)


def write_digits(path: Path) -> None:
    """scikit-learn's digits as the training reads them."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, targets = (digits.images / 16).astype(np.float32)[:, None], digits.target
    n_train = 1400
    np.savez(
        path,
        train_images=images[:n_train],
        train_targets=targets[:n_train],
        val_images=images[n_train:],
        val_targets=targets[n_train:],
    )


def thaw(config: Mapping[str, Any], n_trials: int, n_slots: int) -> list[str]:
    """The command of Thaw's sweep."""
    return thaw_command("digits_training.py", config, n_trials, n_slots)


def script(name: str, **told: Any) -> Command:
    """The command of a contender's sweep."""
    return lambda config, n_trials, n_slots: script_command(
        name, config=config, trials=n_trials, slots=n_slots, **told
    )


def run_sweep(
    work: Workload,
    command: Command,
    n_trials: int,
    n_slots: int,
) -> tuple[SweepTimes, Ran]:
    """Run one contender's sweep in a new folder.

    Raises:
        RuntimeError: it failed, or trained more or fewer trials than it should have.
    """
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:
        times_file = Path(folder) / "times.jsonl"
        ran = run_measured(
            command(work.config(times_file), n_trials, n_slots),
            folder=Path(folder),
            environment={**ENVIRONMENT, "THAW_CACHE": str(work.folder / "cache")},
        )
        trials = read_times(times_file)
    if len(trials) != n_trials:
        raise RuntimeError(f"{len(trials)} of {n_trials} trials noted their times")
    return SweepTimes(trials, n_slots, ran.started), ran


def pure_trials(work: Workload, n_processes: int, n_trials: int) -> list[TrialTimes]:
    """Warm trainings, one after another in each of ``n_processes`` processes side by side."""
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:

        def run(number: int) -> list[TrialTimes]:
            times_file = Path(folder) / f"{number}.jsonl"
            command = script_command(
                "pure.py", config=work.config(times_file), trials=_WARM_UP + n_trials
            )
            run_measured(command, folder=Path(folder), environment=ENVIRONMENT)
            return read_times(times_file)[_WARM_UP:]

        with ThreadPoolExecutor(n_processes) as pool:
            return [trial for trials in pool.map(run, range(n_processes)) for trial in trials]


def pure_seconds(work: Workload, n_processes: int, n_trials: int = 8) -> float:
    """The median of ``pure_trials``."""
    trials = pure_trials(work, n_processes, n_trials)
    return statistics.median(trial.ended - trial.started for trial in trials)


def starting_accuracy(trials: Iterable[TrialTimes]) -> float:
    """The accuracy of the trial at the starting point: the same whoever ran it."""
    from contenders.digits_training import SPACE

    point = dict(SPACE.starting_points[0])
    return next(trial.accuracy for trial in trials if dict(trial.point) == point)
