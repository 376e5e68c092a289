"""The file to which trainings note their times, and what follows from it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrialTimes:
    """One trial, in seconds of a clock that all processes of the machine share."""

    pid: int
    started: float  # the training function was entered; importing its libraries was done before
    stepped: float  # its first optimiser step was done
    ended: float
    point: Mapping[str, float]
    accuracy: float


@dataclass(frozen=True)
class SweepTimes:
    """The trials of one contender that ran in ``n_slots`` at once, from ``process_started`` on."""

    trials: Sequence[TrialTimes]
    n_slots: int
    process_started: float

    @property
    def startup_seconds(self) -> float:
        """From the start of the command to the end of the first training step of any trial."""
        return min(trial.stepped for trial in self.trials) - self.process_started

    @property
    def wall_seconds(self) -> float:
        """After start-up: from the end of that step to the end of the last training."""
        return max(trial.ended for trial in self.trials) - min(t.stepped for t in self.trials)

    @property
    def slot_seconds_per_trial(self) -> float:
        """What one trial takes of one slot, after start-up."""
        return self.n_slots * self.wall_seconds / len(self.trials)

    def overhead_seconds(self, pure_seconds: float) -> float:
        """Per trial and slot, beyond the ``pure_seconds`` that its training takes.

        What the slots had, less what the trainings needed, per trial that followed another one: so
        that few trials compare with many, the first of each slot being start-up.
        """
        n_followers = len(self.trials) - self.n_slots
        spent = self.n_slots * self.wall_seconds - len(self.trials) * pure_seconds
        return spent / n_followers

    @property
    def training_seconds(self) -> float:
        """Median time from the entry of a training to its end."""
        return statistics.median(trial.ended - trial.started for trial in self.trials)

    @property
    def gap_seconds(self) -> float:
        """Median time from the end of a training to the entry of the next in the same slot.

        Unlike the overhead it leaves out how far the slots' starts lie apart, what trials take from
        each other while they train, and what a new process imports while it trains.
        """
        gaps, ends = [], [0.0] * self.n_slots
        for trial in sorted(self.trials, key=lambda trial: trial.started):
            # Of the slots that are free, the one that has been so for the shortest time.
            slot = max(range(self.n_slots), key=lambda i: (ends[i] <= trial.started, ends[i]))
            if ends[slot]:
                gaps.append(trial.started - ends[slot])
            ends[slot] = trial.ended
        return statistics.median(gaps)


def read_times(path: Path) -> list[TrialTimes]:
    """What the trainings noted in ``path``."""
    return [TrialTimes(**json.loads(line)) for line in path.read_text().splitlines()]
