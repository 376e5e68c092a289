"""A warm Ray actor that hosts one trial after another. Runs in the worker process."""

from __future__ import annotations

import os
from typing import Any

from ray import tune

from tuning.hosting import Assignment, Outcome, TrialHost

OUTCOME, ERROR, OUT_OF_MEMORY = "outcome", "error", "out_of_memory"
EPOCH, METRICS, NOTE, TAGS = "epoch", "metrics", "note", "tags"


class TrialActor(tune.Trainable):
    """One slot of a sweep: keeps its process, and what is imported in it, from trial to trial."""

    def setup(self, config: dict[str, Any]) -> None:
        self._host = TrialHost(Assignment(**config), owns_process=True)
        self._is_clean = True  # no trial has left anything in this process

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._is_clean = self._is_clean and self._host.close() is None
        self._host = TrialHost(Assignment(**new_config), owns_process=True)
        return True

    def step(self) -> dict[str, Any]:
        if not self._is_clean:
            # Only a new process is: Ray starts one, and this trial in it. Not in `reset_config`,
            # where Ray would take the death of the process for the end of the trial.
            os._exit(1)
        result = self._host.step()
        if isinstance(result, Outcome):
            self._is_clean = self._host.close() is None
            return {
                "done": True,
                OUTCOME: result.state,
                ERROR: result.error,
                OUT_OF_MEMORY: result.out_of_memory,
            }
        return {
            EPOCH: result.epoch,
            METRICS: dict(result.metrics),
            NOTE: result.note,
            TAGS: dict(result.tags),
        }

    def cleanup(self) -> None:
        self._host.close()
