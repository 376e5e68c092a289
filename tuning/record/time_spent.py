"""The time that a sweep has taken, on the clock and on GPUs, added up from its record's events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_A_SITTING = ("trial_started", "trial_retried", "epoch", "packing", "trial_ended")


class Spent:
    """Seconds of all sittings. One that was killed lasted until the last event it wrote."""

    def __init__(self) -> None:
        self.wall_seconds = 0.0  # of sittings that are over
        self._gpu_seconds = 0.0  # of trials that have given their GPU back
        self._trial_seconds: dict[int, float] = {}
        self._sitting_since: float | None = None  # this and the next since the Unix epoch
        self._last_event = 0.0
        self._held: dict[int, tuple[float, float]] = {}  # trial -> since when, how many GPUs

    def gpu_seconds(self, now: float) -> float:
        """Time × GPUs held, over all trials; at ``now``, in seconds since the Unix epoch."""
        held = ((now - since) * gpus for since, gpus in self._held.values())
        return self._gpu_seconds + sum(held)

    def trial_seconds(self, trial: int, now: float) -> float:
        """How long a trial has had its slot, over all sittings; ``now`` as above."""
        since, _ = self._held.get(trial, (now, 0.0))
        return self._trial_seconds.get(trial, 0.0) + now - since

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take one more event into account."""
        kind, now = event["event"], event.get("time", self._last_event)
        if kind == "sitting_started":
            self._end_killed_sitting()
            self._sitting_since = self._last_event = now
        elif kind in _OF_A_SITTING:
            self._last_event = now
            if kind == "trial_started":
                self._release(event["trial"], now)
                self._held[event["trial"]] = (now, event.get("gpus", 0.0))
            elif kind == "trial_ended":
                self._release(event["trial"], now)
        elif kind == "sweep_ended":
            self.wall_seconds += event["wall_seconds"]
            self._sitting_since = None

    def _end_killed_sitting(self) -> None:
        if self._sitting_since is not None:
            self.wall_seconds += self._last_event - self._sitting_since
        for trial in list(self._held):
            self._release(trial, self._last_event)

    def _release(self, trial: int, now: float) -> None:
        since, gpus = self._held.pop(trial, (now, 0.0))
        self._gpu_seconds += (now - since) * gpus
        self._trial_seconds[trial] = self._trial_seconds.get(trial, 0.0) + now - since
